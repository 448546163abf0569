"""Running a stage: missing, stale and done stages, resuming, shards, truncated lines."""

import dataclasses
import random
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_srlm.config.schema import Config
from nemo_srlm.core import parts as core_parts
from nemo_srlm.core import stage as stages
from nemo_srlm.core.control import write_error
from nemo_srlm.core.files import read_records, write_records
from nemo_srlm.core.manifest import NAME
from nemo_srlm.core.parts import PartWriter, _Merge, _Part, merge_parts, repair
from nemo_srlm.core.records import Prompt
from nemo_srlm.core.stage import Ref, Stage, run_directory
from nemo_srlm.errors import ConfigError, DataError, StaleError
from nemo_srlm.report.status import row
from tests.unit import toy

SQUARED = [str(i * i) for i in range(toy.COUNT)]


def run(stage: Stage, cfg: Config, shards: tuple[int, ...] = (0,), of: int = 1, finish: bool = True) -> None:
    run_dir = run_directory(cfg)
    stages.begin(stage, cfg, 0, run_dir)
    for shard in shards:
        stage.run(stages.context(run_dir, stage, cfg, 0, shard, of))
    if finish:
        stages.finish(stage, stages.context(run_dir, stage, cfg, 0), run_dir)


def squares(cfg: Config) -> Path:
    return run_directory(cfg) / "iter0" / "squares"


def test_a_missing_input_is_an_error_that_names_it(tmp_path: Path):
    with pytest.raises(DataError, match="iter0/numbers is not done"):
        run(toy.SQUARES, toy.config(tmp_path))


def test_a_finished_stage_is_done_and_a_begun_one_partial(tmp_path: Path):
    cfg = toy.config(tmp_path)
    run_dir = run_directory(cfg)
    assert stages.state(toy.NUMBERS, cfg, 0, run_dir) == "missing"
    run(toy.NUMBERS, cfg, finish=False)
    assert stages.state(toy.NUMBERS, cfg, 0, run_dir) == "partial"
    run(toy.NUMBERS, cfg)
    assert stages.state(toy.NUMBERS, cfg, 0, run_dir) == "done"


def test_a_changed_setting_is_refused_with_the_field_and_the_way_out(tmp_path: Path):
    cfg = toy.config(tmp_path)
    run(toy.NUMBERS, cfg)
    run(toy.SQUARES, cfg)
    with pytest.raises(StaleError, match=r" judge\.temperature: 0\.7 -> 1\.0") as refused:
        stages.state(toy.SQUARES, toy.config(tmp_path, temperature=1.0), 0, run_directory(cfg))
    assert "run.name" in str(refused.value)
    assert stages.state(toy.SQUARES, toy.config(tmp_path, shards=7), 0, run_directory(cfg)) == "done"


def test_a_changed_input_makes_what_stands_on_it_stale(tmp_path: Path):
    cfg = toy.config(tmp_path)
    run(toy.NUMBERS, cfg)
    run(toy.SQUARES, cfg)
    newer = dataclasses.replace(toy.NUMBERS, version=2)
    (run_directory(cfg) / "iter0" / "numbers" / NAME).unlink()
    (run_directory(cfg) / "iter0" / "numbers" / "plan.json").unlink()
    run(newer, cfg)
    with pytest.raises(StaleError, match=r"inputs\.numbers"):
        stages.state(toy.SQUARES, cfg, 0, run_directory(cfg))


def test_the_manifest_lists_outputs_and_not_bookkeeping(tmp_path: Path):
    cfg = toy.config(tmp_path)
    run(toy.NUMBERS, cfg)
    run(toy.SQUARES, cfg)
    manifest = stages.manifest.read(squares(cfg))
    assert manifest is not None
    assert set(manifest.outputs) == {"squares.jsonl", "plan.json"}
    assert manifest.metrics == {"count": toy.COUNT}


def test_a_finished_stage_keeps_no_file_that_a_killed_writer_left(tmp_path: Path):
    cfg = toy.config(tmp_path)
    run(toy.NUMBERS, cfg, finish=False)
    (run_directory(cfg) / "iter0/numbers/.numbers.jsonl.77.tmp").write_text("half a")
    run(toy.NUMBERS, cfg)
    assert {path.name for path in (run_directory(cfg) / "iter0/numbers").iterdir() if path.name[0] == "."} == set()


def test_a_finished_stage_of_another_run_is_linked_only_when_it_is_the_same(tmp_path: Path):
    one = toy.config(tmp_path)
    run(toy.NUMBERS, one)
    two = toy.config(tmp_path)
    two.run.name, two.run.reuse = "two", str(run_directory(one))
    assert stages.ready(toy.NUMBERS, two, 0, run_directory(two))
    assert (run_directory(two) / "iter0" / "numbers").is_symlink()
    three = toy.config(tmp_path)
    three.run.name, three.run.reuse, three.seed.language = "three", str(run_directory(one)), "de"
    assert not stages.ready(toy.NUMBERS, three, 0, run_directory(three))


def test_a_stage_that_failed_before_it_began_is_linked_all_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Such an attempt leaves the reason in logs/error; it was made anew then, although the other run had it."""
    one, two = toy.config(tmp_path), toy.config(tmp_path)
    run(toy.NUMBERS, one)
    two.run.name, two.run.reuse = "two", str(run_directory(one))
    here = run_directory(two) / "iter0/numbers"
    write_error(here, "no space left on device")
    assert stages.ready(toy.NUMBERS, two, 0, run_directory(two))
    assert here.is_symlink()
    here.unlink()
    (here / "parts").mkdir(parents=True)
    assert not stages.ready(toy.NUMBERS, two, 0, run_directory(two))
    assert "was begun already (parts)" in capsys.readouterr().err


def test_what_the_other_run_makes_anew_behind_a_link_is_its_own(tmp_path: Path):
    """Both runs would write into one directory, each under its own lock."""
    one, two = toy.config(tmp_path), toy.config(tmp_path)
    run(toy.NUMBERS, one)
    two.run.name, two.run.reuse = "two", str(run_directory(one))
    here, there = (run_directory(cfg) / "iter0/numbers" for cfg in (two, one))
    assert stages.ready(toy.NUMBERS, two, 0, run_directory(two))
    shutil.rmtree(there)
    run(toy.NUMBERS, one, finish=False)
    assert stages.state(toy.NUMBERS, two, 0, run_directory(two)) == "missing"
    look = SimpleNamespace(dir=run_directory(two), manifest=lambda ref: None)
    assert row(look, Ref("numbers", 0)).state == "waiting"  # type: ignore[arg-type]
    assert not stages.ready(toy.NUMBERS, two, 0, run_directory(two))
    run(toy.NUMBERS, two)
    assert not here.is_symlink()
    assert stages.state(toy.NUMBERS, one, 0, run_directory(one)) == "partial"


def test_a_run_to_reuse_that_is_not_where_a_job_looks_for_it_is_no_reason_to_make_everything_anew(tmp_path: Path):
    two = toy.config(tmp_path)
    two.run.name, two.run.reuse = "two", "runs/nowhere"  # a path relative to another directory
    with pytest.raises(ConfigError, match=r"run\.reuse: runs/nowhere is no directory here"):
        stages.ready(toy.NUMBERS, two, 0, run_directory(two))


def test_a_derived_stage_of_another_run_is_not_linked(tmp_path: Path):
    """The report of a run whose stages are all linked is made anew: it writes report.html into the run's directory."""
    one, two, derived = toy.config(tmp_path), toy.config(tmp_path), dataclasses.replace(toy.SQUARES, derived=True)
    run(toy.NUMBERS, one)
    run(derived, one)
    two.run.name, two.run.reuse = "two", str(run_directory(one))
    assert stages.ready(toy.NUMBERS, two, 0, run_directory(two))
    assert not stages.ready(derived, two, 0, run_directory(two))
    run(derived, two)
    assert not squares(two).is_symlink()
    assert stages.ready(derived, two, 0, run_directory(two))


def test_a_derived_stage_that_is_a_link_is_made_anew_without_touching_the_other_run(tmp_path: Path):
    one, two = toy.config(tmp_path), toy.config(tmp_path, temperature=1.0)
    derived = dataclasses.replace(toy.SQUARES, derived=True)
    run(toy.NUMBERS, one)
    run(derived, one)
    two.run.name = "two"
    run(toy.NUMBERS, two)
    squares(two).symlink_to(squares(one).resolve())
    run(derived, two)
    assert not squares(two).is_symlink()
    assert stages.state(derived, one, 0, run_directory(one)) == "done"


@settings(max_examples=40, deadline=None)
@given(
    attempts=st.lists(st.integers(1, 5).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n - 1))), max_size=4),
    torn=st.binary(max_size=20).filter(lambda b: b"\n" not in b),
    last=st.integers(1, 4),
)
def test_any_sharding_any_order_and_a_torn_line_give_the_same_records(
    tmp_path_factory: pytest.TempPathFactory, attempts: list[tuple[int, int]], torn: bytes, last: int
):
    cfg = toy.config(tmp_path_factory.mktemp("run"))
    run(toy.NUMBERS, cfg)
    for of, shard in attempts:
        run(toy.SQUARES, cfg, (shard,), of, finish=False)
        part = squares(cfg) / "parts" / f"{shard:05d}-of-{of:05d}.jsonl"
        with part.open("ab") as f:
            f.write(torn)
    run(toy.SQUARES, cfg, tuple(range(last)), last)
    assert toy.texts(squares(cfg) / "squares.jsonl") == SQUARED


def test_a_merge_refuses_a_missing_item_and_says_which(tmp_path: Path):
    cfg = toy.config(tmp_path)
    run(toy.NUMBERS, cfg)
    with pytest.raises(DataError, match=r"5 of 10 items are missing, the first: .*n1"):
        run(toy.SQUARES, cfg, (0,), 2)
    assert not (squares(cfg) / "squares.jsonl").exists()
    assert not (squares(cfg) / NAME).exists()


def test_of_two_records_with_one_id_the_first_wins(tmp_path: Path):
    cfg = toy.config(tmp_path)
    run(toy.NUMBERS, cfg)
    for shard in (0, 1):
        writer = PartWriter(stages.context(run_directory(cfg), toy.SQUARES, cfg, 0, shard, 2))
        writer.append(Prompt("n0", f"from {shard}"))
        writer.close()
    ctx = stages.context(run_directory(cfg), toy.SQUARES, cfg, 0)
    assert merge_parts(ctx, Prompt, ["n0"], "out.jsonl") == 1
    assert toy.texts(ctx.dir / "out.jsonl") == ["from 0"]


@pytest.mark.parametrize("hold", [0, 1 << 24])
def test_a_merge_reads_parts_side_by_side_and_holds_only_what_came_before_its_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hold: int
):
    """Two attempts with different numbers of shards; items finish out of order by up to the engine's capacity."""
    monkeypatch.setattr(core_parts, "HOLD", hold)  # 0: every line that is not yet due is read again
    number, capacity, rng = 6000, 50, random.Random(0)
    shards = [[i for i in range(2000) if i % 2 == k] for k in range(2)]  # the first attempt finished 2,000 items
    shards += [[i for i in range(2000, number) if i % 3 == k] for k in range(3)]
    parts = []
    for k, items in enumerate(shards):
        order = sorted(items, key=lambda i: i + rng.randrange(capacity))
        path = tmp_path / f"{k}.jsonl"
        path.write_text("".join(f'{{"id":"i{i}","text":"{i}"}}\n' for i in order) + '{"id":"torn', encoding="utf-8")
        parts.append(_Part(path, path.open("rb")))
    merge, most = _Merge(parts), 0
    for i in range(number):
        assert merge.take(f"i{i}") == b'{"id":"i%d","text":"%d"}\n' % (i, i)
        most = max(most, len(merge._waiting))
    assert merge.take("torn") is None
    assert most < len(shards) * capacity
    for part in parts:
        part.file.close()


def test_a_line_of_a_part_that_is_no_record_is_named(tmp_path: Path):
    cfg = toy.config(tmp_path)
    run(toy.NUMBERS, cfg)
    run(toy.SQUARES, cfg, (0,), 2, finish=False)
    part = next((squares(cfg) / "parts").iterdir())
    part.write_bytes(part.read_bytes() + b"\0\0\0\n")
    with pytest.raises(DataError, match=r"00000-of-00002\.jsonl:6.*remove the line"):
        run(toy.SQUARES, cfg, (1,), 2)


@pytest.mark.parametrize("size", [0, 1, 70_000])
def test_repair_drops_a_torn_line_of_any_length_and_nothing_else(tmp_path: Path, size: int):
    path = tmp_path / "part.jsonl"
    path.write_bytes(b'{"a":1}\n{"b":2}\n' + b"x" * size)
    repair(path)
    assert path.read_bytes() == b'{"a":1}\n{"b":2}\n'


def test_a_broken_line_is_reported_with_file_and_number(tmp_path: Path):
    path = tmp_path / "prompts.jsonl"
    write_records(path, [Prompt("a", "x")])
    with path.open("a") as f:
        f.write("{oops\n")
    with pytest.raises(DataError, match=r"prompts\.jsonl:2"):
        list(read_records(path, Prompt))


def test_a_derived_stage_of_changed_inputs_is_made_anew_and_never_stale(tmp_path: Path):
    """For example the report, when an evaluation is added to a finished run."""
    cfg, derived = toy.config(tmp_path), dataclasses.replace(toy.SQUARES, derived=True)
    run(toy.NUMBERS, cfg)
    run(derived, cfg)
    changed, run_dir = toy.config(tmp_path, temperature=1.0), run_directory(cfg)
    assert stages.state(derived, cfg, 0, run_dir) == "done"
    assert stages.state(derived, changed, 0, run_dir) == "missing"
    stages.begin(derived, changed, 0, run_dir)
    assert not (squares(cfg) / NAME).exists()  # from here on the stage counts as unfinished
    assert stages.state(derived, changed, 0, run_dir) == "partial"
    run(derived, changed)
    assert stages.state(derived, changed, 0, run_dir) == "done"

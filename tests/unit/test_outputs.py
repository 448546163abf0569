"""Outputs of finished stages: looked at, digests compared by whoever reads them, lost ones named and made again."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from nemo_srlm import cli
from nemo_srlm.config.compose import load_resolved_config, save_resolved_config
from nemo_srlm.core import files, manifest, outputs
from nemo_srlm.core import stage as stages
from nemo_srlm.core.stage import Ref, run_directory
from nemo_srlm.errors import DataError, LostError, StaleError
from nemo_srlm.launch import plan, redo, verify
from nemo_srlm.launch.lock import locked
from nemo_srlm.launch.plan import lost_stages, remaining
from nemo_srlm.launch.slurm import jobs
from nemo_srlm.launch.slurm import submit as submission
from nemo_srlm.report import status
from nemo_srlm.report.collect import collect
from nemo_srlm.report.render import html
from nemo_srlm.report.text import markdown
from nemo_srlm.report.write import read_runs
from tests.synthetic_run import build
from tests.unit import toy
from tests.unit.test_stage_and_store import run, squares


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def made(built: Path, tmp_path: Path) -> Path:
    """A finished run of the tiny world, with invented content."""
    shutil.copytree(built, tmp_path / built.name)
    return tmp_path / built.name


def shorten(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def same_size(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


DAMAGE: list[tuple[Callable[[Path], None], str]] = [
    (Path.unlink, "pairs.jsonl is missing"), (shorten, "pairs.jsonl has .* bytes, not"), (directory, "pairs.jsonl is missing"),
    (pipe, "pairs.jsonl is missing"),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "said"), DAMAGE)
def test_lost_outputs_are_named_by_plan_status_and_report_with_the_way_to_redo_them(
    made: Path, damage: Callable[[Path], None], said: str
):
    cfg = load_resolved_config(made)
    assert lost_stages(cfg, made) == {}
    damage(made / "iter1/pairs/pairs.jsonl")
    with pytest.raises(LostError, match=rf"iter1/pairs: {said}") as refused:
        remaining(cfg, made)
    assert f"nemo-srlm redo iter1/pairs {made}" in str(refused.value)
    states = {row.stage: row for row in status.rows(status.Look(made))}
    assert states["iter1/pairs"].state == "lost"
    assert f"nemo-srlm redo iter1/pairs {made}" in states["iter1/pairs"].words
    assert [name for name, row in states.items() if row.state == "lost"] == ["iter1/pairs"]
    assert collect(made)["state"]["lost"][0]["stage"] == "iter1/pairs"


def test_the_report_shows_lost_outputs(made: Path):
    (made / "iter1/pairs/pairs.jsonl").unlink()
    runs = read_runs([made])
    assert "iter1/pairs" in markdown(runs)
    assert "nemo-srlm redo iter1/pairs" in html(runs)


def test_every_stage_that_has_lost_something_is_in_one_message(made: Path):
    for stage in ("iter1/pairs/pairs.jsonl", "iter2/judge/judgements.jsonl"):
        (made / stage).unlink()
    with pytest.raises(LostError, match=r"redo iter1/pairs iter2/judge"):
        remaining(load_resolved_config(made), made)


def test_run_and_submit_refuse_with_exit_code_2_and_say_how_to_redo(made: Path, capsys: pytest.CaptureFixture[str]):
    (made / "iter1/pairs/pairs.jsonl").unlink()
    words = [f"run.root={made.parent}", f"run.name={made.name}"]
    for verb in ("run", "submit"):
        assert cli.main([verb, *words]) == 2
        said = capsys.readouterr().err
        assert "iter1/pairs: pairs.jsonl is missing" in said or "Slurm" in said


def test_looking_reads_no_output(made: Path, monkeypatch: pytest.MonkeyPatch):
    """Of a run with weights of 140 GB a stage: status reads manifests and asks for sizes."""

    def read(path: Path) -> str:
        raise AssertionError(path)

    for module in (files, outputs):
        monkeypatch.setattr(module, "file_digest", read)
    cfg = load_resolved_config(made)
    assert "lost" not in {row.state for row in status.rows(status.Look(made))}
    assert lost_stages(cfg, made) == {}


def test_a_finished_stage_asked_alone_is_not_done_when_its_output_is_lost(tmp_path: Path):
    cfg = toy.config(tmp_path)
    run(toy.NUMBERS, cfg)
    (run_directory(cfg) / "iter0/numbers/numbers.jsonl").unlink()
    with pytest.raises(LostError, match=r"iter0/numbers: numbers\.jsonl is missing"):
        stages.state(toy.NUMBERS, cfg, 0, run_directory(cfg))


def test_digests_are_compared_before_another_stage_reads(tmp_path: Path):
    cfg = toy.config(tmp_path)
    run(toy.NUMBERS, cfg)
    same_size(run_directory(cfg) / "iter0/numbers/numbers.jsonl")
    assert stages.state(toy.NUMBERS, cfg, 0, run_directory(cfg)) == "done"  # its size is as recorded
    with pytest.raises(LostError, match=r"iter0/numbers: numbers\.jsonl has another content"):
        run(toy.SQUARES, cfg)
    assert not squares(cfg).exists()


@pytest.mark.parametrize("weights", [False, True])
def test_weights_have_a_digest_when_the_setting_asks_for_it(
    tmp_path: Path, weights: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(outputs, "DIGEST_LIMIT", 100)  # numbers.jsonl is larger
    cfg = toy.config(tmp_path)
    cfg.run.digest_weights = weights
    run(toy.NUMBERS, cfg)
    same_size(run_directory(cfg) / "iter0/numbers/numbers.jsonl")
    assert bool(stages.changed_outputs(run_directory(cfg), Ref("numbers", 0), digests=True)) == weights


def test_what_a_killed_writer_left_is_no_output(tmp_path: Path):
    for name in (
        ".pairs.jsonl.77.tmp",
        "checkpoint/.tmp-step_00000002-1-2/__0_0.distcp",
        "checkpoint/final/.metadata",
        "a.json",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    assert set(outputs.describe(tmp_path, manifest.NAME)) == {"checkpoint/final/.metadata", "a.json"}


def test_the_card_of_an_export_is_no_output_and_may_change(tmp_path: Path):
    card = tmp_path / "hf" / "README.md"
    card.parent.mkdir()
    card.write_text("before", encoding="utf-8")
    assert outputs.describe(tmp_path, manifest.NAME) == {}
    assert (
        outputs.changes(tmp_path, {"hf/README.md": outputs.Output(3, "0" * 64)}, digests=True) == []
    )  # an old manifest's


@pytest.mark.parametrize("recorded", ["absent", "no sizes"])
def test_a_manifest_without_sizes_and_digests_is_accepted_and_said_to_record_none(
    made: Path, recorded: str, capsys: pytest.CaptureFixture[str]
):
    path = made / "iter1/pairs" / manifest.NAME
    data = json.loads(path.read_text())
    data["outputs"] = {name: {} for name in data["outputs"]}
    if recorded == "absent":
        del data["outputs"]
    path.write_text(json.dumps({**data, "digest": ""}))  # as of an earlier version
    assert lost_stages(load_resolved_config(made), made) == {}
    assert verify.verify(made) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("iter1/pairs"))
    assert "recorded" in row
    assert "not recorded" in row or "no digest recorded" in row
    collect(made)  # the report counts its bytes as none


@pytest.mark.parametrize("content", ["[]", '{"stage": "pairs"}', '{"stage": 1}'])
def test_a_manifest_that_is_none_is_an_error_with_its_path(made: Path, content: str):
    (made / "iter1/pairs" / manifest.NAME).write_text(content)
    with pytest.raises(DataError, match=r"iter1/pairs/manifest\.json"):
        manifest.read(made / "iter1/pairs")


def test_verify_reads_everything_and_names_a_changed_content(made: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["verify", str(made)]) == 0
    same_size(made / "iter2/judge/judgements.jsonl")
    assert cli.main(["verify", str(made)]) == 2
    said = capsys.readouterr()
    assert "judgements.jsonl has another content" in said.out
    assert f"nemo-srlm redo iter2/judge {made}" in said.err


def test_verify_takes_the_digests_of_an_export_from_its_card(tmp_path: Path):
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf/model.safetensors").write_bytes(b"weights")
    card = {"round_trip": {"files": {"model.safetensors": {"bytes": 7, "sha256": "0" * 64}}}}
    (tmp_path / "hf.verification.json").write_text(json.dumps(card))
    done = manifest.Manifest("export", 0, "", {}, {}, {}, {"hf/model.safetensors": outputs.Output(7)})
    found = outputs.changes(tmp_path, verify.recorded(tmp_path, done), digests=True)
    assert found == ["hf/model.safetensors has another content"]


def test_submit_redoes_what_a_purge_has_taken_when_it_is_told_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What `submit` would submit, without a Slurm: nothing before, the lost stage and what depends on it after."""
    toys = {"numbers": toy.NUMBERS, "squares": toy.SQUARES}
    for module in (plan, redo, jobs):
        monkeypatch.setattr(module, "load", lambda name: toys[name])
    for module in (plan, redo):
        monkeypatch.setattr(module, "pipeline", lambda cfg: [Ref("numbers", 0), Ref("squares", 0)])
    cfg = toy.config(tmp_path)
    cfg.world.enabled = True
    run_dir = run_directory(cfg)
    save_resolved_config(cfg, run_dir)
    run(toy.NUMBERS, cfg)
    run(toy.SQUARES, cfg)
    assert submission.plan(cfg, run_dir, []) == []
    (run_dir / "iter0/numbers/numbers.jsonl").unlink()
    with pytest.raises(LostError, match=r"redo iter0/numbers"):
        submission.plan(cfg, run_dir, [])
    redo.redo_lost(cfg)
    missing = {ref for job in submission.plan(cfg, run_dir, []) for ref in job.refs}
    assert missing == {Ref("numbers", 0), Ref("squares", 0)}


# --- redo ---------------------------------------------------------------------------------------------------------------


def existing(run_dir: Path) -> set[str]:
    return {str(path.relative_to(run_dir)) for path in run_dir.glob("iter*/*")}


def test_redo_removes_the_stage_and_what_depends_on_it_after_showing_the_list(
    made: Path, capsys: pytest.CaptureFixture[str]
):
    before = existing(made)
    assert cli.main(["redo", "iter2/pairs", str(made), "--yes"]) == 0
    shown = capsys.readouterr().out
    gone = before - existing(made)
    assert {"iter2/pairs", "iter2/dpo", "iter2/export", "iter2/eval_responses"} <= gone
    assert gone & {"iter2/judge", "iter2/candidates", "iter1/export", "iter1/eval_responses", "iter0/seed"} == set()
    assert all(name in shown for name in gone)


@pytest.mark.parametrize(("answer", "code"), [("n\n", 1), ("y\n", 0), ("", 2)])
def test_redo_asks_and_removes_nothing_without_a_yes(
    made: Path, answer: str, code: int, monkeypatch: pytest.MonkeyPatch
):
    import io

    before = existing(made)
    monkeypatch.setattr("sys.stdin", io.StringIO(answer))
    assert cli.main(["redo", "iter2/pairs", str(made)]) == code
    assert (existing(made) == before) == (code != 0)


def test_redo_only_keeps_what_depends_on_it(made: Path):
    before = existing(made)
    assert redo.redo(made, [Ref("export", 1)], only=True, yes=True)
    assert before - existing(made) == {"iter1/export"}


def test_redo_lost_finds_them(made: Path):
    (made / "iter2/pairs/pairs.jsonl").unlink()
    assert cli.main(["redo", "--lost", "--yes", str(made)]) == 0
    assert not (made / "iter2/dpo").exists()
    assert (made / "iter2/judge").exists()
    assert lost_stages(load_resolved_config(made), made) == {}


def test_redo_removes_the_link_and_never_the_other_runs_stage(made: Path, tmp_path: Path):
    other = tmp_path / "other"
    shutil.move(made / "iter0/world", other)
    (made / "iter0/world").symlink_to(other)
    assert redo.redo(made, [Ref("world", 0)], yes=True)
    assert not (made / "iter0/world").is_symlink()
    assert list(other.iterdir())


@pytest.mark.parametrize(
    "words", [["iter9/pairs"], ["pairs"], [], ["iter1/nothing"], ["iter1/pairs", "/absent", "--yes"]]
)
def test_what_redo_cannot_do_is_refused_and_nothing_is_removed(
    made: Path, words: list[str], monkeypatch: pytest.MonkeyPatch
):
    before = existing(made)
    monkeypatch.setattr(cli, "latest_run", lambda: made)
    assert cli.main(["redo", *words]) == 2
    assert existing(made) == before


def test_redo_is_refused_while_the_run_is_executed(made: Path):
    with locked(made):
        assert cli.main(["redo", "iter2/pairs", str(made), "--yes"]) == 2
    assert (made / "iter2/pairs").exists()


def test_a_removed_stage_of_another_run_is_made_here(tmp_path: Path):
    """A link of run.reuse whose target was removed there; and lost outputs are not linked."""
    one, two = toy.config(tmp_path), toy.config(tmp_path)
    run(toy.NUMBERS, one)
    two.run.name, two.run.reuse = "two", str(run_directory(one))
    there, here = (run_directory(cfg) / "iter0/numbers" for cfg in (one, two))
    assert stages.ready(toy.NUMBERS, two, 0, run_directory(two))
    (there / "numbers.jsonl").unlink()
    with pytest.raises(LostError):
        stages.ready(toy.NUMBERS, two, 0, run_directory(two))
    here.unlink()
    assert not stages.ready(toy.NUMBERS, two, 0, run_directory(two))
    here.symlink_to(there)
    shutil.rmtree(there)
    assert not stages.ready(toy.NUMBERS, two, 0, run_directory(two))
    run(toy.NUMBERS, two)
    assert not here.is_symlink()


def test_a_derived_stage_with_lost_files_is_made_anew(tmp_path: Path):
    import dataclasses

    cfg, derived = toy.config(tmp_path), dataclasses.replace(toy.SQUARES, derived=True)
    run(toy.NUMBERS, cfg)
    run(derived, cfg)
    (squares(cfg) / "squares.jsonl").unlink()
    assert stages.state(derived, cfg, 0, run_directory(cfg)) == "missing"
    run(derived, cfg)
    assert stages.state(derived, cfg, 0, run_directory(cfg)) == "done"


def test_a_stale_stage_is_redone_by_the_same_verb(tmp_path: Path):
    cfg = toy.config(tmp_path)
    run(toy.NUMBERS, cfg)
    run(toy.SQUARES, cfg)
    with pytest.raises(StaleError, match=r"nemo-srlm redo iter0/squares"):
        stages.state(toy.SQUARES, toy.config(tmp_path, temperature=1.0), 0, run_directory(cfg))

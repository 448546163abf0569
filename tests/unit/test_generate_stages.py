"""Candidates and judgements on a fake engine: the same records for any number of shards, kills and order of completions."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_srlm.config.compose import compose
from nemo_srlm.core.files import read_records
from nemo_srlm.core.records import Candidate
from nemo_srlm.core.stage import Stage
from nemo_srlm.errors import ConfigError, DataError
from nemo_srlm.generate.requests import Failure
from nemo_srlm.stages import candidates, eval_responses, judge
from nemo_srlm.stages.common.generating import note_usage, usage_metrics
from tests.unit.generation_stages import config, context, judges, lines, responds, run, use, write_prompts


@pytest.mark.parametrize("num_shards", [1, 2, 5, 9])
def test_candidates_do_not_depend_on_the_number_of_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_shards: int
) -> None:
    write_prompts(tmp_path)
    use(monkeypatch, responds)
    for shard in range(num_shards):
        candidates.STAGE.run(context(config(), tmp_path, "out", shard, num_shards))
    metrics = candidates.STAGE.finalize(ctx := context(config(), tmp_path, "out"))
    run(candidates.STAGE, one := context(config(), tmp_path, "one"))
    assert lines(ctx.dir / "candidates.jsonl") == lines(one.dir / "candidates.jsonl")
    made = list(read_records(ctx.dir / "candidates.jsonl", Candidate))
    assert [(c.prompt_id, c.index) for c in made] == [(f"p{i}", k) for i in range(6) for k in range(4)]
    assert len({c.text for c in made}) == 24
    assert metrics["responses"] == 24


def test_candidates_are_the_same_after_kills_and_another_sharding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_prompts(tmp_path, 9)
    use(monkeypatch, responds)
    run(candidates.STAGE, one := context(config(), tmp_path, "one"))
    use(monkeypatch, responds, stop_after=2)
    with pytest.raises(KeyboardInterrupt):
        candidates.STAGE.run(context(config(), tmp_path, "out"))
    part = next((tmp_path / "out" / "parts").iterdir())
    part.write_bytes(part.read_bytes()[:-30])  # the line of the last of a prompt's four candidates is truncated
    engine = use(monkeypatch, responds)
    for shard in range(3):
        candidates.STAGE.run(context(config(), tmp_path, "out", shard, 3))
    assert len(engine.requests) == 8  # one prompt was complete
    candidates.STAGE.finalize(ctx := context(config(), tmp_path, "out"))
    assert lines(ctx.dir / "candidates.jsonl") == lines(one.dir / "candidates.jsonl")


@settings(max_examples=12, deadline=None)
@given(
    attempts=st.lists(
        st.tuples(st.integers(1, 4), st.integers(0, 3), st.integers(0, 12), st.integers(0, 60)), max_size=5
    ),
    last=st.integers(1, 5),
)
def test_any_sharding_kill_and_order_give_the_same_candidates_and_judgements(
    tmp_path_factory: pytest.TempPathFactory, attempts: list[tuple[int, int, int, int]], last: int
) -> None:
    """Random attempts: a shard of a number of shards, killed after some outcomes, with its last line truncated."""
    root = tmp_path_factory.mktemp("run")
    write_prompts(root, 7)
    with pytest.MonkeyPatch.context() as patch:
        found: dict[str, list[list[str]]] = {}
        for name, stage, answer in (("candidates", candidates.STAGE, responds), ("judge", judge.STAGE, judges)):
            use(patch, answer)
            stage.run(whole := context(config(), root, f"{name}_whole"))
            stage.finalize(whole)
            for num, shard, stop_after, torn in attempts:
                use(patch, answer, stop_after)
                killed = context(config(), root, name, shard % num, num)
                with contextlib.suppress(KeyboardInterrupt):
                    stage.run(killed)
                part = killed.dir / "parts" / f"{shard % num:05d}-of-{num:05d}.jsonl"
                if part.exists():
                    part.write_bytes(part.read_bytes()[:-torn] if torn else part.read_bytes())
            use(patch, answer)
            for shard in range(last):
                stage.run(context(config(), root, name, shard, last))
            stage.finalize(context(config(), root, name))
            output = "candidates.jsonl" if name == "candidates" else "judgements.jsonl"
            found[name] = [lines(directory / output) for directory in (root / name, whole.dir)]
    for records, expected in found.values():
        assert records == expected
        assert records


def test_a_missing_candidate_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_prompts(tmp_path)
    use(monkeypatch, responds)
    candidates.STAGE.run(context(config(), tmp_path, "out", 0, 2))
    with pytest.raises(DataError, match="12 of 24 items are missing"):
        candidates.STAGE.finalize(context(config(), tmp_path, "out"))


def test_a_prompt_that_the_engine_cannot_answer_is_recorded_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_prompts(tmp_path)
    use(monkeypatch, lambda text, seed: Failure("too_long: 9 > 8") if "3" in text else responds(text, seed))
    metrics = run(candidates.STAGE, ctx := context(config(), tmp_path, "out"))
    failed = [c for c in read_records(ctx.dir / "candidates.jsonl", Candidate) if c.error]
    assert {(c.prompt_id, c.text, c.finish_reason) for c in failed} == {("p3", "", "error")}
    assert metrics["errors"] == {"too_long": 4}
    assert metrics["responses"] == 20


def test_a_set_without_one_response_ends_the_run_with_the_engines_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_prompts(tmp_path)
    use(monkeypatch, lambda text, seed: Failure("too_long: 9 > 8"))
    with pytest.raises(
        DataError, match=r"not one response could be made \(\{'too_long': 24\}\); the first: too_long: 9 > 8"
    ):
        run(candidates.STAGE, context(config(), tmp_path, "out"))


@pytest.mark.parametrize(("key", "stage"), [("candidates", candidates.STAGE), ("eval", eval_responses.STAGE)])
def test_responses_that_leave_a_prompt_no_position_are_refused_before_the_run(key: str, stage: Stage) -> None:
    cfg = config()
    cfg.model.max_length = getattr(cfg, key).max_tokens + 1
    stage.check(cfg)
    cfg.model.max_length -= 1
    with pytest.raises(ConfigError, match=rf"{key}\.max_tokens: \d+; expected less than \d+, the positions"):
        stage.check(cfg)
    cfg.model.max_length *= 4
    cfg.generate.max_model_len = 64
    with pytest.raises(ConfigError, match="less than 64"):
        stage.check(cfg)


@pytest.mark.parametrize("key", ["candidates.num", "judge.draws", "eval.samples"])
def test_more_draws_than_seeds_lie_apart_are_refused(key: str) -> None:
    compose("tiny", [f"{key}=64"])
    with pytest.raises(ConfigError, match=f"{key}: 65; expected [12] to 64"):
        compose("tiny", [f"{key}=65"])


def test_every_model_answers_the_held_out_prompts_with_the_same_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = use(monkeypatch, responds)
    run(eval_responses.STAGE, context(config(), tmp_path, "one", iteration=1))
    second = use(monkeypatch, responds)
    run(eval_responses.BASELINE, ctx := context(config(), tmp_path, "two", iteration=0))
    assert {(r.text, r.seed) for r in first.requests} == {(r.text, r.seed) for r in second.requests}
    assert len(list(read_records(ctx.dir / "responses.jsonl", Candidate))) == 5


def test_a_line_of_usage_that_a_full_disk_cut_short_stops_no_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The items are all there then, so no attempt would write another line."""
    write_prompts(tmp_path)
    engine = use(monkeypatch, responds)
    candidates.STAGE.run(ctx := context(config(), tmp_path, "out"))
    log = ctx.dir / "logs" / "usage-00000.jsonl"
    with log.open("a") as file:
        file.write('{"items": 6, "tok')
    assert usage_metrics(ctx)["items"] == 6
    assert candidates.STAGE.finalize(ctx)["responses"] == 24
    note_usage(ctx, engine, 3, 0, 1.0)
    assert usage_metrics(ctx)["items"] == 9

"""The stage prompts on a fake engine: rounds, filters and resuming."""

from pathlib import Path

import pytest

from nemo_srlm.core.files import read_records
from nemo_srlm.core.records import Prompt, SftExample
from nemo_srlm.data import prompt_pool
from nemo_srlm.errors import DataError
from nemo_srlm.stages import prompts
from tests.unit.generation_stages import config, context, lines, run, sentence, use


def writes(text: str, seed: int) -> str:
    return f" {sentence(seed)}\n###\nTask 10: another"


def test_prompts_stop_at_the_wanted_number_and_count_the_rest_by_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, lambda text, seed: writes(text, seed) if seed % 3 else " Draw a map of it all ###")
    metrics = run(prompts.STAGE, ctx := context(config(), tmp_path, "out"))
    made = list(read_records(ctx.dir / "prompts.jsonl", Prompt))
    assert len(made) == len({p.text for p in made}) == metrics["accepted"] == 40
    assert all(p.text.startswith("Name ") and "###" not in p.text and len(p.demonstrations) == 8 for p in made)
    rejected = metrics["rejected"]
    assert isinstance(rejected, dict)
    assert rejected["keyword"] > 0
    assert sum(rejected.values()) + 40 == metrics["attempts"]


def test_prompts_are_the_same_after_any_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, writes)
    run(prompts.STAGE, whole := context(config(), tmp_path, "whole"))
    ctx = context(config(), tmp_path, "killed")
    for attempt in range(100):
        use(monkeypatch, writes, stop_after=1 + attempt % 7)
        try:
            prompts.STAGE.run(ctx)
            break
        except KeyboardInterrupt:
            part = next((ctx.dir / "parts").iterdir())
            with part.open("a") as f:
                f.write('{"id": "000000')  # a kill in the middle of a line leaves this
    prompts.STAGE.finalize(ctx)
    assert lines(ctx.dir / "prompts.jsonl") == lines(whole.dir / "prompts.jsonl")


def test_generated_prompts_are_shown_in_later_rounds_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, writes)
    run(prompts.STAGE, ctx := context(config(), tmp_path, "out"))
    seeds = {e.prompt for e in read_records(tmp_path / "seed" / "ift.jsonl", SftExample)}
    attempts = list(read_records(next((ctx.dir / "parts").iterdir()), prompt_pool.Attempt))
    generated = {a.index: sum(text not in seeds for text in a.demonstrations) for a in attempts}
    assert {generated[i] for i in range(24)} == {0}
    assert {generated[i] for i in generated if i >= 24} == {2}


def test_a_later_iteration_writes_other_prompts_and_none_near_to_an_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, writes)
    run(prompts.STAGE, first := context(config(), tmp_path, "prompts"))
    run(prompts.STAGE, second := context(config(), tmp_path, "second", iteration=2))
    one = {p.text for p in read_records(first.dir / "prompts.jsonl", Prompt)}
    two = {p.text for p in read_records(second.dir / "prompts.jsonl", Prompt)}
    assert not one & two
    use(monkeypatch, lambda text, seed: f" {sorted(one)[seed % 40]} ###")  # it repeats iteration 1
    with pytest.raises(DataError, match="duplicate"):
        prompts.STAGE.run(context(config(), tmp_path, "third", iteration=2))


def test_too_few_prompts_is_an_error_that_says_why_and_more_attempts_go_on_from_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = config()
    cfg.prompts.max_attempts = 30
    use(monkeypatch, lambda text, seed: writes(text, seed) if seed % 128 else " ###")
    ctx = context(cfg, tmp_path, "out")
    with pytest.raises(DataError, match=r"accepted of \d+ attempts \(.*empty") as error:
        prompts.STAGE.run(ctx)
    assert "prompts.max_attempts" in str(error.value)
    before = sum(len(lines(p)) for p in (ctx.dir / "parts").iterdir())
    cfg.prompts.max_attempts = 0
    engine = use(monkeypatch, lambda text, seed: writes(text, seed) if seed % 128 else " ###")
    metrics = run(prompts.STAGE, ctx)
    assert metrics["attempts"] == before + len(engine.requests)


def test_held_out_prompts_are_never_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held_out = [sentence(2 * 10**6 + i) for i in range(5)]
    use(monkeypatch, lambda text, seed: f" {held_out[seed // 64 % 5]}" if seed // 64 % 2 else writes(text, seed))
    run(prompts.STAGE, ctx := context(config(), tmp_path, "out"))
    assert not {p.text for p in read_records(ctx.dir / "prompts.jsonl", Prompt)} & set(held_out)

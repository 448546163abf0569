"""The stage prompts on a fake engine: rounds, filters and resuming."""

from collections import Counter
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
    assert {generated[i] for i in range(8)} == {0}  # prompts.first_round: there is nothing to show yet
    assert {generated[i] for i in generated if i >= 8} == {2}


def test_rounds_grow_from_a_small_first_one_to_round_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = config()
    cfg.prompts.num_prompts, cfg.prompts.round_size = 200, 100
    use(monkeypatch, writes)
    metrics = run(prompts.STAGE, ctx := context(cfg, tmp_path, "out"))
    sizes = Counter(a.round for a in read_records(next((ctx.dir / "parts").iterdir()), prompt_pool.Attempt))
    assert [sizes[i] for i in range(len(sizes))][:5] == [8, 8, 16, 32, 64]
    assert max(sizes.values()) <= 100
    assert metrics["generated_shots"] == {"0": 8, "2": 192}


def test_the_numbers_of_prompts_may_differ_between_iterations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = config()
    cfg.prompts.per_iteration = [10, 15]
    use(monkeypatch, writes)
    run(prompts.STAGE, first := context(cfg, tmp_path, "prompts"))
    run(prompts.STAGE, second := context(cfg, tmp_path, "second", iteration=2))
    assert [len(lines(ctx.dir / "prompts.jsonl")) for ctx in (first, second)] == [10, 15]
    other = config()
    other.prompts.num_prompts = 10
    assert prompts.STAGE.identity(cfg, 1) == prompts.STAGE.identity(other, 1)  # as if it were the only number
    other.prompts.per_iteration = [10, 99]
    assert prompts.STAGE.identity(cfg, 1) == prompts.STAGE.identity(other, 1)
    assert prompts.STAGE.identity(cfg, 2) != prompts.STAGE.identity(other, 2)


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

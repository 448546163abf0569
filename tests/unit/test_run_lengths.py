"""Lengths of a run's own examples: those that its trainings see, for `estimate --run`."""

from pathlib import Path

import pytest

from nemo_srlm.config.compose import compose
from nemo_srlm.launch.run_lengths import run_lengths
from tests.unit.test_loop_cost import example, finish, write_lines, write_tokenizer


def pair(name: str, chosen: int) -> dict[str, str]:
    """A pair whose sides have `chosen` words and one; beside the words there are 5 tokens, see test_loop_cost."""
    return {"id": name, "prompt_id": "x", "prompt": "a b", "chosen": "c " * chosen, "rejected": "c"}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Two iterations are done up to their pairs, the first up to its judge pairs."""
    run = tmp_path / "run"
    write_tokenizer(run / "iter0" / "world" / "tokenizer")
    finish(run / "iter0" / "world")
    write_lines(run / "iter0" / "seed" / "ift.jsonl", [example(i, 3) for i in range(6)])
    write_lines(run / "iter0" / "eft" / "eft_train.jsonl", [example(0, 300), example(1, 5)])
    write_lines(run / "iter1" / "pairs" / "pairs.jsonl", [pair("a", 2), pair("b", 300), pair("c", 4)])
    write_lines(run / "iter1" / "judge_pairs" / "pairs.jsonl", [pair("d", 9)])
    write_lines(run / "iter2" / "pairs" / "pairs.jsonl", [pair("c", 4), pair("e", 6)])
    return run


NO_REPLAY = ["dpo.replay_weight=0", "dpo.max_length=100", "sft.max_length=100"]


def found(run: Path, *settings: str) -> list[tuple[int, ...]]:
    return run_lengths(compose("tiny", ["iterations=2", *NO_REPLAY, *settings]), run)[0]["dpo"]


def test_pairs_of_all_iterations_count_once_each_where_they_are_trained_on(run: Path):
    assert found(run) == [(9, 6), (11, 6)], "those of the newest iteration"
    assert found(run, "dpo.pairs_from=all") == [(7, 6), (9, 6), (11, 6)], (
        "what is too long and what is a duplicate is left out"
    )


def test_judge_pairs_count_and_an_iteration_that_lacks_them_is_not_ready(run: Path):
    settings = ["judge_training.method=any_draw"]
    assert found(run, *settings) == [(7, 6), (9, 6), (14, 6)]
    write_lines(run / "iter2" / "judge_pairs" / "pairs.jsonl", [pair("f", 1)])
    assert found(run, *settings) == [(9, 6), (11, 6), (6, 6)]
    assert len(found(run, *settings, "dpo.pairs_from=all")) == 5


def test_a_replayed_example_that_is_too_long_is_in_no_unit(run: Path):
    assert found(run, "dpo.replay_weight=0.1") == [(9, 6, 10), (11, 6, 10)]


def test_what_is_held_out_for_validation_is_not_trained_on(run: Path):
    assert len(found(run, "dpo.num_validation=1", "dpo.pairs_from=all")) == 2
    cfg = compose("tiny", [*NO_REPLAY, "sft.num_validation=2"])
    assert len(run_lengths(cfg, run)[0]["sft"]) == 6 + 1 - 2

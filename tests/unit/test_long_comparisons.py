"""EFT examples that compare and do not fit sft.max_length: counted as a kind of their own, and an alarm."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from nemo_srlm.config.compose import compose
from nemo_srlm.config.schema import Config
from nemo_srlm.core.files import write_records
from nemo_srlm.core.progress import Progress
from nemo_srlm.core.records import RankedReply, SftExample
from nemo_srlm.core.stage import Context
from nemo_srlm.data.chat import Chat
from nemo_srlm.evaluate.alarms import alarms_of_data, alarms_of_run
from nemo_srlm.judge.eft import JudgedReply
from nemo_srlm.judge.eft_comparisons import compares, of_judgements, of_replies
from nemo_srlm.stages.common import training
from tests.unit.test_loop_cost import write_tokenizer

SHORT = {"asked": 2, "examples": 2, "replies": 2, "parsed": 2, "comparisons": 40, "meta": 10}


def trained(**used: int) -> dict[str, Any]:
    return {"data": {"used": used, "dropped": {}}}


def test_the_kinds_of_examples_are_told_apart():
    replies = [RankedReply(f"r{i}", "i", "Q?", f"Reply {i}.", i) for i in range(2)]
    judged = [JudgedReply(reply, f"Fine. Score: {5 - i}", 5.0 - i) for i, reply in enumerate(replies)]

    def fill(*words: str) -> str:
        return " ".join(words)

    made = [*of_replies(judged, fill, 9), *of_judgements(judged, "<response>", fill, 9)]
    assert len(made) == 3
    assert all(map(compares, made))
    assert not compares(SftExample("x", "p", "It is Better: A than B. Score: 4", "eft"))


@pytest.mark.parametrize(("longest", "used", "dropped"), [
    (100, {"eft": 2, "eft_comparisons": 2}, {}),
    (20, {"eft": 2, "eft_comparisons": 1}, {"too_long": 1}),
    (14, {"eft": 2, "eft_comparisons": 0}, {"too_long": 2}),
])  # fmt: skip
def test_comparisons_that_are_trained_on_are_counted_and_keep_their_place(
    tmp_path: Path, longest: int, used: dict[str, int], dropped: dict[str, int]
):
    write_tokenizer(tmp_path / "tokenizer")
    examples = [
        *(SftExample(f"s{i}", "a b", "c c", "eft", f"r{i}") for i in range(2)),
        *(SftExample(f"c{i}", "a b", "c " * size + "\nBetter: A", "eft", "r0 r1") for i, size in enumerate((9, 30))),
    ]
    write_records(tmp_path / "eft_train.jsonl", examples)
    cfg = compose("tiny", [f"sft.max_length={longest}"])
    ctx = Context(cfg, 0, tmp_path / "sft", {"eft": tmp_path, "tokenizer": tmp_path}, Progress(tmp_path))
    chat, counts = Chat.of(training.open_tokenizer(ctx), cfg.chat), Counter[str]()
    found = training.seed_documents(ctx, chat, counts)
    assert {name: len(documents) for name, documents in found.items()} == used
    assert counts == dropped
    whole = training.sft_documents(tmp_path / "eft_train.jsonl", chat, longest, Counter())
    one_after_another = [document for documents in found.values() for document in documents]
    assert [list(d.ids) for d in one_after_another] == [list(d.ids) for d in whole], (
        "the training's order is the file's"
    )


@pytest.mark.parametrize("kept", [0, 20, 44])
def test_comparisons_that_do_not_fit_raise_an_alarm_with_both_numbers(kept: int):
    """All of them could be missing from M1's training, which a column of the report alone told."""
    cfg = Config()
    (found,) = alarms_of_data(cfg, None, SHORT, trained(eft=2, eft_comparisons=kept))
    assert (found.model, found.name, found.value) == ("data", "short", 1 - kept / 50)
    assert found.text.startswith(f"{kept} of 50 EFT examples that compare fit sft.max_length ({cfg.sft.max_length})")


def test_a_few_that_do_not_fit_and_a_training_that_did_not_count_them_raise_none():
    for sft in (trained(eft=2, eft_comparisons=45), trained(eft=52), {"steps": 3}, None):
        assert alarms_of_data(Config(), None, SHORT, sft) == []
    assert alarms_of_data(Config(), None, SHORT | {"comparisons": 0, "meta": 0}, trained(eft=2)) == []


def test_the_alarm_is_among_those_of_the_run():
    metrics = {"eft": SHORT, "sft": trained(eft=2, eft_comparisons=0)}
    found = alarms_of_run(Config(), lambda t, stage: None if t else metrics.get(stage))
    assert [alarm.text[:7] for alarm in found] == ["0 of 50"]

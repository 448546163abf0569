"""Judge shapes: pairwise comparisons as scores, equal texts judged once, and a reasoning judge whose thinking is not read."""

from pathlib import Path

import pytest

from nemo_srlm.config.compose import compose
from nemo_srlm.config.schema import Config
from nemo_srlm.core.files import read_records, write_records
from nemo_srlm.core.pipeline import has_single_scores
from nemo_srlm.core.records import Candidate, Judgement, RankedReply
from nemo_srlm.errors import ConfigError, DataError
from nemo_srlm.evaluate.pairwise import duels, judgements
from nemo_srlm.generate.requests import Failure
from nemo_srlm.judge.scores import parse_draws
from nemo_srlm.stages import judge, load
from tests.unit.generation_stages import config, context, lines, run, use, write_prompts


def candidate(index: int, text: str, prompt: str = "p0") -> Candidate:
    return Candidate(f"{prompt}c{index}", prompt, index, text, "stop", 1, "" if text else "engine: boom")


FOUR = [candidate(0, "good"), candidate(1, "bad"), candidate(2, "good"), candidate(3, ""), candidate(4, "fair")]


def written(path: Path, candidates: list[Candidate] = FOUR, prompts: int = 1) -> Config:
    """A config, and the prompts and candidates that a judging stage reads below `path`."""
    write_prompts(path, prompts)
    (path / "candidates").mkdir()
    write_records(path / "candidates" / "candidates.jsonl", candidates)
    return config()


def pairwise(path: Path, candidates: list[Candidate] = FOUR, prompts: int = 1) -> Config:
    cfg = written(path, candidates, prompts)
    cfg.judge.shape = "pairwise"
    return cfg


def test_different_texts_are_compared_once_each_and_copies_share_the_score():
    assert [(a.text, b.text) for a, b in duels(FOUR)] == [("good", "bad"), ("good", "fair"), ("bad", "fair")]
    outcomes = [(FOUR[0], FOUR[1], "win"), (FOUR[0], FOUR[4], "tie"), (FOUR[1], FOUR[4], "unjudged")]
    found = judgements(FOUR, outcomes, 5)  # type: ignore[arg-type]
    # good: (1 + 1/2) of 2; bad: 0 of 1; fair: 1/2 of 1. The one that was not made has no judgement
    assert [(j.id, j.scores) for j in found] == [
        ("p0c0", (3.75,)), ("p0c1", (0.0,)), ("p0c2", (3.75,)), ("p0c4", (2.5,)),
    ]  # fmt: skip
    assert [j.scores for j in judgements([candidate(0, "same"), candidate(1, "same")], [], 5)] == [(None,), (None,)]


def test_the_stage_asks_both_orders_and_writes_judgements_in_the_candidates_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    other = [candidate(0, "alpha good", "p1"), candidate(1, "fair", "p1")]
    cfg = pairwise(tmp_path, [*FOUR, *other], prompts=2)

    def answer(text: str, seed: int) -> str | Failure:
        a, b = text.split("Response A:\n")[1].split("\n\nResponse B:\n")
        b = b.split("\n\nGive")[0]
        if {"bad", "fair"} == {a, b}:
            return Failure("too_long: x")
        return f"I prefer it.\nBetter: {'A' if 'good' in a else 'B'}"

    engine = use(monkeypatch, answer)
    metrics = run(judge.STAGE, ctx := context(cfg, tmp_path, "out"))
    assert len(engine.requests) == 2 * 4
    found = list(read_records(ctx.dir / "judgements.jsonl", Judgement))
    assert [(j.id, j.scores[0]) for j in found] == [
        ("p0c0", 5.0), ("p0c1", 0.0), ("p0c2", 5.0), ("p0c4", 0.0), ("p1c0", 5.0), ("p1c1", 0.0),
    ]  # fmt: skip
    assert len(lines(ctx.dir / "verdicts.jsonl")) == 8
    assert metrics["verdicts"] == {"A": 3, "B": 3, "error": 2}
    assert metrics["orders"] == {"contradicting": 0, "judged": 3, "unjudged": 1}
    assert (metrics["ineligible"], metrics["parse_failure"]) == (0, 0.0)
    assert has_single_scores(cfg)


def test_a_pairwise_judge_that_cannot_be_asked_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    cfg = pairwise(tmp_path)
    use(monkeypatch, lambda text, seed: Failure("too_long: 400 > 320"))
    with pytest.raises(DataError, match="6 of 6 comparisons were not made, the first: too_long: 400 > 320"):
        run(judge.STAGE, context(cfg, tmp_path, "out"))


def test_comparisons_that_were_not_made_are_named_where_no_score_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    cfg = pairwise(tmp_path)
    use(monkeypatch, lambda text, seed: Failure("too_long: 400 > 320") if "fair" in text else "no verdict")
    with pytest.raises(
        DataError, match=r"not one of 4 .*; 4 of 6 comparisons were not made, the first: too_long: 400 > 320"
    ):
        run(judge.STAGE, context(cfg, tmp_path, "out"))


def test_the_shape_is_the_identity_of_the_stage_judge_alone():
    each = "judge.equal_texts=each"
    default, pairwise = compose("tiny", [each]), compose("tiny", [each, "judge.shape=pairwise"])
    assert load("judge").identity(default, 1) != load("judge").identity(pairwise, 1)
    assert load("eval_reward").identity(default, 1) == load("eval_reward").identity(pairwise, 1)
    for wrong in ("judge.method=expected", "pairs.rejected_from=m1", "judge_training.method=meta"):
        with pytest.raises(ConfigError, match=rf"judge\.shape: pairwise with {wrong.replace('.', '[.]')}"):
            compose("tiny", [each, "judge.shape=pairwise", wrong])


@pytest.mark.parametrize(
    ("text", "reason", "score"),
    [
        ("<think>Score: 1? No.</think>It is right.\nScore: 4", "stop", 4.0),
        ("<think>Score: 1</think>", "stop", None),  # it says nothing behind its thinking
        ("<think>So it may be Score: 1\n\n", "length", None),  # cut while it thought
        ("No thinking. Score: 3", "stop", 3.0),
        ("a</think>Score: 2</think>\nScore: 5", "stop", 5.0),
        ("<think>...</think>Score: 4\n\nBecause", "length", 4.0),
    ],
)
def test_scores_are_read_behind_the_thinking_alone(text: str, reason: str, score: float | None):
    assert parse_draws([text], [reason], thinking_end="</think>") == (score,)


def test_the_record_keeps_the_thinking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    cfg = written(tmp_path, FOUR[:2])
    cfg.judge.thinking_end = "</think>"
    use(monkeypatch, lambda text, seed: "<think>Score: 0</think>Score: 4")
    run(judge.STAGE, ctx := context(cfg, tmp_path, "out"))
    found = next(read_records(ctx.dir / "judgements.jsonl", Judgement))
    assert (found.scores, found.texts[0]) == ((4.0,) * 3, "<think>Score: 0</think>Score: 4")


def test_judgements_that_come_with_the_data_are_read_behind_their_thinking_too(tmp_path: Path):
    cfg = config()
    cfg.eft.source, cfg.judge.thinking_end = "external", "</think>"
    ctx = context(cfg, tmp_path, "eft", iteration=0)
    given = ["<think>Score: 1? No.</think>It is right.\nScore: 4", "<think>Score: 2</think>It is wrong."]
    rows = [RankedReply(f"a{i}", "a", "Why?", f"Reply {i}", i, text) for i, text in enumerate(given)]
    write_records(tmp_path / "seed" / "ranked_train.jsonl", rows)
    metrics = run(load("eft"), ctx)
    assert (metrics["scores_after"], metrics["left_out"]) == ({"4": 1}, {"duplicate": 0, "unparsed": 1})


def test_the_mark_of_thinking_identifies_the_eft_that_reads_behind_it_and_no_other():
    mark = 'judge.thinking_end="</think>"'
    plain, marked = compose("tiny", []), compose("tiny", [mark])
    eft = load("eft")
    assert "thinking_end" not in eft.identity(plain, 0)
    assert eft.identity(marked, 0) == {**eft.identity(plain, 0), "thinking_end": "</think>"}
    ranks = [compose("tiny", ["eft.source=ranks", *more]) for more in ([], [mark])]
    assert eft.identity(ranks[0], 0) == eft.identity(ranks[1], 0)


@pytest.mark.parametrize("equal_texts", ["each", "once"])
def test_equal_texts_are_judged_once_where_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, equal_texts: str
):
    """The judgement of the first counts for its copies, among the responses to one prompt alone; its seed is as before."""
    other = [candidate(0, "fair", "p1"), candidate(1, "good", "p1"), candidate(2, "fair", "p1")]
    cfg = written(tmp_path, FOUR + other, prompts=2)
    cfg.judge.equal_texts = equal_texts
    engine = use(monkeypatch, lambda text, seed: Failure("too_long: x") if "fair" in text else "Score: 3")
    for shard in (1, 0):
        judge.STAGE.run(ctx := context(cfg, tmp_path, "out", shard, 2))
    metrics = judge.STAGE.finalize(ctx)
    once = equal_texts == "once"
    assert sorted(r.id for r in engine.requests) == sorted(
        ["p0c0", "p0c1", "p0c4", "p1c0", "p1c1"] + ([] if once else ["p0c2", "p1c2"])
    )
    made = list(read_records(tmp_path / "out" / "judgements.jsonl", Judgement))
    assert [j.id for j in made] == ["p0c0", "p0c1", "p0c2", "p0c4", "p1c0", "p1c1", "p1c2"]
    found = {j.id: (j.scores, j.error) for j in made}
    assert found["p0c0"] == found["p0c2"]
    assert found["p1c0"] == found["p1c2"] == ((), "too_long: x")
    assert str(metrics["summary"]).startswith("4 judged,")
    assert (", 2 of them as equal texts" in str(metrics["summary"])) == once
    assert not list((tmp_path / "out").glob("judged*"))


def test_judging_equal_texts_once_changes_what_judges_candidates_alone():
    plain, once = compose("tiny", ["judge.equal_texts=each"]), compose("tiny", ["judge.equal_texts=once"])
    assert load("judge").identity(once, 1) == {**load("judge").identity(plain, 1), "equal_texts": "once"}
    assert load("eval_reward").identity(once, 1) == load("eval_reward").identity(plain, 1)
    with pytest.raises(
        ConfigError, match=r"judge\.shape: pairwise with judge\.equal_texts=once; expected judge\.equal_texts=each"
    ):
        compose("tiny", ["judge.equal_texts=once", "judge.shape=pairwise"])

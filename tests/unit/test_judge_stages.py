"""The stages that judge, on a fake engine: requests, errors, alarms, the expected score, EFT examples."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from nemo_srlm.config.schema import Config
from nemo_srlm.core.files import read_records, write_records
from nemo_srlm.core.records import Candidate, Judgement, RankedReply, SftExample
from nemo_srlm.core.stage import Context
from nemo_srlm.errors import ConfigError, DataError
from nemo_srlm.generate.requests import Completion, Failure, Request
from nemo_srlm.judge.expected import digit_tokens, expected_score, lead_in_tokens
from nemo_srlm.judge.verdicts import parse_verdict
from nemo_srlm.stages import candidates, eft, eval_reward, judge
from tests.unit.fake_engine import Characters
from tests.unit.generation_stages import config, context, judges, lines, responds, run, use, write_prompts


def test_a_judge_request_holds_the_whole_template_and_three_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_prompts(tmp_path, 2)
    use(monkeypatch, responds)
    run(candidates.STAGE, context(config(), tmp_path, "candidates"))
    engine = use(monkeypatch, judges)
    metrics = run(judge.STAGE, ctx := context(config(), tmp_path, "out"))
    made = list(read_records(ctx.dir / "judgements.jsonl", Judgement))
    assert [j.id for j in made] == [c.id for c in read_records(tmp_path / "candidates" / "candidates.jsonl", Candidate)]
    assert {j.scores for j in made} == {(0.0, 1.0, 2.0)}
    assert all("User: Question " in r.text and "<response>answer " in r.text and r.n == 3 for r in engine.requests)
    assert all(
        r.prompt_ids[0] == 1 and "[INST] Review" in Characters().decode(list(r.prompt_ids)) for r in engine.requests
    )
    assert len({r.seed for r in engine.requests}) == 8
    assert metrics["parse_failure"] == 0


def test_failed_candidates_are_not_judged_and_failed_judgements_are_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_prompts(tmp_path)
    use(monkeypatch, lambda text, seed: Failure("engine: boom") if "3" in text else responds(text, seed))
    run(candidates.STAGE, context(config(), tmp_path, "candidates"))
    use(monkeypatch, lambda text, seed: Failure("too_long: x") if "Question 2" in text else judges(text, seed))
    metrics = run(judge.STAGE, ctx := context(config(), tmp_path, "out"))
    made = list(read_records(ctx.dir / "judgements.jsonl", Judgement))
    assert {j.prompt_id for j in made} == {"p0", "p1", "p2", "p4", "p5"}
    assert all(j.error == "too_long: x" and j.scores == () for j in made if j.prompt_id == "p2")
    assert metrics["errors"] == {"too_long": 4}


def test_a_collapsed_judge_is_an_alarm_and_stops_the_run_only_when_asked_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = config()
    write_prompts(tmp_path)
    use(monkeypatch, responds)
    run(candidates.STAGE, context(cfg, tmp_path, "candidates"))
    use(monkeypatch, lambda text, seed: "Score: 4")
    metrics = run(judge.STAGE, ctx := context(cfg, tmp_path, "out"))
    assert "collapsed" in str(metrics["alarms"])
    cfg.judge.alarm_stops = True
    with pytest.raises(DataError, match="collapsed"):
        judge.STAGE.finalize(ctx)


def test_a_judge_without_one_score_is_no_finished_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_prompts(tmp_path)
    use(monkeypatch, responds)
    run(candidates.STAGE, context(config(), tmp_path, "candidates"))
    use(monkeypatch, lambda text, seed: "no number in it")
    with pytest.raises(DataError, match=r"not one of .* items has a score; 100.0% of .* judge draws state no score"):
        run(judge.STAGE, context(config(), tmp_path, "out"))


def test_an_engine_that_ignores_the_seed_is_an_alarm_of_the_candidates_and_of_the_judge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_prompts(tmp_path)
    use(monkeypatch, lambda text, seed: f"answer to {text}")
    assert run(candidates.STAGE, context(config(), tmp_path, "candidates"))["identical_draws"] == 1.0
    use(monkeypatch, lambda text, seed: f"Score: {len(text) % 3}")
    metrics = run(judge.STAGE, context(config(), tmp_path, "out"))
    assert "one text in all their draws" in str(metrics["alarms"])
    use(monkeypatch, judges)
    assert "one text" not in str(run(judge.STAGE, context(config(), tmp_path, "healthy"))["alarms"])


def test_the_judge_of_a_model_is_held_against_human_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, judges)
    metrics = run(eval_reward.STAGE, ctx := context(config(), tmp_path, "out"))
    assert metrics["pairwise_accuracy"] == 1.0
    assert len(lines(ctx.dir / "judgements.jsonl")) == 8
    use(monkeypatch, lambda text, seed: "Score: 4")  # alarms never stop an evaluation
    cfg = config()
    cfg.judge.alarm_stops = True
    assert run(eval_reward.BASELINE, context(cfg, tmp_path, "base", iteration=0))["pairwise_accuracy"] == 0.5


def test_the_expected_score_is_read_at_the_digit_that_states_the_score() -> None:
    families = digit_tokens(Characters(), 5)  # type: ignore[arg-type]
    text = "4 of 5 are right. Score: 3"
    flat = {ord(str(k)): -9.0 for k in range(6)}
    at_digit = flat | {ord("3"): -0.1, ord("5"): -2.4}
    values = tuple(at_digit if i == len(text) - 1 else flat for i in range(len(text)))
    draw = Completion(text, len(text) + 1, "stop", tuple(map(ord, text)), values)
    found = expected_score(draw, Characters(), families, 5)  # type: ignore[arg-type]
    assert found is not None
    assert 3.1 < found[0] < 3.3
    assert 0.5 < found[1] < 0.8
    no_score = Completion("I cannot say", 12, "stop", tuple(map(ord, "I cannot say")), (flat,) * 12)
    assert expected_score(no_score, Characters(), families, 5) is None  # type: ignore[arg-type]


# --- EFT --------------------------------------------------------------------------------------------------------------

RANKED = {  # instruction: what the baseline writes as a judge of its replies, best reply first
    "agrees": ("Fine. Score: 4", "Poor. Score: 1"),
    "inverted": ("Score: 1", "Score: 4"),
    "flat": ("Score: 4", "Score: 4"),
    "unsaid": ("It is fine.", "Score: 2"),
    "half": ("Score: 5", "Score: 4", Failure("too_long: 9 > 8")),
    "more": ("Score: 4", "Score: 2"),
}


def eft_context(cfg: Config, root: Path, shard: int = 0, num: int = 1) -> Context:
    replies = [
        RankedReply(f"{name}{rank}", name, f"Question {name}?", f"Reply {rank}.", rank)
        for name, judgements in RANKED.items()
        for rank in range(len(judgements))
    ]
    ctx = context(cfg, root, "eft", shard, num, iteration=0)
    write_records(root / "seed" / "ranked_train.jsonl", replies)
    return ctx


def baseline(text: str, seed: int) -> str | Failure:
    instruction = text.partition("Question ")[2].partition("?")[0]
    return RANKED[instruction][int(text.partition("Reply ")[2][0])]


def test_the_baselines_judgements_become_eft_examples_where_they_agree_with_humans(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = config()
    assert cfg.eft.source == "baseline"  # the paper's, and the default
    assert eft.STAGE.inputs(cfg, 0)["model"].stage == "export_baseline"
    use(monkeypatch, baseline)
    for shard in range(3):
        eft.STAGE.run(eft_context(cfg, tmp_path, shard, 3))
    metrics = eft.STAGE.finalize(ctx := eft_context(cfg, tmp_path))
    made = list(read_records(ctx.dir / "eft_train.jsonl", SftExample))
    assert [(e.source, e.response) for e in made if "4" not in e.response] == [
        ("agrees1", "Poor. Score: 1"), ("half0", "Score: 5"), ("more1", "Score: 2"),
    ]  # fmt: skip
    assert all(e.kind == "eft" and "User: Question" in e.prompt for e in made)
    # of the kept ones three are scored 4, the next frequent score occurs once: one 4 remains
    assert metrics["left_out"] == {
        "all_equal": 2, "alone": 1, "broken_character": 0, "cut_off": 0, "disagrees": 2, "dominant_score": 2, "duplicate": 0,
        "errors": 1, "unparsed": 1,
    }  # fmt: skip
    assert metrics["examples"] == 4
    assert metrics["replies"] == 13 == metrics["examples"] + sum(metrics["left_out"].values())


def test_examples_that_compare_are_made_of_the_judgements_that_are_kept_and_counted_beside_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = config()
    cfg.eft.dominant_keep, cfg.eft.num_comparisons, cfg.eft.num_meta = 100.0, 2, 100
    use(monkeypatch, baseline)
    eft.STAGE.run(ctx := eft_context(cfg, tmp_path))
    metrics = eft.STAGE.finalize(ctx)
    made = list(read_records(ctx.dir / "eft_train.jsonl", SftExample))
    compared = [e for e in made if parse_verdict(e.response)]
    assert (metrics["examples"], metrics["comparisons"], metrics["meta"]) == (6, 2, 6)
    assert len(made) == 14
    assert compared == made[6:]  # what states a score comes first
    assert all(len(e.source.split()) == 2 for e in compared)
    assert "2 of 2 that compare two replies, 6 of 100 that compare two judgements" in metrics["summary"]
    assert eft.STAGE.identity(cfg, 0) != eft.STAGE.identity(config(), 0)


@pytest.mark.parametrize(
    ("old", "new", "reason"), [('["stop"]', '["length"]', "cut_off"), ("Poor.", "Po\ufffd.", "broken_character")]
)
def test_a_judgement_that_breaks_off_after_its_score_or_has_broken_characters_is_no_eft_example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, reason: str
) -> None:
    cfg = config()
    use(monkeypatch, baseline)
    eft.STAGE.run(ctx := eft_context(cfg, tmp_path))
    (part,) = (ctx.dir / "parts").glob("*.jsonl")
    before = part.read_text()
    line = next(line for line in before.splitlines() if "Poor. Score: 1" in line)
    part.write_text(before.replace(line, line.replace(old, new)))
    metrics = eft.STAGE.finalize(ctx)
    made = [e.source for e in read_records(ctx.dir / "eft_train.jsonl", SftExample)]
    assert metrics["left_out"][reason] == 1
    assert "agrees1" not in made
    assert metrics["replies"] == 13 == metrics["examples"] + sum(metrics["left_out"].values())


def test_a_baseline_that_cannot_judge_leaves_no_example_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, lambda text, seed: "An answer.")
    eft.STAGE.run(ctx := eft_context(config(), tmp_path))
    with pytest.raises(DataError, match=r"no EFT example is left.*'unparsed': 13.*eft\.source=external"):
        eft.STAGE.finalize(ctx)


def test_progress_says_how_fast_the_engine_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_prompts(tmp_path)
    use(monkeypatch, responds)
    candidates.STAGE.run(ctx := context(config(), tmp_path, "out"))
    written = json.loads((ctx.dir / "progress.json").read_text())
    assert (written["done"], written["total"], written["unit"]) == (6, 6, "prompts")
    assert written["info"]["tokens_per_s"] > 0


# --- the score behind a lead-in -------------------------------------------------------------------------------------


def led_config() -> Config:
    cfg = config()
    cfg.judge.method, cfg.judge.lead_in = "expected", "Score: "
    return cfg


def probabilities(**wanted: float) -> dict[int, float]:
    """Log-probabilities of the six digits, as tokens of `Characters`."""
    return {ord(str(k)): math.log(wanted.get(f"p{k}", 1e-9)) for k in range(6)}


def test_behind_a_lead_in_every_response_has_a_score_whatever_the_judge_would_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = use(monkeypatch, judges)

    def outcome(request: Request) -> list[Completion]:
        good = "<response>good" in request.text
        return [
            Completion("!", 1, "length", (33,), (probabilities(p4=0.3, p2=0.1) if good else probabilities(p1=0.01),))
        ]

    monkeypatch.setattr(engine, "_outcome", outcome)
    metrics = run(eval_reward.BASE, ctx := context(led_config(), tmp_path, "eval_reward_base", iteration=0))
    made = list(read_records(ctx.dir / "judgements.jsonl", Judgement))
    assert {round(j.scores[0], 3) for j in made if j.scores[0] is not None} == {3.5, 1.0}
    assert {j.texts for j in made} == {("Score: !",)}
    assert (metrics["pairwise_accuracy"], metrics["counts"]["unscored"]) == (1.0, 0)
    request = engine.requests[0]
    assert Characters().decode(list(request.prompt_ids)).endswith(" [/INST]Score: ")
    assert (request.max_tokens, request.n, request.logprob_ids) == (1, 1, tuple(map(ord, "012345")))


class Merging(Characters):
    """Writes " 5" as one token, as GPT-2 does."""

    def encode(self, text: str) -> list[int]:
        return [ord(c) for c in text[:-2]] + [1000 + ord(text[-1])] if text[-2] == " " else super().encode(text)


class TwoTokens(Characters):
    def encode(self, text: str) -> list[int]:
        return [part for c in text for part in ((ord(c), 7) if c == "3" else (ord(c),))]


def test_the_lead_in_is_tokenized_with_the_score_behind_it() -> None:
    before, scores = lead_in_tokens(Merging(), "Score: ", 5)  # type: ignore[arg-type]
    assert Characters().decode(list(before)) == "Score:"
    assert scores == {1048 + k: k for k in range(6)}
    with pytest.raises(ConfigError, match=r"judge\.lead_in.*one token"):
        lead_in_tokens(TwoTokens(), "Score: ", 5)  # type: ignore[arg-type]


# --- EFT without a judge ----------------------------------------------------------------------------------------------


def ranked(instruction: str, *ranks: int) -> list[RankedReply]:
    return [
        RankedReply(f"{instruction}{i}", instruction, f"{instruction}?", f"Reply {i}", r) for i, r in enumerate(ranks)
    ]


@pytest.mark.parametrize(
    ("settings", "response"),
    [
        ({}, "Score: 5"),
        ({"eft.justification": "It is ranked best."}, "It is ranked best.\n\nScore: 5"),
        ({"judge.method": "expected", "judge.lead_in": "Score: "}, "Score: 5"),
        ({"judge.method": "expected", "judge.lead_in": "Points: "}, "Points: 5"),
    ],
)
def test_ranks_alone_become_targets_of_judging(settings: dict, response: str, tmp_path: Path) -> None:
    cfg = config()
    for key, value in {"eft.source": "ranks", **settings}.items():
        section, name = key.split(".")
        setattr(getattr(cfg, section), name, value)
    ctx = context(cfg, tmp_path, "eft", iteration=0)
    rows = [*ranked("a", 2, 0, 1), *ranked("b", 0, 3), *ranked("c", 1, 1), *ranked("d", 0, 0, 1, 2, 3)]
    write_records(tmp_path / "seed" / "ranked_train.jsonl", rows)
    metrics = run(eft.STAGE, ctx)
    examples = {e.source: e.response for e in read_records(ctx.dir / "eft_train.jsonl", SftExample)}
    scores = {key: int(text[-1]) for key, text in examples.items()}
    assert scores == {"a0": 0, "a1": 5, "a2": 3, "b0": 5, "b1": 0, "d0": 5, "d1": 5, "d2": 3, "d3": 2, "d4": 0}
    assert examples["a1"] == response
    assert metrics["left_out"] == {"duplicate": 0, "no_order": 2}
    assert metrics["judging"] is None  # right by construction: no figure about a judge
    assert eft.STAGE.inputs(cfg, 0).keys() == {"seed"}


def test_the_stage_says_how_well_the_judgements_of_its_source_order_the_replies(tmp_path: Path) -> None:
    cfg = config()
    cfg.eft.source = "external"
    ctx = context(cfg, tmp_path, "eft", iteration=0)
    rows = [*ranked("a", 0, 1), *ranked("b", 0, 1), *ranked("c", 0, 1)]
    given = ["Score: 4", "Score: 2", "Score: 1", "Score: 3", "Fine.", "Score: 2"]
    rows = [replace(row, given_judgement=text) for row, text in zip(rows, given, strict=True)]
    write_records(tmp_path / "seed" / "ranked_train.jsonl", rows)
    metrics = run(eft.STAGE, ctx)
    assert (metrics["examples"], metrics["parsed"], metrics["left_out"]) == (5, 5, {"duplicate": 0, "unparsed": 1})
    assert metrics["judging"]["pairwise_accuracy"] == 0.5
    assert metrics["summary"] == "5 examples of 6 ranked replies (external); left out: 1 unparsed"
    low, high = metrics["judging"]["intervals"]["pairwise_accuracy"]
    assert 0 < low < 0.05  # three instructions say nearly nothing
    assert 0.95 < high < 1

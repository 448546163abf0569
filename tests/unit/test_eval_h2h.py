"""The stage eval_h2h: judged by the oracle's files, and by a model in both orders."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nemo_srlm.config.schema import Config
from nemo_srlm.core.files import write_records
from nemo_srlm.core.progress import Progress
from nemo_srlm.core.records import Candidate, Prompt, content_id
from nemo_srlm.core.stage import Context
from nemo_srlm.errors import ConfigError, DataError
from nemo_srlm.generate import vllm_engine as engines
from nemo_srlm.generate.requests import Completion, Failure, Request
from nemo_srlm.stages import eval_h2h
from tests.unit.fake_engine import Characters

PROMPTS = [Prompt(content_id("prompt", t), t, "eval") for t in ("one", "two", "three")]


def context(tmp_path: Path, world: bool, answers: dict[str, list[str]], iteration: int = 1) -> Context:
    """answers: model ("own", "baseline", "M1") -> its response to each prompt; the oracle's score of a response is its length."""
    cfg = Config()
    cfg.world.enabled = world
    directory = tmp_path / "eval_h2h"
    directory.mkdir()
    inputs = {"held_out": tmp_path / "held_out"}
    inputs["held_out"].mkdir()
    write_records(inputs["held_out"] / "eval_prompts.jsonl", PROMPTS)
    for name, texts in answers.items():
        responses = [
            Candidate(
                content_id("candidate", p.id, 0), p.id, 0, t, "stop", len(t.split()), "too_long" if t == "" else ""
            )
            for p, t in zip(PROMPTS, texts, strict=False)
        ]
        for kind in ("responses", "scores"):
            inputs[f"{kind}_{name}"] = tmp_path / f"{kind}_{name}"
            inputs[f"{kind}_{name}"].mkdir()
        write_records(inputs[f"responses_{name}"] / "responses.jsonl", responses)
        levels = [
            {"id": r.id, "prompt_id": r.prompt_id, "level": min(5, len(r.text)), "correctness": 1.0} for r in responses
        ]
        text = "".join(json.dumps(row) + "\n" for row in levels)
        (inputs[f"scores_{name}"] / "scores.jsonl").write_text(text, encoding="utf-8")
    inputs["judge"] = tmp_path / "judge"
    return Context(cfg, iteration, directory, inputs, Progress(directory))


class LikesGood:
    """Prefers the response that contains "good", else A; its judgement of a text with "cut" is truncated."""

    tokenizer: Any = Characters()
    max_model_len = 10_000
    ready = True

    def expect(self, lengths: Iterable[int]) -> None:
        pass

    def stream(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Any]]:
        for request in requests:
            first, second = request.text.split("Response A:\n")[1].split("\n\nResponse B:\n")
            second = second.split("\n\nGive your reason")[0]
            if "broken" in first + second:
                yield request, Failure("too_long: 5 > 4")
                continue
            better = "B" if "good" in second and "good" not in first else "A"
            words = "I think" if "cut" in first + second else f"It is right.\nBetter: {better}"
            yield request, [Completion(words, 3, "stop")]

    def usage(self) -> dict[str, float]:
        return {}

    def close(self) -> None: ...


class LikesLong(LikesGood):
    """Scores a response by its number of words; of a text with "cut" it states no score."""

    asked: int = 0

    def stream(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Any]]:
        for request in requests:
            LikesLong.asked += 1
            text = request.text.split("<response>")[1].split("</response>")[0]
            words = "I think" if "cut" in text else f"Score: {len(text.split())}"
            yield request, [Completion(words, 3, "stop")] * request.n


def judged(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(engines, "shared", lambda slot, path, cfg: LikesGood())
    eval_h2h.STAGE.run(ctx)
    return eval_h2h.STAGE.finalize(ctx)


def test_the_oracles_files_decide_in_the_tiny_world(tmp_path: Path):
    ctx = context(tmp_path, True, {"own": ["xxxxx", "xx", "x"], "baseline": ["x", "xx", "xxx"], "M1": ["x", "x", "x"]})
    eval_h2h.STAGE.run(ctx)
    rows = eval_h2h.STAGE.finalize(ctx)["comparisons"]
    assert [(r["model"], r["other"]) for r in rows] == [("M2", "baseline"), ("M2", "M1")]
    assert rows[0]["counts"] == {"win": 1, "tie": 1, "loss": 1, "unjudged": 0}
    assert rows[1]["counts"] == {"win": 2, "tie": 1, "loss": 0, "unjudged": 0}
    assert rows[0]["judge"] == "oracle"


def test_a_prompt_that_one_side_alone_answers_is_refused(tmp_path: Path):
    ctx = context(tmp_path, True, {"own": ["xxxxx", "xx", "x"], "baseline": ["x", "xx"]}, iteration=0)
    eval_h2h.STAGE.run(ctx)
    with pytest.raises(DataError, match="no score for prompt"):
        eval_h2h.STAGE.finalize(ctx)


def test_a_judge_decides_in_both_orders_and_a_position_bias_is_a_tie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    answers = {"own": ["good", "same", "bad"], "baseline": ["bad", "same", "good"], "M1": ["bad", "bad", "cut"]}
    rows = judged(context(tmp_path, False, answers), monkeypatch)["comparisons"]
    assert rows[0]["counts"] == {"win": 1, "tie": 1, "loss": 1, "unjudged": 0}
    assert rows[0]["order_bias"]["contradictions"] == pytest.approx(1 / 3)
    assert rows[1]["counts"] == {"win": 1, "tie": 1, "loss": 0, "unjudged": 1}


def test_a_judge_that_scores_each_response_alone_decides_by_the_higher_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    answers = {"own": ["a b c", "a b", "a"], "baseline": ["a", "a b", "a b"], "M1": ["a b c", "cut", "a b c d"]}
    ctx = context(tmp_path, False, answers)
    ctx.cfg.eval.h2h_by = "score"
    monkeypatch.setattr(engines, "shared", lambda slot, path, cfg: LikesLong())
    eval_h2h.STAGE.run(ctx)
    rows = eval_h2h.STAGE.finalize(ctx)["comparisons"]
    assert [row["counts"] for row in rows] == [
        {"win": 1, "tie": 1, "loss": 1, "unjudged": 0},
        {"win": 0, "tie": 1, "loss": 1, "unjudged": 1},
    ]
    assert LikesLong.asked == 7  # equal texts of one prompt are judged once
    assert eval_h2h.STAGE.identity(ctx.cfg, 1)["by"] == "score"
    ctx.cfg.eval.h2h_by = "compare"
    assert "by" not in eval_h2h.STAGE.identity(ctx.cfg, 1)  # runs finished before the setting existed stay valid


def test_what_cannot_be_judged_is_counted_and_no_tie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    answers = {"own": ["good", "", "broken"], "baseline": ["bad", "bad", "bad"]}
    ctx = context(tmp_path, False, answers, iteration=0)
    (row,) = judged(ctx, monkeypatch)["comparisons"]
    assert row["counts"] == {"win": 1, "tie": 0, "loss": 0, "unjudged": 2}
    assert row["judged"] == 1


def test_models_that_answered_other_prompts_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    ctx = context(tmp_path, False, {"own": ["a", "b", "c"], "baseline": ["a", "b"]}, iteration=0)
    with pytest.raises(DataError, match="no counterpart"):
        judged(ctx, monkeypatch)


def test_every_earlier_model_is_an_input_and_the_oracle_is_read_from_files_only():
    cfg = Config()
    cfg.world.enabled = True
    refs = eval_h2h.STAGE.inputs(cfg, 2)
    assert {"scores_baseline", "scores_M1", "scores_M2", "scores_own", "responses_own", "held_out"} <= set(refs)
    assert str(refs["scores_own"]) == "iter2/eval_oracle"
    assert "world.oracle" not in Path(eval_h2h.__file__).read_text(encoding="utf-8")
    cfg.world.enabled = False
    assert str(eval_h2h.STAGE.inputs(cfg, 2)["judge"]) == "iter2/export"


def test_an_endpoint_named_for_this_stage_judges_in_any_world():
    cfg = Config()
    cfg.world.enabled, cfg.api.stages = True, ["eval_h2h"]
    refs = eval_h2h.STAGE.inputs(cfg, 1)
    assert "judge" not in refs
    assert "scores_own" not in refs
    assert eval_h2h.STAGE.identity(cfg, 1)["judge"] == "endpoint"


def test_a_judge_that_is_no_model_is_the_users_mistake(tmp_path: Path):
    cfg = Config()
    cfg.eval.h2h_judge_path = str(tmp_path)
    with pytest.raises(ConfigError, match=r"no config\.json"):
        eval_h2h.STAGE.identity(cfg, 0)
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    first = eval_h2h.STAGE.identity(cfg, 0)
    (tmp_path / "config.json").write_text('{"a": 1}', encoding="utf-8")
    assert eval_h2h.STAGE.identity(cfg, 0) != first


def test_categories_of_the_users_own_prompts_reach_the_table_with_both_lengths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(engines, "shared", lambda slot, path, cfg: LikesGood())
    answers = {"own": ["good one", "good", "same"], "baseline": ["bad", "poor thing", "same"], "M1": ["x", "y", "z"]}
    ctx = context(tmp_path, False, answers)
    categories = {PROMPTS[0].id: "maths", PROMPTS[1].id: "maths", PROMPTS[2].id: "prose"}
    (ctx.inputs["held_out"] / "categories.json").write_text(json.dumps(categories), encoding="utf-8")
    eval_h2h.STAGE.run(ctx)
    against = eval_h2h.STAGE.finalize(ctx)["comparisons"][0]
    assert {name: (c["win"], c["tie"], c["judged"]) for name, c in against["categories"].items()} == {
        "maths": (1.0, 0.0, 2), "prose": (0.0, 1.0, 1),
    }  # fmt: skip
    assert (against["words"], against["other_words"]) == (pytest.approx(4 / 3), pytest.approx(4 / 3))

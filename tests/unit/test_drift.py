"""Drift: diversity against a hand calculation as by nltk, health of the judge, alarms."""

import math

import pytest

from nemo_srlm.config.evaluation import DriftSection
from nemo_srlm.config.generation import JudgeSection
from nemo_srlm.config.schema import Config
from nemo_srlm.core.records import Candidate, Judgement
from nemo_srlm.data.words import words_and_marks
from nemo_srlm.evaluate.alarms import (
    alarms_of_data,
    alarms_of_draws,
    alarms_of_evaluation,
    alarms_of_grades,
    alarms_of_model,
    alarms_of_models,
    judging_figures,
    judging_models,
)
from nemo_srlm.evaluate.drift import (
    bleu,
    count_grams,
    distinct_n,
    judging_metrics,
    log_ratio,
    response_metrics,
    self_bleu,
)
from nemo_srlm.judge import health as judge_health


def response(k: int, text: str, finish: str = "stop", error: str = "") -> Candidate:
    return Candidate(f"c{k}", f"p{k}", 0, text, finish, len(text.split()), error)


def judgement(prompt: str, index: int, *scores: float | None) -> Judgement:
    return Judgement(f"{prompt}{index}", prompt, scores, ("",) * len(scores), ("stop",) * len(scores))


def test_words_are_lower_case_and_punctuation_stands_alone():
    assert words_and_marks("The Bear, the owl.") == ["the", "bear", ",", "the", "owl", "."]


def test_distinct_counts_different_ngrams_over_all_of_them():
    assert distinct_n(["a b a b"], 1) == 0.5
    assert distinct_n(["a b a b"], 2) == pytest.approx(2 / 3)
    assert distinct_n([""], 2) is None


def test_bleu_of_the_same_text_is_one_and_of_strangers_zero():
    same = count_grams(list("abcde"), 4)
    assert bleu(same, [same]) == pytest.approx(1.0)
    assert bleu(count_grams(list("abc"), 4), [count_grams(list("xyz"), 4)]) == 0.0
    assert bleu(count_grams([], 4), [same]) == 0.0


def test_bleu_by_hand_with_smoothing_and_brevity():
    # unigrams 2/2, bigrams (1+1)/(1+1): two orders; the reference has 4 words: brevity penalty exponent 1 - 4/2
    assert bleu(count_grams(["a", "b"], 4), [count_grams(["a", "b", "c", "d"], 4)]) == pytest.approx(
        math.exp(1 - 4 / 2)
    )


def test_clipping_counts_a_repeated_word_only_as_often_as_the_reference_has_it():
    assert bleu(count_grams(["the"] * 4, 1), [count_grams(["the", "cat", "is", "on"], 1)]) == pytest.approx(0.25)


def test_self_bleu_is_one_for_copies_low_for_strangers_and_repeatable():
    assert self_bleu(["a b c d e"] * 5) == pytest.approx(1.0)
    different = [" ".join(f"w{k}{j}" for j in range(8)) for k in range(5)]
    assert self_bleu(different) == 0.0
    mixed = [f"the animal number {k} is here" for k in range(200)]
    assert self_bleu(mixed) == self_bleu(mixed)
    assert self_bleu(["only one"]) is None


def test_response_metrics_leave_out_failures_and_count_them():
    out = response_metrics([response(0, "a b"), response(1, "a b c d", "length"), response(2, "", error="too_long")])
    assert (out["responses"], out["failed"], out["words"], out["truncated"]) == (3, 1, 3.0, 0.5)
    assert out["words_se"] == pytest.approx(1.0)
    assert response_metrics([response(0, "", error="x")])["words"] is None


def test_judging_metrics_by_hand():
    out = judging_metrics(
        [judgement("p", 0, 4, 4, 5), judgement("p", 1, 4, None, 5), judgement("q", 0, 3, 3, 3), judgement("q", 1, 3, 3, 3),
         judgement("r", 0, None, None, 1)],
        min_valid=2,
    )  # fmt: skip
    assert (out["draws"], out["failed_draws"], out["eligible"]) == (15, 3, 4)
    assert out["high_scores"] == pytest.approx(5 / 12)
    assert out["tie_rate"] == 0.5  # q is tied, p is not, r has too few scores
    assert out["draw_histogram"] == {"1": 1, "3": 6, "4": 3, "5": 2}
    assert out["dominant"] == 0.5


def test_no_judgement_at_all_gives_none():
    out = judging_metrics([], 2)
    assert out["parse_failures"] is None
    assert out["tie_rate"] is None


def test_every_alarm_is_raised_beyond_its_threshold_and_not_at_it():
    limits = DriftSection()
    before = {"words": 10.0, "truncated": 0.0, "distinct_2": 0.4, "self_bleu": 0.2}
    bad = {"words": 15.1, "truncated": 0.11, "distinct_2": 0.29, "self_bleu": 0.36}
    judge = {"high_scores": 0.91, "tie_rate": 0.51, "parse_failures": 0.21}
    found = alarms_of_model("M2", limits, bad, before, judge, None)
    assert {a.name for a in found} == {
        "length_growth", "truncated", "distinct_drop", "self_bleu", "high_scores", "tie_rate", "parse_failures"
    }  # fmt: skip
    fine = {"words": 15.0, "truncated": 0.1, "distinct_2": 0.31, "self_bleu": 0.34}
    within = {"high_scores": 0.9, "tie_rate": 0.5, "parse_failures": 0.2}
    assert alarms_of_model("M2", limits, fine, before, within, None) == []
    collapsed = {**fine, "words": 4.9}  # responses that became scores ("Score: 1") after tuning on judgements alone
    assert [a.name for a in alarms_of_model("M2", limits, collapsed, before, None, None)] == ["length_drop"]
    assert alarms_of_model("M2", limits, {**fine, "words": 5.0}, before, None, None) == []


def test_a_model_without_a_predecessor_or_measurements_raises_nothing():
    assert alarms_of_model("M1", DriftSection(), None, None, None, None) == []
    empty = {"words": None, "truncated": None, "distinct_2": None, "self_bleu": None}
    assert alarms_of_model("M2", DriftSection(), empty, empty, None, None) == []


def test_kl_is_the_sum_of_log_ratios_over_the_sum_of_tokens():
    out = log_ratio([("p1", 3.0, 10), ("p1", 1.0, 10), ("p2", 0.0, 20)])
    assert out["kl"] == pytest.approx(0.1)
    # residuals by prompt: 4 - 2 and 0 - 2; sqrt((4 + 4) * 2 / 1) / 40
    assert out["se_kl"] == pytest.approx(0.1)
    assert log_ratio([("p", 1.0, 4)])["se_kl"] is None
    assert log_ratio([])["kl"] is None


def test_a_policy_far_from_the_one_before_raises_an_alarm_with_its_model():
    quiet = dict.fromkeys(("words", "truncated", "distinct_2", "self_bleu"))
    named = alarms_of_models(
        ["baseline", "M1", "M2"], DriftSection(), {"M2": {**quiet, "words": 30.0}, "M1": {**quiet, "words": 10.0}}, {},
        {"M2": {"kl": 0.7}},
    )  # fmt: skip
    assert [(a.model, a.name) for a in named] == [("M2", "length_growth"), ("M2", "kl")]
    first = alarms_of_models(
        ["baseline", "M1"], DriftSection(), {"baseline": {**quiet, "words": 1.0}, "M1": {**quiet, "words": 9.0}}, {}, {}
    )
    assert first == []  # M1 is compared with no model: it is trained on another task than the baseline


def test_the_judge_stages_health_gives_the_figures_that_alarms_go_by():
    rows = [
        judgement("p1", 0, 4, 5, None),
        judgement("p1", 1, 4, 4, 5),
        judgement("p2", 0, 2, 2, 2),
        judgement("p2", 1, 2, 2, 2),
    ]
    ours, health = judging_metrics(rows, 2), judge_health.health(rows, JudgeSection())
    assert judging_figures(health) == pytest.approx(
        {name: ours[name] for name in ("high_scores", "tie_rate", "parse_failures")}
    )


def test_judgements_without_a_score_raise_an_alarm_wherever_one_is_asked_for():
    limits, counts = DriftSection(), {"draws": 27, "failed_draws": 27}
    found = alarms_of_evaluation(["M1"], limits, {"M1": {"counts": counts}, "M0": {"counts": counts}}, {}, [])
    assert [(a.model, a.name, a.value) for a in found] == [("M1", "parse_failures", 1.0)]  # M0 is no judge of this run
    rows = [
        {"model": "M2", "other": "M1", "counts": {"win": 0, "tie": 0, "loss": 0, "unjudged": 27}},
        {"model": "M3", "other": "M1", "counts": {"win": 9, "tie": 9, "loss": 9, "unjudged": 0}},
    ]
    assert [(a.model, a.name) for a in alarms_of_evaluation([], limits, {}, {}, rows)] == [("M2", "unjudged")]
    few = {"counts": {"draws": 10, "failed_draws": 2}}
    assert alarms_of_evaluation(["M1"], limits, {"M1": few}, {}, []) == []
    of_files = {"M1": {"files": {"a.jsonl": few, "b.jsonl": {"counts": counts}}}}
    found = alarms_of_evaluation(["M1"], limits, {}, of_files, [])
    assert [a.text for a in found] == ["too many judgements of b.jsonl do not parse"]


def test_the_judge_of_eft_is_among_the_judges_where_it_writes_the_judgements():
    cfg = Config()
    assert judging_models(cfg) == ["baseline", "M1", "M2", "M3"]
    cfg.eft.source = "ranks"
    assert judging_models(cfg) == ["M1", "M2", "M3"]
    cfg.run.start = "instruct"
    assert judging_models(cfg) == ["M1", "M2", "M3"]  # M0 is compared with them, and was never taught to judge
    cfg.eft.source = "none"
    assert judging_models(cfg) == ["M1", "M2", "M3"]  # M1 is the given model, which judges as it is
    cfg.run.start, cfg.eft.source = "base", "ranks"
    eft = {"asked": 0, "examples": 5, "replies": 27, "parsed": 5}
    assert [(a.model, a.name) for a in alarms_of_data(cfg, None, eft)] == [("data", "parse_failures")]


def test_a_set_that_stays_short_raises_an_alarm_with_both_numbers():
    cfg = Config()
    cfg.seed.files = ["x"]
    seed = {"asked_ift": 3200, "ift": 3190, "asked_ranked_valid": 541, "ranked_valid": 541, "asked_eval_prompts": 256,
            "eval_prompts": 0}  # fmt: skip
    eft = {"asked": 1630, "examples": 1129, "replies": 2000, "parsed": 1990}
    found = alarms_of_data(cfg, seed, eft)
    assert [a.text for a in found] == [
        "0 of 256 evaluation prompts that were asked for",
        "1129 of 1630 EFT examples that were asked for",
    ]
    cfg.eval.prompts = "mine.jsonl"
    assert len(alarms_of_data(cfg, seed, eft)) == 1


def test_identical_draws_raise_an_alarm_for_whoever_wrote_them():
    made = [("M1", "prompts", {"identical_draws": 0.95}), ("M2", "prompts", {"identical_draws": 0.9}), ("M3", "x", {})]
    found = alarms_of_draws(Config(), [*made, ("M3", "y", None), ("M3", "z", {"identical_draws": None})])
    assert [(a.model, a.name, a.value) for a in found] == [("M1", "identical_draws", 0.95)]


def test_answers_without_a_grade_raise_an_alarm():
    graded = [("M1", {"graded": 150, "failed": 10}), ("M2", {"graded": 100, "failed": 60}), ("M3", None)]
    (found,) = alarms_of_grades(DriftSection(), graded)
    assert (found.model, found.name, found.value) == ("M2", "parse_failures", pytest.approx(60 / 160))

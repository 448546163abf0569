"""The judge's health: the counts of a run of judgements, and the alarms."""

import pytest

from nemo_srlm.config.evaluation import DriftSection
from nemo_srlm.config.generation import JudgeSection
from nemo_srlm.core.records import Judgement
from nemo_srlm.judge import health as judge_health


def judged(prompt: int, *scores: float | None, reasons: str = "stop", error: str = "") -> Judgement:
    texts = tuple(f"text {i}" for i in range(len(scores)))
    return Judgement(f"{prompt}-{scores}", f"p{prompt}", scores, texts, (reasons,) * len(scores), error)


def test_the_health_of_a_judge_counts_what_it_did():
    rows = [judged(1, 4.0, 4.0, 5.0), judged(1, 4.0, None, 5.0), judged(2, 3.0, 3.0, 3.0), judged(2, 3.0, 3.0, None)]
    rows += [judged(3, None, None, 1.0, reasons="length"), judged(3, error="too_long: 9 > 8")]
    health = judge_health.health(iter(rows), JudgeSection())
    assert health["judgements"] == 6
    assert health["errors"] == {"too_long": 1}
    assert health["draws"] == 15
    assert health["parse_failure"] == 4 / 15
    assert health["truncated"] == 3 / 15
    assert health["score_shares"] == {"1": 1 / 11, "3": 5 / 11, "4": 3 / 11, "5": 2 / 11}
    assert health["score_mean"] == pytest.approx(38 / 11)
    assert health["ineligible"] == 2
    assert health["agreement"] == 5 / 8  # pairs of draws: 1 of 3, 0 of 1, 3 of 3, 1 of 1
    assert health["tie_rate"] == 1 / 2  # prompt 3 has too few scores for a tie


def test_a_collapsed_or_failing_judge_raises_an_alarm():
    always_four = judge_health.health([judged(i, 4.0, 4.0, 4.0) for i in range(9)] + [judged(9, 1.0)], JudgeSection())
    assert ["collapsed" in line for line in judge_health.alarms(always_four, JudgeSection(), DriftSection())] == [True]
    failing = judge_health.health([judged(0, 1.0, None, None), judged(1, 2.0, 3.0, 4.0)], JudgeSection())
    assert ["state no score" in line for line in judge_health.alarms(failing, JudgeSection(), DriftSection())] == [True]
    healthy = judge_health.health([judged(0, 1.0, 2.0, 3.0)], JudgeSection())
    assert judge_health.alarms(healthy, JudgeSection(), DriftSection()) == []
    assert len(judge_health.alarms(judge_health.health([], JudgeSection()), JudgeSection(), DriftSection())) == 1


def test_draws_that_are_one_text_raise_an_alarm():
    def rows(identical: int, others: int) -> list[Judgement]:
        same = [Judgement(f"s{i}", "p", (1.0, 1.0), ("t", "t"), ("stop",) * 2) for i in range(identical)]
        return same + [Judgement(f"o{i}", "p", (1.0, 3.0), ("t", "u"), ("stop",) * 2) for i in range(others)]

    judge, limits = JudgeSection(alarm_dominant=1.0), DriftSection()
    ignored = judge_health.health(rows(19, 1), judge)
    assert ignored["identical_draws"] == 0.95
    assert ["`n` and `seed`" in line for line in judge_health.alarms(ignored, judge, limits)] == [True]
    at_it = judge_health.health(rows(9, 1), judge)
    assert judge_health.alarms(at_it, judge, limits) == []
    one_draw = judge_health.health([judged(0, 1.0)], judge)
    assert one_draw["identical_draws"] is None
    assert judge_health.alarms(one_draw, judge, limits) == []

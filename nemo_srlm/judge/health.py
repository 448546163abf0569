"""The health of a judge: parse failures, truncation, score shares, ties, agreement of draws, and the alarms on them."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from nemo_srlm.config.evaluation import DriftSection
from nemo_srlm.config.generation import JudgeSection
from nemo_srlm.core.records import Judgement
from nemo_srlm.judge.scores import aggregate, required_valid


@dataclass
class _Tally:
    """Counts and sums over the judgements seen so far."""

    judgements: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    draws: int = 0
    parsed: int = 0
    truncated: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    total: float = 0.0
    squares: float = 0.0
    ineligible: int = 0
    draw_pairs: int = 0
    draw_pairs_equal: int = 0
    repeated: int = 0  # judgements of two or more draws
    identical: int = 0  # of these, all draws one text
    prompts: int = 0
    ties: int = 0

    def add(self, judgement: Judgement) -> None:
        self.judgements += 1
        if judgement.error:
            kind = judgement.error.partition(":")[0]
            self.errors[kind] = self.errors.get(kind, 0) + 1
            return
        self.draws += len(judgement.scores)
        self.truncated += judgement.finish_reasons.count("length")
        if len(judgement.texts) >= 2:
            self.repeated += 1
            self.identical += len(set(judgement.texts)) == 1
        valid = [score for score in judgement.scores if score is not None]
        self.parsed += len(valid)
        for score in valid:
            self.total += score
            self.squares += score * score
            name = f"{math.floor(score + 0.5)}"  # shares by the nearest whole score
            self.counts[name] = self.counts.get(name, 0) + 1
        for i, a in enumerate(valid):
            for b in valid[i + 1 :]:
                self.draw_pairs += 1
                self.draw_pairs_equal += a == b


def health(judgements: Iterable[Judgement], judge: JudgeSection) -> dict[str, Any]:
    """Failures, truncation, shares of the scores, ties, spread and agreement of the draws, as metrics.

    One pass; the judgements of one prompt must be consecutive. A share is None where its denominator is 0.
    `agreement` is the share of pairs of parsed draws (of one candidate) with equal scores; `tie_rate` is the share of
    prompts with at least two eligible candidates whose means are all equal; `identical_draws` is the share of judgements of
    two or more draws whose draws are one text.
    """
    tally, needed = _Tally(), required_valid(judge)
    for _, group in groupby(judgements, key=lambda judgement: judgement.prompt_id):
        means = []
        for judgement in group:
            tally.add(judgement)
            mean = aggregate(judgement.scores, needed)
            means += [] if mean is None else [mean]
            tally.ineligible += mean is None
        if len(means) >= 2:
            tally.prompts += 1
            tally.ties += min(means) == max(means)
    mean = tally.total / tally.parsed if tally.parsed else None
    variance = None if mean is None else max(tally.squares / tally.parsed - mean * mean, 0.0)
    return {
        "judgements": tally.judgements,
        "errors": dict(sorted(tally.errors.items())),
        "ineligible": tally.ineligible,
        "draws": tally.draws,
        "parse_failure": _share(tally.draws - tally.parsed, tally.draws),
        "truncated": _share(tally.truncated, tally.draws),
        "score_shares": {k: _share(n, tally.parsed) for k, n in sorted(tally.counts.items())},
        "score_mean": mean,
        "score_std": None if variance is None else math.sqrt(variance),
        "agreement": _share(tally.draw_pairs_equal, tally.draw_pairs),
        "tie_rate": _share(tally.ties, tally.prompts),
        "identical_draws": _share(tally.identical, tally.repeated),
    }


def alarms(summary: Mapping[str, Any], judge: JudgeSection, drift: DriftSection) -> list[str]:
    """A message for each problem: one score dominates, too many draws fail or are one text, nothing was judged at all."""
    if not summary["draws"]:
        return [f"the judge gave no draw at all: {summary['judgements']} judgements, errors {summary['errors']}"]
    found = []
    if summary["parse_failure"] > judge.alarm_failures:
        found.append(
            f"{summary['parse_failure']:.1%} of {summary['draws']} judge draws state no score"
            f" (judge.alarm_failures {judge.alarm_failures:.0%}); judge.max_tokens cut {summary['truncated']:.1%}"
        )
    found += [
        f"the judge collapsed: {share:.1%} of its scores are {score} (judge.alarm_dominant {judge.alarm_dominant:.0%})"
        for score, share in summary["score_shares"].items()
        if share > judge.alarm_dominant
    ]
    if (summary["identical_draws"] or 0.0) > drift.identical_draws:
        found.append(
            f"{summary['identical_draws']:.1%} of the judgements are one text in all their draws (drift.identical_draws "
            f"{drift.identical_draws:.0%}): more draws add nothing; look at judge.temperature, and whether an endpoint obeys "
            "`n` and `seed`"
        )
    return found


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None

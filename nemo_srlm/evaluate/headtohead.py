"""Head-to-head of two models: a judge's verdicts in both orders become win, tie or loss, with intervals.

arXiv 2401.10020, section 3.1, "Evaluation Metrics": a judge compares the responses as (A, B) and as (B, A). It is a win or
a loss only when both verdicts name the same response, otherwise a tie. The paper does not specify unparsable verdicts: here
such an item is counted as unjudged, not as a tie.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from nemo_srlm.core.records import Record, content_id
from nemo_srlm.evaluate import statistics

Outcome = Literal["win", "tie", "loss", "unjudged"]
OUTCOMES: tuple[Outcome, ...] = ("win", "tie", "loss", "unjudged")
SIGNS = {"win": 1.0, "tie": 0.0, "loss": -1.0}


@dataclass(frozen=True)
class Comparison(Record):
    """One prompt, two models. `outcome` is that of `model`. `first` and `second` are the verdicts as written: "A", "B", "tie"
    or "" (unparsable). In the first order the response of `model` is A, in the second it is B.
    """

    prompt_id: str
    model: str
    other: str
    outcome: str
    first: str = ""
    second: str = ""
    texts: tuple[str, ...] = ()  # the judge's responses in both orders, for people
    category: str = ""
    words: int = 0  # of the model's response
    other_words: int = 0


def comparison_id(prompt_id: str, sample: int, model: str, other: str) -> str:
    return content_id("h2h", prompt_id, sample, model, other)


def outcome(first: str, second: str) -> Outcome:
    """The outcome for the model that is A in the order of `first` and B in that of `second`. Disagreement is a tie."""
    if not first or not second:
        return "unjudged"
    if (first, second) == ("A", "B"):
        return "win"
    if (first, second) == ("B", "A"):
        return "loss"
    return "tie"


def outcome_of_scores(score: float, other: float) -> Outcome:
    """For a judge that scores each response on its own (the tiny world's oracle), where the order has no effect."""
    return "win" if score > other else "loss" if score < other else "tie"


def summary(comparisons: Sequence[Comparison], asked: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Counts, shares and 95% intervals of one model against another.

    Returns {"win", "tie", "loss": shares of the judged, "intervals": share -> [low, high], "counts", "judged", "prompts"
    (with a judged comparison), "net": win - loss with "net_interval", "win_rate": wins + ties / 2, "sign_p": exact two-sided
    sign test over prompts won and lost, "words" and "other_words": mean lengths}. The samples of one prompt are summed
    first: intervals and test count prompts, and questions where `asked` names the question of a prompt. With nothing judged
    the shares are None.
    """
    unit = asked or {}
    counts = Counter(c.outcome for c in comparisons)
    judged = [c for c in comparisons if c.outcome != "unjudged"]
    nets = statistics.grouped((unit.get(c.prompt_id, c.prompt_id), SIGNS[c.outcome]) for c in judged)
    out: dict[str, Any] = {
        "counts": {name: counts[name] for name in OUTCOMES},
        "judged": len(judged),
        "prompts": len({c.prompt_id for c in judged}),
    }
    names = ("win", "tie", "loss")
    if not judged:
        empty = dict.fromkeys((*names, "net", "win_rate", "net_interval", "sign_p", "words", "other_words"))
        return {**out, **empty, "intervals": dict.fromkeys(names)}
    shares = {name: _share(judged, name, unit) for name in names}
    net = statistics.difference(dict.fromkeys(nets, (0.0, 1.0)), nets, span=1.0)
    assert net is not None
    return {
        **out,
        **{name: share.value for name, share in shares.items()},
        "intervals": {name: [share.low, share.high] for name, share in shares.items()},
        "net": net.value,
        "net_interval": [net.low, net.high],
        "win_rate": shares["win"].value + shares["tie"].value / 2,
        "sign_p": statistics.sign_test(sum(s > 0 for s, _ in nets.values()), sum(s < 0 for s, _ in nets.values())),
        "words": sum(c.words for c in comparisons) / len(comparisons),
        "other_words": sum(c.other_words for c in comparisons) / len(comparisons),
    }


def _share(judged: Sequence[Comparison], name: str, unit: Mapping[str, str]) -> statistics.Estimate:
    values = ((unit.get(c.prompt_id, c.prompt_id), float(c.outcome == name)) for c in judged)
    found = statistics.mean(statistics.grouped(values), 0.0, 1.0)
    assert found is not None
    return found


def by_category(comparisons: Sequence[Comparison], asked: Mapping[str, str] | None = None) -> dict[str, dict[str, Any]]:
    """`summary` per category, largest first; {} when the prompts have no categories."""
    groups: dict[str, list[Comparison]] = {}
    for c in comparisons:
        if c.category:
            groups.setdefault(c.category, []).append(c)
    return {name: summary(groups[name], asked) for name in sorted(groups, key=lambda n: (-len(groups[n]), n))}


def order_bias(comparisons: Sequence[Comparison]) -> dict[str, float] | None:
    """Position bias of the judge: share of A among the verdicts for A or B, and share of contradicting pairs of verdicts."""
    verdicts = [v for c in comparisons for v in (c.first, c.second) if v in {"A", "B"}]
    both = [c for c in comparisons if c.first and c.second]
    if not verdicts or not both:
        return None
    contradicting = sum(c.first == c.second and c.first in {"A", "B"} for c in both)
    return {"share_first": verdicts.count("A") / len(verdicts), "contradictions": contradicting / len(both)}

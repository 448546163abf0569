"""What every model scored on every prompt, instruction and question: the units that comparisons between models pair.

Read from the records of the finished evaluations, not from their manifests, so that old runs get today's statistics. A
figure whose records are missing has no units, and then no interval and no comparison.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from nemo_srlm.core.files import read_records
from nemo_srlm.core.pipeline import evaluated_models
from nemo_srlm.core.records import Candidate, Judgement, Prompt, RankedReply
from nemo_srlm.data.words import count_words
from nemo_srlm.evaluate import reward_metrics, statistics
from nemo_srlm.evaluate.alpaca_rows import is_whole
from nemo_srlm.evaluate.mtbench import Graded
from nemo_srlm.evaluate.response_scores import oracle_levels, scored, token_scores
from nemo_srlm.evaluate.statistics import Estimate, Units
from nemo_srlm.report.run_files import Data, RunFiles
from nemo_srlm.tiny_world.questions import parse

TOP_LEVEL = 5  # of the oracle


@dataclass(frozen=True)
class Figure:
    """A measured figure. `low` and `high`: its bounds (None: unbounded). `unit`: share, score, correlation, grade, words or nats.

    margin: two models are called equal when the interval of their difference lies within ± margin; None for a figure that is
    of two models already, and is not compared. detail: only in the table of its own room, not in those that compare.
    """

    title: str
    unit: str
    low: float | None
    high: float | None
    margin: float | None
    detail: bool = False

    @property
    def span(self) -> float | None:
        """The largest possible difference of two values."""
        return None if self.low is None or self.high is None else self.high - self.low

    def mean(self, units: Units) -> Estimate | None:
        return statistics.mean(units, self.low, self.high)

    def difference(self, first: Units, second: Units) -> Estimate | None:
        return statistics.difference(first, second, self.span)


FIGURES: dict[str, Figure] = {
    "oracle": Figure("oracle score", "score", 0, TOP_LEVEL, 0.1),
    "full": Figure("full marks", "share", 0, 1, 0.02),
    "correct": Figure("correctness", "share", 0, 1, 0.02),
    "all_correct": Figure("content all right", "share", 0, 1, 0.02),
    "pairwise_accuracy": Figure("pairwise accuracy as a judge", "share", 0, 1, 0.02),
    "pairwise_strict": Figure("pairwise accuracy as a judge, ties wrong", "share", 0, 1, 0.02, detail=True),
    "exact_match": Figure("exact match as a judge", "share", 0, 1, 0.02),
    "spearman": Figure("Spearman’s ρ as a judge", "correlation", -1, 1, 0.04, detail=True),
    "kendall": Figure("Kendall τ as a judge", "correlation", -1, 1, 0.04),
    "words": Figure("words", "words", None, None, 1.0),
    "alpaca_win_rate": Figure("AlpacaEval win rate", "share", 0, 1, 0.02),
    "mt_bench": Figure("MT-Bench", "grade", None, None, 0.2),  # grades outside 1 to 10 are kept
    "kl": Figure("KL to the previous policy", "nats", None, None, None),
}

JUDGING = tuple(name for name in reward_metrics.METRICS if name in FIGURES)  # 5-best is of other replies for each model

Measured = dict[str, dict[str, Units]]  # figure -> model -> its units


def read(files: RunFiles) -> Measured:
    """The units of every figure that at least one model has."""
    found: Measured = {name: {} for name in FIGURES}
    ranked = files.path(0, "held_out", "ranked_valid.jsonl")
    replies = list(read_records(ranked, RankedReply)) if ranked else []
    question = questions(files)
    for model, t, suffix in evaluated_models(files.cfg, files.cfg.iterations):

        def path(stage: str, name: str, t: int = t, suffix: str = suffix) -> Path | None:
            return files.path(t, f"{stage}{suffix}", name)

        for name, units in _of_model(path, replies, files):
            if units:
                found[name][model] = merged(units, question)
        row = files.alpaca_rows.get(model, {})
        preferences = row.get("preferences", {})  # an older version stored none
        if preferences and is_whole(row):  # the rate of a part stands in the table of AlpacaEval alone, which says so
            found["alpaca_win_rate"][model] = {key: (share, 1.0) for key, share in preferences.items()}
    return {name: models for name, models in found.items() if models}


def questions(files: RunFiles) -> dict[str, str]:
    """Of the tiny world: prompt or instruction id -> what it asks; {} without an oracle.

    Its held-out prompts are wordings of fewer questions, and a model that answers one wording right mostly answers all:
    wordings are no independent units. A real set's prompts ask a question each.
    """
    if not any(stage.startswith("eval_oracle") for _, stage in files.manifests):
        return {}
    prompts, ranked = (files.path(0, "held_out", name) for name in ("eval_prompts.jsonl", "ranked_valid.jsonl"))
    texts = {p.id: p.text for p in read_records(prompts, Prompt)} if prompts else {}
    texts |= {r.instruction_id: r.instruction for r in read_records(ranked, RankedReply)} if ranked else {}
    return {key: question.combination for key, text in texts.items() if (question := parse(text)) is not None}


def merged(units: Units, name: Mapping[str, str]) -> Units:
    """Units of one name as one; those without a name stay."""
    found: dict[str, tuple[float, float]] = {}
    for key, (total, number) in units.items():
        own = name.get(key, key)
        before = found.get(own, (0.0, 0.0))
        found[own] = (before[0] + total, before[1] + number)
    return found


def _of_model(
    path: Callable[[str, str], Path | None], replies: list[RankedReply], files: RunFiles
) -> Iterator[tuple[str, Units]]:
    if scores := path("eval_oracle", "scores.jsonl"):
        rows = list(oracle_levels(scores))
        yield "oracle", statistics.grouped((r.prompt_id, r.level) for r in rows)
        yield "full", statistics.grouped((r.prompt_id, float(r.level == TOP_LEVEL)) for r in rows)
        yield "correct", statistics.grouped((r.prompt_id, r.correctness) for r in rows)
        yield "all_correct", statistics.grouped((r.prompt_id, float(r.correctness == 1.0)) for r in rows)
    if responses := path("eval_responses", "responses.jsonl"):
        written = (c for c in read_records(responses, Candidate) if not c.error)
        yield "words", statistics.grouped((c.prompt_id, float(count_words(c.text))) for c in written)
    if judgements := path("eval_reward", "judgements.jsonl"):
        judged = {j.id: j for j in read_records(judgements, Judgement)}
        by_instruction = reward_metrics.by_instruction(
            replies, judged, files.min_valid_of_judge, files.cfg.judge.max_score
        )
        for name in JUDGING:
            yield name, reward_metrics.units_of(by_instruction, name)
    if grades := path("eval_mt_bench", "grades.jsonl"):
        given = ((str(g.question_id), g.score) for g in read_records(grades, Graded))
        yield "mt_bench", statistics.grouped((question, score) for question, score in given if score is not None)

    if log_probabilities := path("eval_kl", "scored.jsonl"):
        units: dict[str, tuple[float, float]] = {}
        for own, previous in scored(token_scores(log_probabilities)):
            total, tokens = units.get(own.prompt_id, (0.0, 0.0))
            units[own.prompt_id] = total + own.logp - previous.logp, tokens + own.num_tokens
        yield "kl", units


def estimates(measured: Measured) -> dict[str, dict[str, Data]]:
    """Figure -> model -> its mean with interval and number of units."""
    return {
        name: {model: found.to_json() for model, units in models.items() if (found := FIGURES[name].mean(units))}
        for name, models in measured.items()
    }


def changes(measured: Measured) -> dict[str, list[Data]]:
    """Figure -> the paired difference of every two models: {"first", "last", value, interval, num, "verdict", "left_out"}.

    Models in their order, "last" trained after "first". `left_out`: units that only one of the two has.
    """
    found: dict[str, list[Data]] = {}
    for name, models in measured.items():
        if FIGURES[name].margin is None:
            continue
        pairs = [(a, b) for i, a in enumerate(models) for b in list(models)[i + 1 :]]
        made = [(a, b, compared(name, models[a], models[b])) for a, b in pairs]
        found[name] = [{"first": a, "last": b, **change} for a, b, change in made if change is not None]
    return found


def compared(name: str, first: Units, last: Units) -> Data | None:
    """`last` minus `first` on the units of both; None without a common one."""
    kind = FIGURES[name]
    found = kind.difference(first, last)
    if found is None or kind.margin is None:
        return None
    verdict = statistics.verdict(found, kind.margin)
    return {**found.to_json(), "verdict": verdict, "left_out": len(first.keys() | last.keys()) - found.num}

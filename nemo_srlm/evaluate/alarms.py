"""Drift alarms: signs that the loop feeds on its own faults rather than getting better. Light, so that `status` shows them.

Each alarm compares a model's free responses, or its judging of candidates, with the model before it (drift.py has the
numbers). Thresholds are settings (`drift.*`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_srlm.config.evaluation import DriftSection
from nemo_srlm.config.schema import Config
from nemo_srlm.core import manifest
from nemo_srlm.core.stage import Ref, stage_directory

Data = dict[str, Any]


@dataclass(frozen=True)
class Alarm:
    model: str
    name: str
    value: float
    threshold: float
    text: str


def alarms(
    model: str,
    limits: DriftSection,
    responses: dict[str, Any] | None,
    before: dict[str, Any] | None,
    judging: dict[str, Any] | None,
    kl: dict[str, Any] | None = None,
) -> list[Alarm]:
    """What is beyond its threshold: `response_metrics` of a model and of the one before, its `judging_metrics`, its KL."""
    found: list[Alarm] = []

    def beyond(name: str, value: float | None, threshold: float, text: str) -> None:
        if value is not None and value > threshold:
            found.append(Alarm(model, name, value, threshold, text))

    def of(data: dict[str, Any] | None, name: str) -> float | None:
        return None if data is None or data[name] is None else float(data[name])

    now, was = of(responses, "words"), of(before, "words")
    if now is not None and was:
        beyond("length_growth", now / was, limits.length_growth, f"responses grew from {was:.1f} to {now:.1f} words")
    beyond("truncated", of(responses, "truncated"), limits.truncated, "responses are cut at the token limit")
    now, was = of(responses, "distinct_2"), of(before, "distinct_2")
    if now is not None and was:
        beyond("distinct_drop", 1 - now / was, limits.distinct_drop, f"distinct-2 fell from {was:.2f} to {now:.2f}")
    now, was = of(responses, "self_bleu"), of(before, "self_bleu")
    if now is not None and was is not None:
        beyond("self_bleu", now - was, limits.self_bleu, f"self-BLEU rose from {was:.2f} to {now:.2f}")
    moved = of(kl, "kl")
    beyond("kl", moved, limits.kl, f"its responses lie {moved or 0:.2f} nats a token from the policy before it")
    beyond("high_scores", of(judging, "high_scores"), limits.high_scores, "nearly every score is a 4 or a 5")
    beyond("tie_rate", of(judging, "tie_rate"), limits.tie_rate, "too many prompts have all candidates tied")
    beyond("parse_failures", of(judging, "parse_failures"), limits.parse_failures, "too many judgements do not parse")
    return found


def of_models(
    names: Sequence[str],
    limits: DriftSection,
    responses: Mapping[str, Data | None],
    judging: Mapping[str, Data | None],
    kl: Mapping[str, Data | None],
) -> list[Alarm]:
    """Each model against the one before it in `names`; the SFT baseline and M1 have none before them."""
    found: list[Alarm] = []
    for before, name in zip(["", *names], names, strict=False):
        earlier = None if before in ("", "baseline") else responses.get(before)
        found += alarms(name, limits, responses.get(name), earlier, judging.get(name), kl.get(name))
    return found


def of_health(health: Data) -> Data:
    """The judge stage's metrics (judging.health) by the names that `alarms` knows."""
    shares = health["score_shares"]
    high = sum(share for score, share in shares.items() if int(score) >= 4) if shares else None
    return {"high_scores": high, "tie_rate": health["tie_rate"], "parse_failures": health["parse_failure"]}


def of_run(cfg: Config, run_dir: Path) -> list[Alarm]:
    """The alarms of a run as far as it is finished, from its manifests alone."""

    def metrics(t: int, stage: str) -> Data | None:
        done = manifest.read(stage_directory(run_dir, Ref(stage, t)))
        return done.metrics if done else None

    names = ["baseline", *(f"M{t + 1}" for t in range(cfg.iterations + 1))]
    places = {"baseline": (0, "_baseline"), **{f"M{t + 1}": (t, "") for t in range(cfg.iterations + 1)}}
    responses = {name: (metrics(t, f"eval_responses{s}") or {}).get("drift") for name, (t, s) in places.items()}
    rounds = {f"M{t}": metrics(t, "judge") for t in range(1, cfg.iterations + 1)}
    judging = {name: of_health(found) for name, found in rounds.items() if found}
    kl = {f"M{t + 1}": metrics(t, "eval_kl") for t in range(1, cfg.iterations + 1)}
    return of_models(names, cfg.drift, responses, judging, kl)

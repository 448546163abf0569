"""Drift alarms: figures of drift.py beyond their thresholds (`drift.*`). `status` shows them, so imports stay light.

Each alarm concerns one model: its responses or its judging of candidates, for some figures against the model before it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_srlm.config.evaluation import DriftSection
from nemo_srlm.config.schema import Config
from nemo_srlm.core import manifest
from nemo_srlm.core.pipeline import evaluated_models, model_name
from nemo_srlm.core.stage import Ref, stage_directory

Data = dict[str, Any]


@dataclass(frozen=True)
class Alarm:
    model: str
    name: str
    value: float
    threshold: float
    text: str


def alarms_of_model(
    model: str, limits: DriftSection, responses: Data | None, before: Data | None, judging: Data | None, kl: Data | None
) -> list[Alarm]:
    """Figures beyond their threshold.

    `responses` and `before`: `drift.response_metrics` of the model and of the one before it; `judging`: the figures of
    `judging_figures`; `kl`: metrics of eval_kl. None where not measured.
    """
    found: list[Alarm] = []

    def beyond(name: str, value: float | None, threshold: float, text: str) -> None:
        if value is not None and value > threshold:
            found.append(Alarm(model, name, value, threshold, text))

    def of(data: Data | None, name: str) -> float | None:
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
    beyond("kl", moved, limits.kl, f"KL to the policy before it is {moved or 0:.2f} nats per token")
    beyond("high_scores", of(judging, "high_scores"), limits.high_scores, "nearly every score is a 4 or a 5")
    beyond("tie_rate", of(judging, "tie_rate"), limits.tie_rate, "too many prompts have all candidates tied")
    beyond("parse_failures", of(judging, "parse_failures"), limits.parse_failures, "too many judgements do not parse")
    return found


def alarms_of_models(
    names: Sequence[str],
    limits: DriftSection,
    responses: Mapping[str, Data | None],
    judging: Mapping[str, Data | None],
    kl: Mapping[str, Data | None],
) -> list[Alarm]:
    """Each model against the one before it in `names`; the SFT baseline and M1 have no model before them."""
    found: list[Alarm] = []
    for before, name in zip(["", *names], names, strict=False):
        earlier = None if before in ("", "baseline") else responses.get(before)
        found += alarms_of_model(name, limits, responses.get(name), earlier, judging.get(name), kl.get(name))
    return found


def judging_figures(health: Data) -> Data:
    """The figures that alarms compare, from the judge stage's metrics (judge.health)."""
    shares = health["score_shares"]
    high = sum(share for score, share in shares.items() if int(score) >= 4) if shares else None
    return {"high_scores": high, "tie_rate": health["tie_rate"], "parse_failures": health["parse_failure"]}


def alarms_of_run(cfg: Config, run_dir: Path) -> list[Alarm]:
    """The alarms of a run as far as it is finished, from its manifests alone."""

    def metrics(t: int, stage: str) -> Data | None:
        done = manifest.read(stage_directory(run_dir, Ref(stage, t)))
        return done.metrics if done else None

    models = evaluated_models(cfg, cfg.iterations)
    evaluated = {name: metrics(t, f"eval_responses{suffix}") for name, t, suffix in models}
    responses = {name: found["drift"] for name, found in evaluated.items() if found}
    iterations = range(1, cfg.iterations + 1)  # the policy of iteration t - 1 judges in iteration t
    health = {model_name(t - 1): metrics(t, "judge") for t in iterations}
    judging = {name: judging_figures(found) for name, found in health.items() if found}
    kl = {model_name(t): metrics(t, "eval_kl") for t in iterations}
    return alarms_of_models([name for name, _, _ in models], cfg.drift, responses, judging, kl)

"""Alarms: figures of a run beyond their thresholds (`drift.*`). `status` shows them, so imports stay light.

Most concern one model: its responses, or a judgement that states no score, wherever one is asked for (candidates, held-out
replies, eval.preferences, EFT, head-to-head, MT-Bench); for some figures against the model before it. The others concern the
data: a set that stays short of what was asked.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nemo_srlm.config.evaluation import DriftSection
from nemo_srlm.config.schema import Config
from nemo_srlm.core.pipeline import evaluated_models, has_ranked_replies, model_name, trains_m1

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
        beyond("length_drop", 1 - now / was, limits.length_drop, f"responses shrank from {was:.1f} to {now:.1f} words")
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


def alarms_of_evaluation(
    judges: Sequence[str],
    limits: DriftSection,
    reward: Mapping[str, Data | None],
    preferences: Mapping[str, Data | None],
    comparisons: Sequence[Data],
) -> list[Alarm]:
    """Judgements of evaluations that state no score or verdict.

    judges: the models that are to judge; the others were never taught to. reward: metrics of eval_reward by model.
    preferences: metrics of eval_preferences by model. comparisons: the rows of eval_h2h.
    """
    found: list[Alarm] = []
    for name in judges:
        read = preferences.get(name)
        judged = [("held-out replies", metrics)] if (metrics := reward.get(name)) else []
        judged += sorted(read["files"].items()) if read else []
        for what, metrics in judged:
            draws = metrics["counts"]["draws"]
            failed = metrics["counts"]["failed_draws"] / draws if draws else 0.0
            if failed > limits.parse_failures:
                text = f"too many judgements of {what} do not parse"
                found.append(Alarm(name, "parse_failures", failed, limits.parse_failures, text))
    for row in comparisons:
        number = sum(row["counts"].values())
        share = row["counts"]["unjudged"] / number if number else 0.0
        if share > limits.parse_failures:
            text = f"too many comparisons with {row['other']} have no verdict of the judge"
            found.append(Alarm(row["model"], "unjudged", share, limits.parse_failures, text))
    return found


def alarms_of_grades(limits: DriftSection, graded: Sequence[tuple[str, Data | None]]) -> list[Alarm]:
    """MT-Bench answers without a grade. graded: (model, metrics of eval_mt_bench)."""
    found = [(model, data["failed"], data["failed"] + data["graded"]) for model, data in graded if data]
    return [
        Alarm(
            model, "parse_failures", failed / number, limits.parse_failures, "too many MT-Bench answers have no grade"
        )
        for model, failed, number in found
        if number and failed / number > limits.parse_failures
    ]


def alarms_of_data(cfg: Config, seed: Data | None, eft: Data | None, sft: Data | None = None) -> list[Alarm]:
    """Sets that stay short of what was asked, EFT judgements that do not parse, and EFT examples that compare which M1's training
    has dropped for their length. `seed`, `eft`, `sft`: metrics of the stages."""
    found: list[Alarm] = []
    asked = {
        "ift": "IFT examples",
        "ranked_valid": "replies of the EFT evaluation",
        "eval_prompts": "evaluation prompts",
    }
    if cfg.run.start == "instruct":
        del asked["ift"]  # nothing is trained on them
    if not has_ranked_replies(cfg):
        del asked["ranked_valid"]
    if cfg.eval.prompts:
        del asked["eval_prompts"]  # they come from that file
    counted = [
        name for name in asked if seed and f"asked_{name}" in seed
    ]  # not in a seed stage of somebody else's pipeline
    sets = [(asked[name], seed[f"asked_{name}"], seed[name]) for name in counted] if seed else []
    sets += [("EFT examples", eft["asked"], eft["examples"])] if eft else []
    for text, wanted, got in sets:
        missing = 1 - got / wanted if wanted else 0.0
        if missing > cfg.drift.short:
            found.append(
                Alarm("data", "short", missing, cfg.drift.short, f"{got} of {wanted} {text} that were asked for")
            )
    made = eft.get("comparisons", 0) + eft.get("meta", 0) if eft else 0
    used = sft["data"]["used"] if sft and "data" in sft else {}
    if made and "eft_comparisons" in used:  # not in a training of an earlier version, or of somebody else's pipeline
        kept = used["eft_comparisons"]
        if 1 - kept / made > cfg.drift.short:
            text = f"{kept} of {made} EFT examples that compare fit sft.max_length ({cfg.sft.max_length}); the others are dropped"
            found.append(Alarm("data", "short", 1 - kept / made, cfg.drift.short, text))
    failed = 1 - eft["parsed"] / eft["replies"] if eft and eft.get("parsed") is not None and eft["replies"] else 0.0
    if failed > cfg.drift.parse_failures:
        text = "too many judgements for EFT do not parse"
        found.append(Alarm("data", "parse_failures", failed, cfg.drift.parse_failures, text))
    return found


def alarms_of_pairs(limits: DriftSection, pairs: Sequence[tuple[str, Data | None]]) -> list[Alarm]:
    """Iterations with fewer pairs than pairs.per_iteration asks for. pairs: (model that trains on them, metrics of pairs)."""
    found = [(model, data["asked"], data["pairs"]) for model, data in pairs if data and data.get("asked")]
    return [
        Alarm(model, "short", 1 - got / asked, limits.short, f"{got} of {asked} preference pairs that were asked for")
        for model, asked, got in found
        if 1 - got / asked > limits.short
    ]


def alarms_of_draws(cfg: Config, made: Sequence[tuple[str, str, Data | None]]) -> list[Alarm]:
    """Draws that are all one text. made: (model, what it wrote, metrics with "identical_draws" or without) of each stage."""
    limit = cfg.drift.identical_draws
    found = [(model, what, (metrics or {}).get("identical_draws") or 0.0) for model, what, metrics in made]
    return [
        Alarm(model, "identical_draws", share, limit, f"all draws are one text for {share:.0%} of the {what}")
        for model, what, share in found
        if share > limit
    ]


def judging_models(cfg: Config) -> list[str]:
    """The models that judge, or were taught to: all policies, also an M1 that is M0; the model before M1 only where it writes
    the EFT judgements."""
    return [
        name
        for name, _, suffix in evaluated_models(cfg, cfg.iterations)
        if not suffix or not trains_m1(cfg) or cfg.eft.source == "baseline"
    ]


def judging_figures(health: Data) -> Data:
    """The figures that alarms compare, from the judge stage's metrics (judge.health)."""
    shares = health["score_shares"]
    high = sum(share for score, share in shares.items() if int(score) >= 4) if shares else None
    return {"high_scores": high, "tie_rate": health["tie_rate"], "parse_failures": health["parse_failure"]}


def alarms_of_run(cfg: Config, metrics: Callable[[int, str], Data | None]) -> list[Alarm]:
    """The alarms of a run as far as it is finished, from the `metrics` of a stage (iteration, name) in its manifest."""
    models = evaluated_models(cfg, cfg.iterations)
    evaluated = {name: metrics(t, f"eval_responses{suffix}") for name, t, suffix in models}
    responses = {name: found["drift"] for name, found in evaluated.items() if found}
    iterations = range(1, cfg.iterations + 1)  # the policy of iteration t - 1 judges in iteration t
    health = {model_name(t - 1): metrics(t, "judge") for t in iterations}
    judging = {name: judging_figures(found) for name, found in health.items() if found}
    kl = {model_name(t): metrics(t, "eval_kl") for t in iterations}
    reward = {name: metrics(t, f"eval_reward{suffix}") for name, t, suffix in models}
    preferences = {name: metrics(t, f"eval_preferences{suffix}") for name, t, suffix in models}
    draws = [(model_name(t - 1), "prompts with candidates", metrics(t, "candidates")) for t in iterations]
    draws += [(name, "judged candidates", found) for name, found in health.items()]
    draws += [(name, "judged held-out replies", found.get("health")) for name, found in reward.items() if found]
    draws += [
        (name, "judged replies of eval.preferences", found.get("health"))
        for name, found in preferences.items()
        if found
    ]
    draws += [(name, "evaluation prompts", found) for name, found in evaluated.items() if found]
    versus = [found["comparisons"] for t in range(cfg.iterations + 1) if (found := metrics(t, "eval_h2h"))]
    return [
        *alarms_of_data(cfg, metrics(0, "seed"), metrics(0, "eft"), metrics(0, "sft")),
        *alarms_of_models([name for name, _, _ in models], cfg.drift, responses, judging, kl),
        *alarms_of_evaluation(
            judging_models(cfg), cfg.drift, reward, preferences, [row for rows in versus for row in rows]
        ),
        *alarms_of_grades(cfg.drift, [(name, metrics(t, f"eval_mt_bench{suffix}")) for name, t, suffix in models]),
        *alarms_of_draws(cfg, draws),
        *alarms_of_pairs(cfg.drift, [(model_name(t), metrics(t, "pairs")) for t in iterations]),
    ]

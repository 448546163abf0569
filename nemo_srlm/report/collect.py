"""Reads a run directory into plain JSON data, which is report.json: what is finished, and nothing else.

A model's key is "baseline" (SFT on IFT data only) or "M0" (an instruct model), "M1" (iteration 0), "M2"
(iteration 1), ... A stage that is not finished, or an evaluation that is turned off, gives None.
"""

from collections import Counter
from pathlib import Path

from nemo_srlm.config.compose import as_yaml
from nemo_srlm.core.files import read_records
from nemo_srlm.core.pipeline import base_ref, evaluated_models, pipeline, policy_ref, world_split
from nemo_srlm.core.records import Judgement, RankedReply
from nemo_srlm.evaluate import headtohead, reward_metrics
from nemo_srlm.evaluate.alarms import alarms_of_run
from nemo_srlm.evaluate.headtohead import Comparison
from nemo_srlm.report import (
    compare,
    costs,
    curves,
    families,
    nlp,
    preference_data,
    preference_files,
    samples,
    training_data,
    units,
)
from nemo_srlm.report.preference_data import num_lines
from nemo_srlm.report.run_files import Data, RunFiles


def collect(run_dir: Path) -> Data:
    """Everything that the report shows of one run. Raises ConfigError when `run_dir` is not a run's directory."""
    files = RunFiles(run_dir)
    return of_run(files, units.read(files))


def of_run(files: RunFiles, measured: units.Measured) -> Data:
    """`collect` of files that are read already."""
    cfg = files.cfg
    iterations = range(1, cfg.iterations + 1)
    models = [_model(files, *model) for model in evaluated_models(cfg, cfg.iterations)]
    made = [found for t in iterations if (found := preference_data.read(files, t)) is not None]
    versus = _head_to_head(files)
    return {
        "name": cfg.run.name,
        "path": str(files.dir),
        "arm": cfg.run.arm,
        "start": cfg.run.start,
        "eft_source": cfg.eft.source,
        "seed": cfg.run.seed,
        "language": cfg.seed.language,
        "world": world_split(cfg) is not None,
        "split": world_split(cfg),
        "world_seed": None if world_split(cfg) is None else cfg.world.seed,
        "iterations": cfg.iterations,
        "state": _state(files),
        "models": models,
        "estimates": units.estimates(measured),
        "changes": _changes(measured, models),
        "families": families.read(measured),
        "settings": compare.settings(files),
        "between": [],
        "over_seeds": [],
        "base_benchmarks": _base_benchmarks(files),
        "preference_changes": preference_files.read(files),
        "alignment_tax": nlp.read_tax(files),
        "head_to_head": versus,
        "h2h_by": cfg.eval.h2h_by,
        "preference_data": made,
        "seed_data": _seed_data(files),
        "eft": training_data.read_eft(files),
        "beta": cfg.dpo.beta,
        "alarms": [vars(alarm) for alarm in alarms_of_run(files.cfg, files.metrics)],  # those of `status`
        "curves": [c for key in sorted(files.manifests) if (c := curves.read(files, *key)) is not None],
        "stages": costs.read(files),
        "same_prompt": samples.same_prompt(files),
        "samples": [s for t in iterations if (s := samples.read(files, t)) is not None],
        "provenance": _provenance(files),
        "config": as_yaml(cfg),
    }


def _changes(measured: units.Measured, models: list[Data]) -> dict[str, list[Data]]:
    """The differences between models. Grades of MT-Bench by several judges, or by each model of itself, are not compared."""
    found = units.changes(measured)
    judges = {m["mt_bench"]["judge"] for m in models if m["mt_bench"]}
    return {
        name: rows for name, rows in found.items() if name != "mt_bench" or not (len(judges) > 1 or "itself" in judges)
    }


def _state(files: RunFiles) -> Data:
    # the report itself is being written: it never counts as missing
    wanted = [(ref.iteration, ref.stage) for ref in pipeline(files.cfg) if ref.stage != "report"]
    missing = [f"iter{t}/{name}" for t, name in wanted if (t, name) not in files.manifests]
    lost = [
        {"stage": f"iter{t}/{name}", "changed": files.lost[t, name]}
        for t, name in wanted if (t, name) in files.lost
    ]  # fmt: skip
    return {"done": len(wanted) - len(missing), "total": len(wanted), "missing": missing, "lost": lost}


def _model(files: RunFiles, name: str, iteration: int, suffix: str) -> Data:
    policy = policy_ref(files.cfg, iteration).stage
    training = {"_baseline": "baseline", "_base": base_ref(files.cfg).stage}.get(suffix, policy)
    return {
        "name": name,
        "iteration": iteration,
        "trained": (iteration, training) in files.manifests,
        "responses": _section(files.metrics(iteration, f"eval_responses{suffix}"), "drift"),
        "oracle": files.metrics(iteration, f"eval_oracle{suffix}"),
        "reward": _reward(files, iteration, suffix),
        "preferences": _section(files.metrics(iteration, f"eval_preferences{suffix}"), "files"),
        "alpaca": _alpaca(files, name, iteration, suffix),
        "mt_bench": files.metrics(iteration, f"eval_mt_bench{suffix}"),
        "benchmarks": _section(files.metrics(iteration, f"eval_harness{suffix}"), "tasks"),
        "selection": None if suffix else files.metrics(iteration, "select"),
        "kl": None if suffix else files.metrics(iteration, "eval_kl"),
        "training": files.metrics(iteration, training),
        "reference": files.path(iteration, training, "reference.npz") is not None,  # what rewards are relative to
    }


def _reward(files: RunFiles, iteration: int, suffix: str) -> Data | None:
    """The metrics of eval_reward, counted anew where its records are there: an old run gets today's intervals."""
    stored = files.metrics(iteration, f"eval_reward{suffix}")
    judged, ranked = (
        files.path(iteration, f"eval_reward{suffix}", "judgements.jsonl"), files.path(0, "held_out", "ranked_valid.jsonl"),
    )  # fmt: skip
    if stored is None or judged is None or ranked is None:
        return stored
    judgements = {j.id: j for j in read_records(judged, Judgement)}
    replies = list(read_records(ranked, RankedReply))
    found = reward_metrics.reward_metrics(
        replies, judgements, files.min_valid_of_judge, files.cfg.judge.max_score, files.cfg.eval.bootstrap > 0
    )
    return {**stored, **found}


def _section(metrics: Data | None, name: str) -> Data | None:
    return None if metrics is None else metrics[name]


def _base_benchmarks(files: RunFiles) -> Data | None:
    """The benchmarks of M0, where it is not among the evaluated models."""
    if any(suffix == "_base" for _, _, suffix in evaluated_models(files.cfg, 0)):
        return None
    return _section(files.metrics(0, "eval_harness_base"), "tasks")


def _alpaca(files: RunFiles, name: str, iteration: int, suffix: str) -> Data | None:
    """Length of the responses to AlpacaEval, and the leaderboard row where `nemo-srlm alpaca` has stored one."""
    responses, row = files.metrics(iteration, f"eval_alpaca{suffix}"), files.alpaca_rows.get(name)
    if responses is None and row is None:
        return None
    measured = {"characters": None, "responses": None}
    if responses is not None:
        measured = {"characters": responses["characters_mean"], "responses": responses["responses"]}
    return {**measured, "row": None if row is None else {k: v for k, v in row.items() if k != "preferences"}}


def _head_to_head(files: RunFiles) -> list[Data]:
    """Each comparison of each finished eval_h2h, in the order of the models, counted anew where its records are there."""
    found, asked = [], units.questions(files)
    for (t, stage), done in sorted(files.manifests.items(), key=lambda item: item[0]):
        if stage == "eval_h2h":
            path = files.path(t, stage, "comparisons.jsonl")
            if path is None:
                found += [{"prompts": row["judged"], **row} for row in done.metrics["comparisons"]]
                continue
            made = list(read_records(path, Comparison))
            for row in done.metrics["comparisons"]:
                these = [c for c in made if c.other == row["other"]]
                counted = headtohead.summary(these, asked)
                found.append({**row, **counted, "categories": headtohead.by_category(these, asked)})
    return found


def _seed_data(files: RunFiles) -> Data:
    ranked = files.path(0, "held_out", "ranked_valid.jsonl")
    held_out = None
    if ranked:
        groups = Counter(r.instruction_id for r in read_records(ranked, RankedReply))
        held_out = {"replies": sum(groups.values()), "instructions": len(groups)}
    return {
        "ift": num_lines(files.path(0, "seed", "ift.jsonl")),
        "eft": num_lines(files.path(0, "eft", "eft_train.jsonl")),
        "held_out": held_out,
    }


def _provenance(files: RunFiles) -> Data:
    """Every commit, version, host and Python that took part; the page marks more than one commit."""
    all_of = [done.provenance for done in files.manifests.values()]
    versions: dict[str, dict[str, None]] = {}  # dict keys: unique, in order of first use
    for provenance in all_of:
        for name, version in provenance["versions"].items():
            versions.setdefault(name, {})[version] = None
    return {
        "commits": list(dict.fromkeys(p["commit"] for p in all_of)),
        "hosts": list(dict.fromkeys(p["host"] for p in all_of)),
        "python": list(dict.fromkeys(p["python"] for p in all_of)),
        "versions": {name: list(found) for name, found in sorted(versions.items())},
        "started": min((p["started"] for p in all_of), default=None),
        "finished": max((p["finished"] for p in all_of), default=None),
    }

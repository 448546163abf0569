"""Reads the files of a run directory into plain JSON data (report.json): what is finished, and nothing else.

A model's key is "baseline" (SFT on IFT only), "M1" (iteration 0), "M2" (iteration 1), ...; a round t makes M(t+1).
Foreign manifests and metrics are read by name where they have it and as None where they do not: a run in progress, a
run without the tiny world's oracle and a run of an older version all give a report of what is there.
"""

from collections import Counter
from pathlib import Path

from nemo_srlm.config.compose import as_yaml
from nemo_srlm.config.schema import Config
from nemo_srlm.core.files import read_json_lines, read_records
from nemo_srlm.core.pipeline import NAMES, pipeline, policy_ref
from nemo_srlm.core.records import Candidate, Judgement, RankedReply
from nemo_srlm.evaluate import alarms, drift
from nemo_srlm.judge.scores import required_valid
from nemo_srlm.report import curves, samples
from nemo_srlm.report.run_files import Data, RunFiles, number

ROUND_STAGES = ("prompts", "candidates", "judge", "oracle_scores", "pairs", "dpo", "sft_chosen")


TRAINING = ("pretrain", "baseline", "sft", "dpo", "sft_chosen")


def model_name(iteration: int) -> str:
    return f"M{iteration + 1}"


def min_valid(cfg: Config) -> int:
    """Parsed draws that a candidate needs, as the stage `pairs` counts them."""
    return 1 if cfg.run.arm == "oracle" else required_valid(cfg.judge)


def collect(run_dir: Path) -> Data:
    """Everything that the report shows of one run. Raises ConfigError when `run_dir` is not a run's directory."""
    files = RunFiles(run_dir)
    cfg = files.cfg
    models = [_model(files, "baseline", 0, "_baseline")]
    models += [_model(files, model_name(t), t, "") for t in range(cfg.iterations + 1)]
    rounds = [r for t in range(1, cfg.iterations + 1) if (r := _round(files, t)) is not None]
    return {
        "name": cfg.run.name,
        "path": str(run_dir),
        "arm": cfg.run.arm,
        "seed": cfg.run.seed,
        "world": cfg.world.enabled,
        "split": cfg.world.split if cfg.world.enabled else None,
        "iterations": cfg.iterations,
        "state": _state(files),
        "models": models,
        "base_benchmarks": _section(files.metrics(0, "eval_harness_base"), "tasks"),
        "head_to_head": _head_to_head(files),
        "rounds": rounds,
        "seed_data": _seed_data(files),
        "alarms": _alarms(files, models, rounds),
        "curves": [c for key in sorted(files.manifests) if (c := curves.read(files, *key)) is not None],
        "stages": _stages(files),
        "answers": samples.answers(files),
        "samples": [s for t in range(1, cfg.iterations + 1) if (s := samples.of_round(files, t)) is not None],
        "provenance": _provenance(files),
        "config": as_yaml(cfg),
    }


def _state(files: RunFiles) -> Data:
    # the report itself is being written: it never counts as missing
    wanted = [(ref.iteration, ref.stage) for ref in pipeline(files.cfg) if ref.stage != "report"]
    missing = [f"iter{t}/{name}" for t, name in wanted if (t, name) not in files.manifests]
    return {"done": len(wanted) - len(missing), "total": len(wanted), "missing": missing}


def _model(files: RunFiles, name: str, iteration: int, suffix: str) -> Data:
    training = "baseline" if suffix else policy_ref(files.cfg, iteration).stage
    return {
        "name": name,
        "iteration": iteration,
        "trained": (iteration, training) in files.manifests,
        "responses": _responses(files, iteration, suffix),
        "oracle": files.metrics(iteration, f"eval_oracle{suffix}"),
        "reward": files.metrics(iteration, f"eval_reward{suffix}"),
        "preferences": _section(files.metrics(iteration, f"eval_preferences{suffix}"), "files"),
        "alpaca": _alpaca(files, name, iteration, suffix),
        "mt_bench": files.metrics(iteration, f"eval_mt_bench{suffix}"),
        "benchmarks": _section(files.metrics(iteration, f"eval_harness{suffix}"), "tasks"),
        "selection": None if suffix else files.metrics(iteration, "select"),
        "kl": None if suffix else files.metrics(iteration, "eval_kl"),
        "training": files.metrics(iteration, training),
    }


def _section(metrics: Data | None, name: str) -> Data | None:
    return None if metrics is None else metrics[name]


def _responses(files: RunFiles, iteration: int, suffix: str) -> Data | None:
    """What the stage noted; runs of an older version have the responses alone."""
    found = files.metrics(iteration, f"eval_responses{suffix}")
    if found is not None and "drift" in found:
        noted: Data = found["drift"]
        return noted
    path = files.path(iteration, f"eval_responses{suffix}", "responses.jsonl")
    return drift.response_metrics(list(read_records(path, Candidate))) if path else None


def _alpaca(files: RunFiles, name: str, iteration: int, suffix: str) -> Data | None:
    """Length of the answers to AlpacaEval, and the row of their annotations where `nemo-srlm alpaca` noted one."""
    answers, row = files.metrics(iteration, f"eval_alpaca{suffix}"), files.annotations.get(name)
    if answers is None and row is None:
        return None
    return {"characters": number(answers, "characters_mean"), "responses": number(answers, "responses"), "row": row}


def _head_to_head(files: RunFiles) -> list[Data]:
    """Each comparison of each finished eval_h2h, in the order of the models."""
    found = []
    for (_, stage), done in sorted(files.manifests.items(), key=lambda item: item[0]):
        if stage == "eval_h2h":
            found += done.metrics["comparisons"]
    return found


def _round(files: RunFiles, t: int) -> Data | None:
    """The making of the preference pairs of iteration t; None when nothing of it is finished."""
    if not any((t, stage) in files.manifests for stage in ROUND_STAGES):
        return None
    judgements = files.judgements(t)
    candidates = files.path(t, "candidates", "candidates.jsonl")
    return {
        "iteration": t,
        "policy": model_name(t - 1),
        "makes": model_name(t),
        "funnel": _funnel(files, t),
        "prompts": files.metrics(t, "prompts"),
        "candidates": drift.response_metrics(list(read_records(candidates, Candidate))) if candidates else None,
        "judging": drift.judging_metrics(list(read_records(judgements, Judgement)), min_valid(files.cfg))
        if judgements
        else None,
        "pairs": _pairs(files, t),
    }


def _lines(path: Path | None) -> int | None:
    return None if path is None else sum(1 for _ in read_json_lines(path))


def _reasons(path: Path | None) -> dict[str, int] | None:
    if path is None:
        return None
    return dict(Counter(str(data["reason"]) for _, data in read_json_lines(path)).most_common())


def _funnel(files: RunFiles, t: int) -> Data:
    """From attempts to pairs: how many are left at each step, and why the others are not."""
    made = files.metrics(t, "prompts")
    rejected = _filter_reasons(made)
    accepted = _lines(files.path(t, "prompts", "prompts.jsonl"))
    attempts = number(made, "attempts")
    if attempts is None and rejected is not None and accepted is not None:
        attempts = accepted + sum(rejected.values())
    return {
        "attempts": None if attempts is None else int(attempts),
        "rejected": rejected,
        "accepted": accepted,
        "candidates": _lines(files.path(t, "candidates", "candidates.jsonl")),
        "judged": _lines(files.judgements(t)),
        "pairs": _lines(files.path(t, "pairs", "pairs.jsonl")),
        "dropped": _reasons(files.path(t, "pairs", "dropped.jsonl")),
    }


def _filter_reasons(metrics: Data | None) -> dict[str, int] | None:
    """The prompts stage's rejections by reason, largest first."""
    if metrics is None:
        return None
    for name in ("rejected", "filtered", "reasons"):
        found = metrics.get(name)
        if isinstance(found, dict):
            counts = {str(k): int(v) for k, v in found.items() if isinstance(v, int) and v > 0}
            return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
    return None


def _pairs(files: RunFiles, t: int) -> Data | None:
    """Score margin and length of chosen against rejected: a length gap here becomes length growth in the next model."""
    path = files.path(t, "pairs", "pairs.jsonl")
    if path is None:
        return None
    margins, chosen, rejected = [], [], []
    for _, data in read_json_lines(path):
        if data["chosen_score"] is not None and data["rejected_score"] is not None:
            margins.append(data["chosen_score"] - data["rejected_score"])
        chosen.append(len(data["chosen"].split()))
        rejected.append(len(data["rejected"].split()))
    return {
        "count": len(chosen),
        "margin": sum(margins) / len(margins) if margins else None,
        "chosen_words": sum(chosen) / len(chosen) if chosen else None,
        "rejected_words": sum(rejected) / len(rejected) if rejected else None,
        "chosen_longer": sum(a > b for a, b in zip(chosen, rejected, strict=True)) / len(chosen) if chosen else None,
    }


def _seed_data(files: RunFiles) -> Data:
    ranked = files.path(0, "held_out", "ranked_valid.jsonl")
    held_out = None
    if ranked:
        groups = Counter(r.instruction_id for r in read_records(ranked, RankedReply))
        held_out = {"replies": sum(groups.values()), "instructions": len(groups)}
    return {
        "ift": _lines(files.path(0, "seed", "ift.jsonl")),
        "eft": _lines(files.path(0, "eft", "eft_train.jsonl")),
        "held_out": held_out,
    }


def _alarms(files: RunFiles, models: list[Data], rounds: list[Data]) -> list[Data]:
    """Drift alarms of each model against the one before it. Its judging is seen where it judged: the next round."""
    judging = {r["policy"]: r["judging"] for r in rounds}
    by_name = {key: {m["name"]: m[key] for m in models} for key in ("responses", "kl")}
    names = [m["name"] for m in models]
    found = alarms.of_models(names, files.cfg.drift, by_name["responses"], judging, by_name["kl"])
    return [vars(alarm) for alarm in found]


def _device_hours(files: RunFiles, iteration: int, stage: str, seconds: float | None) -> float | None:
    """GPU-hours (processes' on a CPU): of training its processes times wall time, of generation what its engines were
    busy for, starts and all shards and attempts included, times their GPUs. None for the other stages."""
    p = files.cfg.parallel
    if stage in TRAINING:
        return None if seconds is None else p.nodes * p.processes * seconds / 3600
    if stage.startswith("eval_harness"):  # a program of its own, that keeps no such account
        return None if seconds is None else files.cfg.generate.tensor_parallel * seconds / 3600
    metrics = files.metrics(iteration, stage) or {}
    busy = number(metrics.get("engine") or metrics.get("usage"), "seconds")
    return None if busy is None else files.cfg.generate.tensor_parallel * busy / 3600


def _tokens(files: RunFiles, iteration: int, stage: str) -> int | None:
    """Tokens that a stage trained on or generated, where it says so."""
    metrics = files.metrics(iteration, stage)
    sections = [metrics, *((metrics or {}).get(name) for name in ("engine", "usage"))]
    for section in sections:
        if isinstance(section, dict) and (found := number(section, "tokens")) is not None:
            return int(found)
    for output in ("candidates.jsonl", "responses.jsonl"):
        if path := files.path(iteration, stage, output):
            return sum(c.num_tokens for c in read_records(path, Candidate))
    return None


def _stages(files: RunFiles) -> list[Data]:
    """Finished stages in the order of the pipeline, with wall time (waiting between interruptions included)."""
    order = {(ref.iteration, ref.stage): i for i, ref in enumerate(pipeline(files.cfg))}
    rows = []
    for (t, name), done in sorted(files.manifests.items(), key=lambda kv: (order.get(kv[0], len(order)), kv[0])):
        started, finished = number(done.provenance, "started"), number(done.provenance, "finished")
        seconds = None if started is None or finished is None else max(0.0, finished - started)
        rows.append(
            {
                "iteration": t,
                "stage": name,
                "known": name in NAMES,
                "started": started,
                "seconds": seconds,
                "device_hours": _device_hours(files, t, name, seconds),
                "tokens": _tokens(files, t, name),
                "bytes": sum(int(o["bytes"]) for o in done.outputs.values()),
                "fingerprint": done.fingerprint,
                "reused": (files.dir / f"iter{t}" / name).is_symlink(),
            }
        )
    return rows


def _provenance(files: RunFiles) -> Data:
    """Every commit, version, host and Python that took part: more than one of a kind is worth knowing."""
    commits, hosts, pythons, versions = Counter[str](), Counter[str](), Counter[str](), dict[str, Counter[str]]()
    for done in files.manifests.values():
        p = done.provenance
        commits[str(p.get("commit", "unknown"))] += 1
        hosts[str(p.get("host", "unknown"))] += 1
        pythons[str(p.get("python", "unknown"))] += 1
        for name, version in dict(p.get("versions", {})).items():
            versions.setdefault(name, Counter())[str(version)] += 1
    times = [t for d in files.manifests.values() for k in ("started", "finished") if (t := number(d.provenance, k))]
    return {
        "commits": list(commits),
        "hosts": list(hosts),
        "python": list(pythons),
        "versions": {name: list(found) for name, found in sorted(versions.items())},
        "started": min(times, default=None),
        "finished": max(times, default=None),
    }

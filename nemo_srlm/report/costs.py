"""What each finished stage took: wall time, device hours, tokens, bytes; and the table of it by iteration."""

from nemo_srlm.core.pipeline import pipeline
from nemo_srlm.report.run_files import Data, RunFiles

TRAINING = ("pretrain", "baseline", "sft", "dpo", "sft_chosen")


def read(files: RunFiles) -> list[Data]:
    """A row per finished stage, in the order of the pipeline. Wall time includes waiting between interruptions."""
    order = {(ref.iteration, ref.stage): i for i, ref in enumerate(pipeline(files.cfg))}
    rows = []
    # a stage that the settings have turned off since then comes last
    for (t, name), done in sorted(files.manifests.items(), key=lambda kv: (order.get(kv[0], len(order)), kv[0])):
        seconds = max(0.0, done.provenance["finished"] - done.provenance["started"])
        rows.append(
            {
                "iteration": t,
                "stage": name,
                "started": done.provenance["started"],
                "seconds": seconds,
                "device_hours": _device_hours(files, name, seconds, done.metrics),
                "tokens": _tokens(done.metrics),
                "bytes": sum(o.bytes or 0 for o in done.outputs.values()),
                "fingerprint": done.fingerprint,
                "reused": (files.dir / f"iter{t}" / name).is_symlink(),
            }
        )
    return rows


def _usage(metrics: Data) -> Data:
    """The engine's account of a generating stage; {} for the others. eval_h2h stores it as "usage"."""
    found: Data = metrics.get("engine") or metrics.get("usage") or {}
    return found


def _device_hours(files: RunFiles, stage: str, seconds: float, metrics: Data) -> float | None:
    """GPU-hours (process-hours on a CPU).

    Training: processes times wall time. Generation: the time for which the engines were busy, starts and all shards and
    attempts included, times the GPUs of an engine. None for the other stages.
    """
    p = files.cfg.parallel
    if stage in TRAINING:
        return p.nodes * p.processes * seconds / 3600
    if stage.startswith("eval_harness"):  # an external program, which reports no busy time
        return files.cfg.generate.tensor_parallel * seconds / 3600
    busy = _usage(metrics).get("seconds")
    return None if busy is None else files.cfg.generate.tensor_parallel * busy / 3600


def _tokens(metrics: Data) -> int | None:
    """Tokens that a stage trained on or generated; None where it has no such count."""
    found = metrics.get("tokens", _usage(metrics).get("tokens"))
    return None if found is None else int(found)


def time_table(run: Data) -> Data:
    """Seconds by stage (rows, in the order of the pipeline) and iteration (columns), with totals."""
    names = list(dict.fromkeys(s["stage"] for s in run["stages"]))
    iterations = sorted({s["iteration"] for s in run["stages"]})
    by_key = {(s["stage"], s["iteration"]): s for s in run["stages"]}
    longest = max((s["seconds"] for s in run["stages"]), default=0.0) or 1.0
    rows = []
    for name in names:
        cells = [by_key.get((name, t)) for t in iterations]
        known = [c for c in cells if c is not None]
        tokens = [c["tokens"] for c in known if c["tokens"] is not None]
        seconds = sum(c["seconds"] for c in known)
        devices = [c["device_hours"] for c in known if c["device_hours"] is not None]
        rows.append(
            {
                "name": name,
                "cells": [
                    None
                    if c is None
                    else {"seconds": c["seconds"], "share": c["seconds"] / longest, "reused": c["reused"]}
                    for c in cells
                ],
                "seconds": seconds,
                "tokens": sum(tokens) if tokens else None,
                "device_hours": sum(devices) if devices else None,
            }
        )
    totals = [sum(s["seconds"] for s in run["stages"] if s["iteration"] == t) for t in iterations]
    spent = [row["device_hours"] for row in rows if row["device_hours"] is not None]
    made = [row["tokens"] for row in rows if row["tokens"] is not None]
    return {
        "iterations": iterations, "rows": rows, "totals": totals, "total": sum(totals),
        "device_hours": sum(spent) if spent else None, "tokens": sum(made) if made else None,
    }  # fmt: skip

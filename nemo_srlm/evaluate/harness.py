"""lm-evaluation-harness: its command line for an exported model, and the numbers of its results file.

Tasks are written `name` or `name:shots`. Tasks with the same number of shots run in one process: the harness takes one
number of shots per process.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_srlm.core.files import decoded, read_json, read_json_lines
from nemo_srlm.errors import ConfigError, DataError

# The metric to show first, by preference; BY_TASK overrides it.
MAIN = ("exact_match,strict-match", "exact_match,remove_whitespace", "exact_match,none", "acc_norm,none", "acc,none")
BY_TASK = {"mmlu": "acc,none", "piqa": "acc,none", "social_iqa": "acc,none"}
PAPER = {  # task -> row of paper.BENCHMARKS
    "arc_challenge": "ARC-Challenge", "hellaswag": "HellaSwag", "gsm8k": "GSM8K", "mmlu": "MMLU",
    "nq_open": "Natural Questions",
}  # fmt: skip
OFFLINE = (  # signs in the harness's log of a data set that cannot be fetched
    "OfflineModeIsEnabled", "LocalEntryNotFoundError", "ConnectionError", "Couldn't reach", "Couldn't find cache",
    "offline mode", "MaxRetryError", "Name or service not known", "DatasetNotFoundError",
)  # fmt: skip


@dataclass(frozen=True)
class QuestionScore:
    """A line of questions.jsonl: what a model's answer to one question of a task is worth, in the task's main metric."""

    task: str
    question: str
    value: float


def by_shots(tasks: Sequence[str]) -> dict[int | None, list[str]]:
    """Number of shots (None: the task's own) -> names. Raises ConfigError for what is neither `name` nor `name:shots`."""
    groups: dict[int | None, list[str]] = {}
    for task in tasks:
        name, _, shots = task.partition(":")
        if not name or (shots and not shots.isdigit()):
            raise ConfigError("eval.harness.tasks", repr(task), "task or task:shots, for example gsm8k:8")
        groups.setdefault(int(shots) if shots else None, []).append(name)
    return groups


def command(
    python: str, backend: str, model_args: str, tasks: Sequence[str], shots: int | None, out: Path, limit: int,
    include_path: str, chat_template: bool = False,
) -> list[str]:  # fmt: skip
    """The harness's command line for one group of tasks."""
    found = [python, "-m", "lm_eval", "--model", backend, "--model_args", model_args, "--tasks", ",".join(tasks)]
    found += ["--output_path", str(out), "--batch_size", "auto", "--log_samples"]
    found += ["--apply_chat_template"] if chat_template else []
    found += [] if shots is None else ["--num_fewshot", str(shots)]
    found += ["--limit", str(limit)] if limit else []
    return found + (["--include_path", include_path] if include_path else [])


def newest_results(out: Path) -> Path:
    """The results file that a run wrote under `out`. Raises DataError when there is none."""
    found = sorted(out.rglob("results_*.json"), key=lambda path: path.stat().st_mtime_ns)
    if not found:
        raise DataError(out, "no results_*.json", "what `lm_eval --output_path` writes")
    return found[-1]


def read_results(path: Path) -> dict[str, dict[str, Any]]:
    """Task -> {"value", "se" (standard error or None), "metric", "shots", "samples", "lm_eval", "all": metric -> value}.

    A group of tasks (mmlu) gives its own row only, not those of its subtasks. Raises DataError.
    """
    try:
        data = read_json(path)
        rows = {**data["results"], **data.get("groups", {})}
        shots, samples = data.get("n-shot", {}), data.get("n-samples", {})
        groups = data.get("group_subtasks", {})
        parts = {name for names in groups.values() for name in names}
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(path, f"no results ({error!r})", "what `lm_eval --output_path` writes") from error
    found = {}
    for task, row in rows.items():
        if task in parts:
            continue
        values = {
            name: float(value)
            for name, value in row.items()
            if isinstance(value, (int, float)) and "," in name and "_stderr," not in name
        }
        if not values:
            raise DataError(path, f"task {task} has no metric", "numbers such as acc,none")
        metric = main_metric(task, values)
        spread = row.get(metric.replace(",", "_stderr,", 1))
        found[task] = {
            "value": values[metric],
            "se": float(spread) if isinstance(spread, (int, float)) else None,
            "metric": metric,
            "shots": shots.get(task),
            "samples": sum(samples[leaf]["effective"] for leaf in leaves(task, groups) if leaf in samples) or None,
            "lm_eval": data.get("lm_eval_version", ""),
            "all": values,
        }
    return found


def leaves(task: str, groups: Mapping[str, Sequence[str]]) -> list[str]:
    """The tasks that a group (mmlu) consists of, in groups of groups too; a task itself."""
    return [leaf for part in groups[task] for leaf in leaves(part, groups)] if groups.get(task) else [task]


def read_questions(path: Path, tasks: Mapping[str, Mapping[str, Any]]) -> Iterator[QuestionScore]:
    """The questions of each task of a results file, from the samples_*.jsonl beside it (`--log_samples`).

    A task whose mean over its questions is not its result (another weight of its parts) gives none. Raises DataError.
    """
    groups = read_json(path).get("group_subtasks", {})
    stamp = path.stem.removeprefix("results_")
    for task, row in tasks.items():
        metric, _, wanted = row["metric"].partition(",")
        found = []
        for leaf in leaves(task, groups):
            samples = path.with_name(f"samples_{leaf}_{stamp}.jsonl")
            for number, data in read_json_lines(samples) if samples.exists() else ():
                where = f"{samples}:{number}"
                one = decoded(data, _Sample, where, "a line of lm_eval's samples")
                if one.filter == wanted and metric in data:
                    found.append(QuestionScore(task, f"{leaf}/{one.doc_id}", decoded(data[metric], float, where)))
        if found and abs(sum(q.value for q in found) / len(found) - row["value"]) < 1e-6:
            yield from found


@dataclass(frozen=True)
class _Sample:
    """A line of samples_*.jsonl, as far as it is read; its metrics are fields beside these."""

    doc_id: int
    filter: str


def main_metric(task: str, values: dict[str, float]) -> str:
    """The metric to show first: the one of BY_TASK, else the first in the order of MAIN, else the first of `values`."""
    wanted = [BY_TASK[task]] if task in BY_TASK else []
    return next((name for name in (*wanted, *MAIN) if name in values), next(iter(values)))


UNKNOWN = "see the log"  # the remedy where no setting is known to be the cause


def failure(log: str) -> tuple[str, str]:
    """(what happened, remedy) of a harness process that failed, from its log."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    last = lines[-1] if lines else "its log is empty"
    if any(sign in log for sign in OFFLINE):
        return (
            f"a task's data set is not on this machine and cannot be fetched ({last[:300]})",
            "run the same tasks once on a machine with network access, with HF_HOME on a disk that both machines share; or "
            "name tasks whose data is local (eval.harness.include_path)",
        )
    if "No module named" in last:
        return last, "install it in the harness's interpreter (eval.harness.python)"
    return last[:400], UNKNOWN

"""The files of a run's directory, damaged, and the verbs that look at it."""

import json
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from tools.bench.inputs.case import ACCEPTED, ANSWERED, COUNTED, REFUSED, Case, command
from tools.bench.inputs.models import ODD, TEXTS, _bytes, _replace
from tools.bench.inputs.stores import copy

RECORDS = (
    "iter1/prompts/prompts.jsonl",
    "iter1/candidates/candidates.jsonl",
    "iter1/judge/judgements.jsonl",
    "iter1/pairs/pairs.jsonl",
    "iter1/pairs/dropped.jsonl",
    "iter0/eval_responses_baseline/responses.jsonl",
    "iter0/eval_oracle_baseline/scores.jsonl",
    "iter0/pretrain/metrics.jsonl",
    "iter0/held_out/eval_prompts.jsonl",
)
LINES = {
    "list": "[1]",
    "null": "null",
    "number": "7",
    "text": '"a"',
    "empty object": "{}",
    "no JSON": "{",
    "brackets": "[" * 100_000,
    "digits": '{"id": ' + "1" * 5000 + "}",
    "NaN": '{"id": NaN, "step": NaN}',
    "half a pair": '{"id": "\\ud83d"}',
    "nulls": '{"id": null, "text": null, "prompt_id": null, "reason": null, "step": null, "level": null}',
    "numbers": '{"id": 1, "text": 2, "prompt_id": 3, "reason": 4, "step": "x", "level": "y"}',
}
SHOWN = {
    "iter1/prompts/prompts.jsonl",
    "iter1/candidates/candidates.jsonl",
    "iter1/judge/judgements.jsonl",
    "iter1/pairs/pairs.jsonl",
    "iter1/pairs/dropped.jsonl",
}
MANIFEST = "iter1/pairs/manifest.json"


def _verb(verb: str) -> list[str]:
    words = {
        "status --json": ["status", "run", "--json"],
        "show": ["show", "@", "run"],
        "logs": ["logs", "iter1/judge", "run"],
    }
    return words.get(verb, [verb, "run"])


def _look(verb: str, change: Callable[[Path], object]) -> int:
    """A verb on a damaged copy of the run."""
    directory = copy("run")
    first = (directory / "iter1/prompts/prompts.jsonl").read_text(encoding="utf-8").splitlines()[0]
    change(directory)
    code = command(*(json.loads(first)["id"] if word == "@" else word for word in _verb(verb)))
    report = directory / "report.json"
    if code == 0 and verb == "report" and (lost := _lost(json.loads(report.read_text(encoding="utf-8")))):
        print(COUNTED, lost)  # the page says which stages' files are not what they were
    return code


def _lost(report: dict[str, Any]) -> list[Any]:
    return [found for run in report["runs"] for found in run["state"]["lost"]]


def _unrecorded(path: Path) -> None:
    """The manifest beside `path` as earlier versions wrote it: without sizes and digests."""
    manifest = path.parent / "manifest.json"
    data = json.loads(manifest.read_text(encoding="utf-8"))
    manifest.write_text(json.dumps(data | {"outputs": {}, "digest": ""}), encoding="utf-8")


def _line(name: str, data: str) -> Callable[[Path], None]:
    """A bad line before the good ones."""

    def change(directory: Path) -> None:
        path = directory / name
        path.write_text(data + "\n" + path.read_text(encoding="utf-8"), encoding="utf-8")
        _unrecorded(path)

    return change


def _manifest(edit: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        path = directory / MANIFEST
        data = json.loads(path.read_text(encoding="utf-8"))
        edit(data)
        path.write_text(json.dumps(data), encoding="utf-8")

    return change


MANIFESTS: dict[str, Callable[[dict[str, Any]], object]] = {
    "extra key": lambda d: d.update(more=1),
    "no metrics": lambda d: d.pop("metrics"),
    "no provenance": lambda d: d.pop("provenance"),
    "metrics null": lambda d: d.update(metrics=None),
    "metrics list": lambda d: d.update(metrics=[]),
    "metrics emptied": lambda d: d.update(metrics={}),
    "metrics nonsense": lambda d: d.update(metrics={"summary": None, "health": 3}),
    "provenance null": lambda d: d.update(provenance=None),
    "provenance texts": lambda d: d["provenance"].update(started="x", finished=3),
    "provenance emptied": lambda d: d.update(provenance={}),
    "iteration text": lambda d: d.update(iteration="1"),
    "stage number": lambda d: d.update(stage=3),
    "outputs list": lambda d: d.update(outputs=[]),
    "fingerprint null": lambda d: d.update(fingerprint=None),
    "identity null": lambda d: d.update(identity=None),
    "fingerprint changed": lambda d: d.update(fingerprint="x"),
    "identity changed": lambda d: d["identity"].update(stage="x"),
    "nan": lambda d: d["metrics"].update(x=float("nan")),
}
PROGRESS = {
    "null": "null",
    "list": "[1]",
    "texts": '{"done": "x", "total": "y"}',
    "empty object": "{}",
    "Latin-1": b"\xff",
    "cut": '{"done": 1',
    "brackets": "[" * 100_000,
    "nan": '{"done": NaN}',
    "digits": '{"done": ' + "1" * 5000 + "}",
    "empty": "",
}
JOBS = {
    "cut": "[{",
    "null": "null",
    "object": "{}",
    "nonsense": '[{"a": 1}]',
    "numbers": "[1, 2]",
    "Latin-1": b"\xff",
    "brackets": "[" * 100_000,
    "texts": '[{"id": 1, "key": 2, "role": "work", "refs": "x", "shards": [], "num_shards": 1, "after": [], "time": 0}]',
}


def _file(name: str, data: str | bytes) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())

    return change


def _unfinished(change: Callable[[Path], object]) -> Callable[[Path], None]:
    """Without the manifest of the stage, so that its progress is shown."""

    def both(directory: Path) -> None:
        (directory / MANIFEST).unlink()
        change(directory)

    return both


def _folder(name: str) -> Callable[[Path], None]:
    return lambda directory: os.makedirs(directory / name)


def cases() -> Iterator[Case]:
    nothing: Callable[[Path], object] = lambda directory: None  # noqa: E731
    for verb in ("status", "status --json", "report", "show"):
        yield Case("run directory", f"good [{verb}]", partial(_look, verb, nothing), ACCEPTED)
    for name in RECORDS:
        for verb in ("report", "show"):
            if verb == "show" and name not in SHOWN:
                continue
            for kind, data in LINES.items():
                yield Case("run: records", f"{name}: {kind} [{verb}]", partial(_look, verb, _line(name, data)))
            for kind in ("folder", "pipe", "loop", "/dev/zero"):
                yield Case("run: records", f"{name}: {kind} [{verb}]", partial(_look, verb, _replace(name, kind)))
            for kind in ("UTF-16", "NUL", "Latin-1"):
                yield Case("run: records", f"{name}: {kind} [{verb}]", partial(_look, verb, _bytes(name, TEXTS[kind])))
    for verb in ("status", "status --json", "report"):
        for kind, data in TEXTS.items():
            yield Case("run: manifests", f"{kind} [{verb}]", partial(_look, verb, _bytes(MANIFEST, data)))
        for kind in ODD:
            if kind != "absent":
                yield Case("run: manifests", f"{kind} [{verb}]", partial(_look, verb, _replace(MANIFEST, kind)))
        for kind, edit in MANIFESTS.items():
            yield Case("run: manifests", f"{kind} [{verb}]", partial(_look, verb, _manifest(edit)))
    for verb in ("status", "status --json"):
        for kind, text in PROGRESS.items():
            change = _unfinished(_file("iter1/pairs/progress.json", text))
            yield Case("run: progress", f"{kind} [{verb}]", partial(_look, verb, change), ANSWERED)
        for kind, error in {
            "Latin-1": b"\xff",
            "empty": b"",
            "blank": b"\n\n",
            "escapes": b"\x1b[31mred\x1b[0m",
        }.items():
            yield Case(
                "run: progress",
                f"error {kind} [{verb}]",
                partial(_look, verb, _unfinished(_file("iter1/pairs/logs/error", error))),
                ANSWERED,
            )
        for kind, jobs in JOBS.items():
            yield Case("run: jobs", f"{kind} [{verb}]", partial(_look, verb, _file("slurm/jobs.json", jobs)))
    for name in ("iter", "iterx", "iter\u00b2", "iter-1", "iter99999999999999999999", "iter1 "):
        for verb in ("status", "report", "show"):
            yield Case("run directory", f"folder {name!r} [{verb}]", partial(_look, verb, _folder(name)), ANSWERED)
    for data in ("[]", "{}", '{"win_rate": "x"}', '{"win_rate": null}', "null", "[" * 100_000, '{"win_rate": NaN}'):
        yield Case(
            "run directory",
            f"annotations {data[:20]}",
            partial(_look, "report", _file("annotations/alpaca_M1.json", data)),
            REFUSED,
        )

"""Every setting that names a path, with paths of odd kinds, in a config that is good besides: looked at before a run begins."""

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tools.bench.inputs.case import ACCEPTED, Case, command, write
from tools.bench.inputs.seeds import GOOD
from tools.bench.inputs.sets import JUDGE, PROMPTS, QUESTIONS, TEMPLATES
from tools.bench.inputs.stores import store

CONFIG = """\
import_hf: {path: HF}
seed: {files: [x.trees.jsonl], num_ift: 4, num_eval_prompts: 2}
eft: {source: ranks, num_valid: 2}
judge: {template: judge.txt}
prompts: {template: write.txt}
"""
FILES = {
    "x.trees.jsonl": GOOD["x.trees.jsonl"],
    "x.jsonl": PROMPTS,
    "question.jsonl": QUESTIONS,
    "judge.jsonl": JUDGE,
    "judge.txt": TEMPLATES["judge"],
    "write.txt": TEMPLATES["write"],
    "compare.txt": TEMPLATES["compare"],
}
ODD = (
    "absent",
    "folder",
    "pipe",
    "loop",
    "/dev/zero",
    "/dev/null",
    "long name",
    "long path",
    "below a file",
    "empty file",
    "gz cut",
)
# setting -> (how it is given, what else it needs)
SETTINGS: dict[str, tuple[str, tuple[str, ...]]] = {
    "seed.files": ("[{}]", ()),
    "seed.chat_files": ("[{}]", ()),
    "prompts.files": ("[{}]", ("prompts.source=both",)),
    "prompts.template": ("{}", ()),
    "prompts.writer_path": ("{}", ()),
    "judge.template": ("{}", ()),
    "eval.h2h_template": ("{}", ()),
    "eval.h2h_judge_path": ("{}", ()),
    "eval.prompts": ("{}", ()),
    "eval.preferences": ("[{}]", ()),
    "eval.alpaca.prompts": ("{}", ()),
    "eval.mt_bench.questions": ("{}", ("eval.mt_bench.judge_prompts=judge.jsonl",)),
    "eval.mt_bench.judge_prompts": ("{}", ("eval.mt_bench.questions=question.jsonl",)),
    "eval.mt_bench.references": (
        "{}",
        ("eval.mt_bench.questions=question.jsonl", "eval.mt_bench.judge_prompts=judge.jsonl"),
    ),
    "eval.mt_bench.judge_path": (
        "{}",
        ("eval.mt_bench.questions=question.jsonl", "eval.mt_bench.judge_prompts=judge.jsonl"),
    ),
    "select.prompts": ("{}", ("select.every=5", "select.stages=[dpo]")),
    "select.template": ("{}", ("select.every=5", "select.stages=[dpo]", "select.prompts=x.jsonl")),
    "select.judge_path": ("{}", ("select.every=5", "select.stages=[dpo]", "select.prompts=x.jsonl")),
    "pairs.files": ("[{}]", ("run.arm=external",)),
    "import_hf.path": ("{}", ()),
    "run.reuse": ("{}", ()),
    "eval.harness.python": ("{}", ("eval.harness.enabled=true",)),
}
CONTENT_LATER = (
    "seed.files",
    "seed.chat_files",
    "pairs.files",
    "eval.preferences",
    "prompts.files",
)  # empty and cut ones: by the stage that reads them


def _odd(kind: str) -> str:
    """A path of this kind."""
    path = Path("odd.gz" if kind == "gz cut" else "odd")
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "loop":
        path.symlink_to("odd")
    elif kind == "empty file":
        path.touch()
    elif kind == "gz cut":
        path.write_bytes(b"\x1f\x8b\x08\0")
    return {
        "long name": "x" * 300,
        "long path": "x/" * 3000,
        "below a file": "x.jsonl/y",
        "/dev/zero": kind,
        "/dev/null": kind,
    }.get(kind, str(path))


def _plan(*words: str) -> int:
    for name, data in FILES.items():
        write(name, data)
    write("configs/case.yaml", CONFIG.replace("HF", str(store() / "hf")))
    return command("plan", "--config-dir", "configs", "--config-name", "case", "run.root=runs", *words)


def _given(setting: str, kind: str) -> int:
    form, more = SETTINGS[setting]
    for name, data in FILES.items():
        write(name, data)
    return _plan(f"{setting}={form.format(_odd(kind))}", *more)


def cases() -> Iterator[Case]:
    yield Case("paths", "good", _plan, ACCEPTED)
    for setting, (_, more) in SETTINGS.items():
        if more and setting not in (
            "pairs.files",
            "eval.harness.python",
            "select.prompts",
            "prompts.files",
            "eval.mt_bench.questions",
            "eval.mt_bench.judge_prompts",
        ):
            yield Case("paths", f"good with {' '.join(more)}", partial(_plan, *more), ACCEPTED)
        for kind in ODD:
            if not (setting in CONTENT_LATER and kind in ("empty file", "gz cut")):
                yield Case("paths", f"{setting}: {kind}", partial(_given, setting, kind))

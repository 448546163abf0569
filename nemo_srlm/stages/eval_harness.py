"""eval_harness (eval.harness.enabled): NLP benchmarks of an export by lm-evaluation-harness, with the vLLM backend.
Writes results.json, and questions.jsonl (QuestionScore), by which models are paired.

The harness is a separate program, started once per number of shots; a group that has its results is not run again. It
needs the package lm_eval in `eval.harness.python` and the tasks' data sets on this machine.
"""

import os
import subprocess
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nemo_srlm.config.fields import identity
from nemo_srlm.config.schema import Config
from nemo_srlm.core.files import read_json, read_typed_lines, write_json, write_json_lines
from nemo_srlm.core.guard import guarded
from nemo_srlm.core.stage import Context, Stage
from nemo_srlm.errors import ConfigError, EngineError, PassingError
from nemo_srlm.evaluate import harness
from nemo_srlm.evaluate.harness import QuestionScore
from nemo_srlm.generate.vllm_options import WITHOUT_COMPILER
from nemo_srlm.stages.common.evaluating import of_model

RESULTS, QUESTIONS = "results.json", "questions.jsonl"


def python(cfg: Config) -> str:
    return cfg.eval.harness.python or sys.executable


def _check(cfg: Config) -> None:
    """Raises ConfigError when the harness is not installed, before the run begins."""
    section = cfg.eval.harness
    harness.by_shots(section.tasks)
    find = "import importlib.util as u, sys; sys.exit(u.find_spec('lm_eval') is None)"
    try:
        found = subprocess.run([python(cfg), "-c", find], check=False, capture_output=True, timeout=120).returncode == 0
    except OSError as error:
        raise ConfigError("eval.harness.python", f"{python(cfg)}: {error.strerror}", "a Python interpreter") from error
    if not found:
        raise ConfigError(
            "eval.harness.enabled", f"true, but {python(cfg)} has no package lm_eval", "lm-evaluation-harness there",
            "pip install 'lm_eval[vllm]>=0.4.13' into an environment and set eval.harness.python=<its python>; or leave it off",
        )  # fmt: skip


def _identity(cfg: Config, iteration: int) -> dict[str, Any]:
    return {"eval": {"harness": identity(cfg.eval.harness)}, "generate": identity(cfg.generate), "seed": cfg.run.seed}


def model_args(cfg: Config, model: Path) -> str:
    """lm_eval's --model_args: the same engine settings as generation has."""
    g, values = cfg.generate, {"pretrained": str(model.resolve()), "dtype": cfg.generate.dtype}
    if cfg.eval.harness.backend == "vllm":
        values |= {
            "tensor_parallel_size": str(g.tensor_parallel), "gpu_memory_utilization": str(g.gpu_memory),
            "seed": str(cfg.run.seed), "enforce_eager": str(g.enforce_eager),
        }  # fmt: skip
        values |= {"max_model_len": str(g.max_model_len)} if g.max_model_len else {}
        values |= {"quantization": g.quantization} if g.quantization else {}
    extra = [cfg.eval.harness.model_args] if cfg.eval.harness.model_args else []
    return ",".join([*(f"{key}={value}" for key, value in values.items()), *extra])


def _run(ctx: Context) -> None:
    ctx.slot.close()  # the harness starts an engine of its own in the memory
    section, groups = ctx.cfg.eval.harness, harness.by_shots(ctx.cfg.eval.harness.tasks)
    args = model_args(ctx.cfg, ctx.inputs["model"] / "hf")
    env = {
        **WITHOUT_COMPILER,
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    for number, (shots, tasks) in enumerate(groups.items()):
        ctx.progress.update(number, len(groups), "groups", tasks=",".join(tasks))
        kept = ctx.dir / "parts" / f"shots-{shots}.json"
        if kept.exists():
            continue
        out = ctx.dir / "harness" / f"shots-{shots}"
        log = ctx.dir / "logs" / f"harness-{shots}.log"
        log.parent.mkdir(exist_ok=True)
        command = harness.command(
            python(ctx.cfg), section.backend, args, tasks, shots, out, section.limit, section.include_path,
            section.chat_template,
        )  # fmt: skip
        with log.open("w", encoding="utf-8") as f:
            # guarded: with the vLLM backend the harness starts an engine that would outlive a killed stage
            code = subprocess.run(guarded(command), check=False, stdout=f, stderr=subprocess.STDOUT, env=env).returncode
        if code:
            what, remedy = harness.failure(log.read_text(encoding="utf-8", errors="replace"))
            kind = PassingError if remedy == harness.UNKNOWN else EngineError
            raise kind(f"lm_eval {','.join(tasks)}", f"exit code {code}: {what}", remedy=f"{remedy} (log: {log})")
        kept.parent.mkdir(exist_ok=True)
        results = harness.newest_results(out)
        found = harness.read_results(results)
        write_json_lines(_questions(ctx, shots), (asdict(q) for q in harness.read_questions(results, found)))
        write_json(kept, found)
    ctx.progress.update(len(groups), len(groups), "groups")


def _questions(ctx: Context, shots: int | None) -> Path:
    return ctx.dir / "parts" / f"shots-{shots}.questions.jsonl"


def _finalize(ctx: Context) -> dict[str, Any]:
    tasks: dict[str, Any] = {}
    questions: list[QuestionScore] = []
    for shots in harness.by_shots(ctx.cfg.eval.harness.tasks):
        tasks |= read_json(ctx.dir / "parts" / f"shots-{shots}.json")
        if (path := _questions(ctx, shots)).exists():  # not of a group that an older version ran
            questions += read_typed_lines(path, QuestionScore)
    write_json(ctx.dir / RESULTS, tasks)
    write_json_lines(ctx.dir / QUESTIONS, map(asdict, questions))
    kept = Counter(q.task for q in questions)
    return {
        "tasks": tasks,
        "questions": {task: kept[task] for task in tasks},
        "summary": ", ".join(f"{name} {100 * row['value']:.1f}" for name, row in tasks.items()),
    }


def _stage(suffix: str) -> Stage:
    model = of_model(f"export{suffix}")
    return Stage(f"eval_harness{suffix}", "generate", model, _identity, _run, _finalize, check=_check)


STAGE, BASELINE, BASE = _stage(""), _stage("_baseline"), _stage("_base")

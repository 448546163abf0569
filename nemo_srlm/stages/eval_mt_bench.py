"""eval_mt_bench: single-answer grades of a model's MT-Bench responses, 1 to 10 per turn, at temperature 0.

The judge: an endpoint where `api.stages` names eval_mt_bench; the HF directory `eval.mt_bench.judge_path` through vLLM;
with neither the model itself (no evidence). Writes grades.jsonl and FastChat's model_judgment/<judge>_single.jsonl.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nemo_srlm.config.schema import Config
from nemo_srlm.core.files import content_digest, read_records, write_json_lines
from nemo_srlm.core.parts import merge_parts
from nemo_srlm.core.records import item_seed
from nemo_srlm.core.stage import Context, Ref, Stage
from nemo_srlm.evaluate import mtbench
from nemo_srlm.evaluate.mtbench import Grade, Graded, Question, turn_id
from nemo_srlm.generate.requests import Engine, Failure, Outcome, Request
from nemo_srlm.stages.common.evaluating import Inputs, full_name, require
from nemo_srlm.stages.common.generating import chat_ids, engine_for, run_requests, stage_identity, usage_metrics
from nemo_srlm.stages.common.judge_model import check_judge, judge_directory, judge_files, needs_own_judge
from nemo_srlm.stages.common.mt_bench import read_questions, read_turns

NAME, OUTPUT, SETTING = "eval_mt_bench", "grades.jsonl", "eval.mt_bench.judge_path"


def _prompts(cfg: Config) -> dict[str, dict[str, str]]:
    path = require("eval.mt_bench.judge_prompts", cfg.eval.mt_bench.judge_prompts, "FastChat's judge_prompts.jsonl")
    return mtbench.read_judge_prompts(path)


def _check(cfg: Config) -> None:
    prompts = _prompts(cfg)
    for question in read_questions(cfg):
        for turn in (1, 2):
            mtbench.judge_messages(question, ("", ""), turn, prompts)  # every needed reference is there
    check_judge(cfg, NAME, cfg.eval.mt_bench.judge_path, SETTING)


def _inputs(suffix: str) -> Inputs:
    def inputs(cfg: Config, iteration: int) -> dict[str, Ref]:
        own = needs_own_judge(cfg, NAME, cfg.eval.mt_bench.judge_path)
        judge = {"judge": Ref(f"export{suffix}", iteration)} if own else {}
        return {"answers": Ref(f"eval_mt_answers{suffix}", iteration), **judge}

    return inputs


def _judge(cfg: Config) -> str:
    """The judge's name, as the files and the report have it."""
    if NAME in cfg.api.stages:
        return cfg.api.model
    return Path(cfg.eval.mt_bench.judge_path).resolve().name if cfg.eval.mt_bench.judge_path else "itself"


def _identity(cfg: Config, iteration: int) -> dict[str, Any]:
    section = cfg.eval.mt_bench
    files = {"judge_prompts": section.judge_prompts, "references": section.references}
    own: dict[str, Any] = {name: content_digest(Path(path)) if path else "" for name, path in files.items()}
    path = "" if NAME in cfg.api.stages else section.judge_path
    own["judge"] = judge_files(path, SETTING) if path else _judge(cfg)
    own["judge_max_tokens"] = section.judge_max_tokens
    return {"eval": {"mt_bench": own}, **stage_identity(cfg, NAME)}


Item = tuple[Question, tuple[str, str], int]


def _items(ctx: Context) -> Iterator[tuple[str, Item]]:
    """Every turn; one without a response is judged as $ERROR$, as FastChat does."""
    answers = read_turns(ctx.inputs["answers"])
    for question in read_questions(ctx.cfg):
        for turn in (1, 2):
            yield turn_id(question.id, turn), (question, answers[question.id], turn)


def _run(ctx: Context) -> None:
    cfg, prompts = ctx.cfg, _prompts(ctx.cfg)
    judge = judge_directory(ctx, cfg.eval.mt_bench.judge_path)

    def request(engine: Engine, item_id: str, item: Item) -> Request:
        system, user = (m["content"] for m in mtbench.judge_messages(*item, prompts))
        ids = chat_ids(ctx, engine, f"{system}\n\n{user}")
        seed = item_seed(cfg.run.seed, NAME, item_id)
        limit = cfg.eval.mt_bench.judge_max_tokens
        return Request(item_id, ids, 1, seed, 0.0, 1.0, limit, text=user, system=system)

    def records(item: Item, outcome: Outcome) -> list[Graded]:
        question, _, turn = item
        if isinstance(outcome, Failure):
            return [Graded(turn_id(question.id, turn), question.id, turn, None, "", outcome.reason)]
        text = outcome[0].text
        return [Graded(turn_id(question.id, turn), question.id, turn, mtbench.parse_rating(text), text)]

    run_requests(ctx, _items(ctx), lambda: engine_for(ctx, NAME, judge), request, records, "grades")


def _finalize(ctx: Context) -> dict[str, Any]:
    cfg, items, prompts = ctx.cfg, dict(_items(ctx)), _prompts(ctx.cfg)
    merge_parts(ctx, Graded, list(items), OUTPUT)
    model, judge, rows, grades = full_name(ctx), _judge(cfg), [], []
    for graded in read_records(ctx.dir / OUTPUT, Graded):
        question, _, turn = item = items[graded.id]
        grades.append(Grade(question.id, turn, model, graded.score))
        used = mtbench.PROMPTS[turn == 2, question.category in mtbench.WITH_REFERENCE]
        messages = mtbench.judge_messages(*item, prompts)
        rows.append(mtbench.judgment_row(grades[-1], judge, used, messages, graded.text, time.time()))
    write_json_lines(ctx.dir / "model_judgment" / f"{judge.replace('/', '_')}_single.jsonl", rows)
    found = mtbench.summary(grades, read_questions(cfg))
    unanswered = sum(answers[turn - 1] == mtbench.ERROR for _, answers, turn in items.values())
    overall = found["overall"]
    words = "nothing graded" if overall is None else f"{overall:.2f} of 10"
    return {
        **found,
        "judge": judge,
        "unanswered": unanswered,
        "engine": usage_metrics(ctx),
        "summary": f"{words}, {found['graded']} grades by {judge}, {found['failed']} without a grade",
    }


def _stage(suffix: str) -> Stage:
    name = f"{NAME}{suffix}"
    return Stage(name, "generate", _inputs(suffix), _identity, _run, _finalize, check=_check)


STAGE, BASELINE, BASE = _stage(""), _stage("_baseline"), _stage("_base")

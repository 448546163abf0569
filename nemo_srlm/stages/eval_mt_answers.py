"""eval_mt_answers (eval.mt_bench.questions): a model's two-turn answers to MT-Bench's questions.

Writes turns.jsonl (Turn) and model_answer/<run>-<model>.jsonl as FastChat has it. All first turns are one wave, all
second turns another; an interrupted stage asks only for the turns that are missing.
"""

import time
from pathlib import Path
from typing import Any

from nemo_srlm.config.fields import identity
from nemo_srlm.config.schema import Config
from nemo_srlm.core import files, parts
from nemo_srlm.core.files import content_digest
from nemo_srlm.core.stage import Context, Stage
from nemo_srlm.data.chat import Chat
from nemo_srlm.evaluate import mtbench
from nemo_srlm.evaluate.mtbench import Question, Turn, turn_id
from nemo_srlm.generate.requests import Engine, Failure, Outcome, Request
from nemo_srlm.stages.common.evaluating import full_name, of_model, require
from nemo_srlm.stages.common.generating import engine_identity, error_kinds, open_engine, run_requests, usage_metrics

OUTPUT = "turns.jsonl"


def questions(cfg: Config) -> list[Question]:
    """With the reference answers of eval.mt_bench.references, where that is set."""
    section = cfg.eval.mt_bench
    found = mtbench.read_questions(require("eval.mt_bench.questions", section.questions, "FastChat's question.jsonl"))
    if not section.references:
        return found
    path = require("eval.mt_bench.references", section.references, "FastChat's reference_answer/gpt-4.jsonl")
    return mtbench.with_references(found, path)


def _check(cfg: Config) -> None:
    questions(cfg)


def _identity(cfg: Config, iteration: int) -> dict[str, Any]:
    section = cfg.eval.mt_bench
    own = {"questions": content_digest(Path(section.questions)), "max_tokens": identity(section)["max_tokens"]}
    return {"eval": {"mt_bench": own}, **engine_identity(cfg)}


def _done(ctx: Context, turn: int) -> dict[int, Turn]:
    """Finished turns by question, from the parts."""
    every = (t for part in parts.part_files(ctx.dir) for t in files.read_records(part, Turn))
    return {t.question_id: t for t in every if t.turn == turn}


def _run(ctx: Context) -> None:
    cfg, asked = ctx.cfg, questions(ctx.cfg)

    def wave(turn: int, items: list[tuple[Question, tuple[str, ...]]]) -> None:
        def request(engine: Engine, item_id: str, item: tuple[Question, tuple[str, ...]]) -> Request:
            assert engine.tokenizer is not None
            chat = Chat.of(engine.tokenizer, cfg.chat)
            return mtbench.turn_request(chat, *item, cfg.eval.mt_bench.max_tokens, cfg.run.seed)

        def records(item: tuple[Question, tuple[str, ...]], outcome: Outcome) -> list[Turn]:
            number = item[0].id
            if isinstance(outcome, Failure):
                return [Turn(turn_id(number, turn), number, turn, "", 0, outcome.reason)]
            return [Turn(turn_id(number, turn), number, turn, outcome[0].text.strip(), outcome[0].num_tokens)]

        named = ((turn_id(q.id, turn), (q, before)) for q, before in items)
        run_requests(ctx, named, lambda: open_engine(ctx, "model"), request, records, "answers")

    wave(1, [(q, ()) for q in asked])
    first = _done(ctx, 1)
    wave(2, [(q, (first[q.id].text,)) for q in asked if not first[q.id].error])


def read_turns(directory: Path) -> dict[int, tuple[str, str]]:
    """question id -> both answers; $ERROR$ for a turn that failed or was not asked."""
    found: dict[tuple[int, int], str] = {
        (t.question_id, t.turn): mtbench.ERROR if t.error else t.text
        for t in files.read_records(directory / OUTPUT, Turn)
    }
    return {q: (found[q, 1], found.get((q, 2), mtbench.ERROR)) for q, turn in found if turn == 1}


def _finalize(ctx: Context) -> dict[str, Any]:
    asked, first = questions(ctx.cfg), _done(ctx, 1)
    going_on = [q for q in asked if q.id in first and not first[q.id].error]
    expected = [turn_id(q.id, 1) for q in asked] + [turn_id(q.id, 2) for q in going_on]
    parts.merge_parts(ctx, Turn, expected, OUTPUT)
    turns = list(files.read_records(ctx.dir / OUTPUT, Turn))
    answers, name = read_turns(ctx.dir), full_name(ctx)
    rows = [mtbench.answer_row(q, name, answers[q.id], time.time()) for q in asked]
    files.write_json_lines(ctx.dir / "model_answer" / f"{name}.jsonl", rows)
    good = [t for t in turns if not t.error]
    return {
        "questions": len(asked),
        "answers": len(good),
        "errors": error_kinds(t.error for t in turns),
        "tokens": sum(t.num_tokens for t in good),
        "characters_mean": sum(len(t.text) for t in good) / len(good) if good else None,
        "engine": usage_metrics(ctx),
        "summary": f"{len(good)} answers to {len(asked)} questions, {len(turns) - len(good)} errors",
    }


def _stage(suffix: str) -> Stage:
    name, model = f"eval_mt_answers{suffix}", of_model(f"export{suffix}")
    return Stage(name, "generate", model, _identity, _run, _finalize, check=_check)


STAGE, BASELINE = _stage(""), _stage("_baseline")

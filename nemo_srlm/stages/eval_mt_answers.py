"""eval_mt_answers (eval.mt_bench.questions): a model's two-turn responses to MT-Bench's questions.

Writes turns.jsonl (Turn) and model_answer/<run>-<model>.jsonl in FastChat's format. All first turns are generated, then
all second turns; an interrupted stage generates only the turns that are missing.
"""

import time
from pathlib import Path
from typing import Any

from nemo_srlm.config.fields import identity
from nemo_srlm.config.schema import Config
from nemo_srlm.core import files, parts
from nemo_srlm.core.stage import Context, Stage
from nemo_srlm.evaluate import mtbench
from nemo_srlm.evaluate.mtbench import Question, Turn, turn_id
from nemo_srlm.generate.requests import Engine, Failure, Outcome, Request, error_kinds
from nemo_srlm.stages.common.evaluating import full_name, of_model
from nemo_srlm.stages.common.generating import chat_of, engine_identity, open_engine, run_requests, usage_metrics
from nemo_srlm.stages.common.mt_bench import TURNS, read_questions, read_turns


def _check(cfg: Config) -> None:
    read_questions(cfg)


def _identity(cfg: Config, iteration: int) -> dict[str, Any]:
    section = cfg.eval.mt_bench
    own = {"questions": files.content_digest(Path(section.questions)), "max_tokens": identity(section)["max_tokens"]}
    return {"eval": {"mt_bench": own}, **engine_identity(cfg)}


def _done(ctx: Context, turn: int) -> dict[int, Turn]:
    """Finished turns by question, from the parts."""
    return {t.question_id: t for t in parts.finished_records(ctx.dir, Turn) if t.turn == turn}


def _run(ctx: Context) -> None:
    cfg, asked = ctx.cfg, read_questions(ctx.cfg)

    def generate(turn: int, items: list[tuple[Question, tuple[str, ...]]]) -> None:
        def request(engine: Engine, item_id: str, item: tuple[Question, tuple[str, ...]]) -> Request:
            assert engine.tokenizer is not None
            return mtbench.turn_request(
                chat_of(ctx, engine.tokenizer), *item, cfg.eval.mt_bench.max_tokens, cfg.run.seed
            )

        def records(item: tuple[Question, tuple[str, ...]], outcome: Outcome) -> list[Turn]:
            number = item[0].id
            if isinstance(outcome, Failure):
                return [Turn(turn_id(number, turn), number, turn, "", 0, outcome.reason)]
            return [Turn(turn_id(number, turn), number, turn, outcome[0].text.strip(), outcome[0].num_tokens)]

        named = ((turn_id(q.id, turn), (q, before)) for q, before in items)
        run_requests(ctx, named, lambda: open_engine(ctx, "model"), request, records, "turns")

    generate(1, [(q, ()) for q in asked])
    first = _done(ctx, 1)
    generate(2, [(q, (first[q.id].text,)) for q in asked if not first[q.id].error])


def _finalize(ctx: Context) -> dict[str, Any]:
    asked, first = read_questions(ctx.cfg), _done(ctx, 1)
    continued = [q for q in asked if q.id in first and not first[q.id].error]
    expected = [turn_id(q.id, 1) for q in asked] + [turn_id(q.id, 2) for q in continued]
    parts.merge_parts(ctx, Turn, expected, TURNS)
    turns = list(files.read_records(ctx.dir / TURNS, Turn))
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
        "summary": f"{len(good)} responses to {len(asked)} questions, {len(turns) - len(good)} errors",
    }


def _stage(suffix: str) -> Stage:
    name, model = f"eval_mt_answers{suffix}", of_model(f"export{suffix}")
    return Stage(name, "generate", model, _identity, _run, _finalize, check=_check)


STAGE, BASELINE, BASE = _stage(""), _stage("_baseline"), _stage("_base")

"""eval_oracle (tiny only): a model's responses to the held-out prompts, scored by the oracle (scores.jsonl, OracleScore).

A final evaluation: only the report and eval_h2h read it, no stage that trains or generates.
"""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from nemo_srlm.config.schema import Config
from nemo_srlm.core.files import write_records
from nemo_srlm.core.stage import Context, Ref, Stage
from nemo_srlm.stages.common.held_out import prompts_file
from nemo_srlm.tiny_world.oracle_metrics import OracleScore, ScoredResponse, metrics, score_responses

OUTPUT = "scores.jsonl"


def _inputs(responses: str) -> Callable[[Config, int], dict[str, Ref]]:
    return lambda cfg, iteration: {"responses": Ref(responses, iteration), "held_out": Ref("held_out", 0)}


def _identity(cfg: Config, iteration: int) -> dict[str, Any]:
    return {}


def _scored(ctx: Context) -> list[ScoredResponse]:
    return score_responses(ctx.inputs["responses"] / "responses.jsonl", prompts_file(ctx))


def _run(ctx: Context) -> None:
    write_records(ctx.dir / OUTPUT, (OracleScore(r.id, r.prompt_id, **asdict(r.score)) for r in _scored(ctx)))


def _finalize(ctx: Context) -> dict[str, Any]:
    return metrics(_scored(ctx))


STAGE = Stage("eval_oracle", "cpu", _inputs("eval_responses"), _identity, _run, _finalize)
BASELINE = Stage("eval_oracle_baseline", "cpu", _inputs("eval_responses_baseline"), _identity, _run, _finalize)
BASE = Stage("eval_oracle_base", "cpu", _inputs("eval_responses_base"), _identity, _run, _finalize)

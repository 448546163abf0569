"""eval_alpaca (eval.alpaca.prompts): a model's responses to AlpacaEval's instructions.

Writes responses.jsonl (Candidate) and model_outputs.json as `alpaca_eval --model_outputs` takes it. Judging them is that
package's work; `nemo-srlm alpaca` computes the leaderboard's row from the annotations that it writes.
"""

from collections import Counter
from pathlib import Path
from typing import Any

from nemo_srlm.config.fields import identity
from nemo_srlm.config.schema import Config
from nemo_srlm.core.files import content_digest, read_records
from nemo_srlm.core.records import Candidate, Prompt
from nemo_srlm.core.stage import Context, Stage
from nemo_srlm.data.prompt_sets import read_prompt_set
from nemo_srlm.evaluate.alpaca_files import write_outputs
from nemo_srlm.stages.common.evaluating import full_name, of_model, require
from nemo_srlm.stages.common.generating import engine_identity
from nemo_srlm.stages.common.responding import merge_candidates, respond

OUTPUTS = "model_outputs.json"


def _check(cfg: Config) -> None:
    path = require("eval.alpaca.prompts", cfg.eval.alpaca.prompts, "AlpacaEval's alpaca_eval.json")
    read_prompt_set(path, Counter())


def _identity(cfg: Config, iteration: int) -> dict[str, Any]:
    own = {"set": content_digest(Path(cfg.eval.alpaca.prompts)), **identity(cfg.eval.alpaca)}
    return {"eval": {"alpaca": own}, **engine_identity(cfg)}


def _prompts(ctx: Context) -> list[Prompt]:
    return [asked.prompt for asked in read_prompt_set(Path(ctx.cfg.eval.alpaca.prompts), Counter())]


def _run(ctx: Context) -> None:
    respond(ctx, _prompts(ctx), ctx.cfg.eval.alpaca, 1, "eval_alpaca")


def _finalize(ctx: Context) -> dict[str, Any]:
    prompts = _prompts(ctx)
    metrics = merge_candidates(ctx, prompts, 1, "responses.jsonl")
    responses = read_records(ctx.dir / "responses.jsonl", Candidate)
    number = write_outputs(ctx.dir / OUTPUTS, prompts, responses, full_name(ctx))
    return {**metrics, "summary": f"{number} responses, {metrics['characters_mean'] or 0:.0f} characters on average"}


def _stage(suffix: str) -> Stage:
    return Stage(
        f"eval_alpaca{suffix}", "generate", of_model(f"export{suffix}"), _identity, _run, _finalize,
        lambda cfg: cfg.candidates.shards, check=_check,
    )  # fmt: skip


STAGE, BASELINE, BASE = _stage(""), _stage("_baseline"), _stage("_base")

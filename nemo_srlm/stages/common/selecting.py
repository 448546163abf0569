"""What select_responses and select share: the prompts, the checkpoints, and the responses' ids."""

from collections import Counter
from pathlib import Path

from nemo_srlm.config.schema import Config
from nemo_srlm.core import manifest
from nemo_srlm.core.files import read_json
from nemo_srlm.core.records import Prompt, content_id
from nemo_srlm.core.stage import Context
from nemo_srlm.data.prompt_sets import read_prompt_set
from nemo_srlm.tiny_world.files import SELECTION_SPLIT, read_eval_prompts

RESPONSES = "responses.jsonl"


def response_id(prompt_id: str, checkpoint: str) -> str:
    return content_id("select", prompt_id, checkpoint)


def checkpoints(ctx: Context) -> list[str]:
    """Names, oldest first, as the finished stage select_export lists them."""
    found: list[str] = read_json(ctx.inputs["exports"] / manifest.NAME)["metrics"]["checkpoints"]
    return found


def prompts_of_file(cfg: Config) -> list[Prompt]:
    """The prompts of select.prompts. Raises DataError."""
    return [entry.prompt for entry in read_prompt_set(Path(cfg.select.prompts), Counter())]


def prompts(ctx: Context) -> list[Prompt]:
    """What the checkpoints respond to: the tiny world's where it is an input, else those of select.prompts."""
    world = ctx.inputs.get("world")
    found = prompts_of_file(ctx.cfg) if world is None else read_eval_prompts(world, SELECTION_SPLIT)
    return found[: ctx.cfg.select.num_prompts or None]

"""What the loop needs to know about the tiny world's questions; in a run with real data, nothing."""

from collections.abc import Callable, Iterable
from functools import partial

from nemo_srlm.config.schema import Config
from nemo_srlm.core.records import Prompt
from nemo_srlm.tiny_world.questions import is_held_out, parse


def forbidden_prompt(cfg: Config) -> Callable[[str], bool]:
    """Says of a written prompt whether it asks a held-out question, in any wording."""
    return partial(is_held_out, seed=cfg.world.seed) if cfg.world.enabled else _never


def _never(text: str) -> bool:
    return False


def families(cfg: Config, prompts: Iterable[Prompt]) -> dict[str, str]:
    """Prompt id -> family of its question; without the prompts that are no question of the tiny world."""
    if not cfg.world.enabled:
        return {}
    questions = ((prompt.id, parse(prompt.text)) for prompt in prompts)
    return {prompt_id: question.family for prompt_id, question in questions if question is not None}

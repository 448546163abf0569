"""The judge's input and verdict of a pairwise comparison: this project's templates, or one of the alpaca_eval package.

A file with `{instruction}`, `{output_1}` and `{output_2}` is one of the package (such as its
evaluators_configs/alpaca_eval_gpt4/alpaca_eval.txt): ChatML turns whose contents are sent as messages, filled as the package
fills them. Its judge answers with the ranks of model_1 and model_2, which are read as its `ranking_parser` reads them.
"""

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass

from nemo_srlm.data import templates
from nemo_srlm.errors import ConfigError
from nemo_srlm.judge.verdicts import parse_verdict

NAMES = ("instruction", "output_1", "output_2")
_START, _END = "<|im_start|>", "<|im_end|>"
LONGEST = 10_000  # characters of an answer that are read: a list of two ranks has a hundred


@dataclass(frozen=True)
class CompareTemplate:
    """`text`: the file, which is part of a stage's identity. `of_package`: it is one of alpaca_eval's."""

    text: str
    of_package: bool

    def messages(self, instruction: str, first: str, second: str) -> tuple[str, str]:
        """(system message or "", user's message) that ask which of two responses is better."""
        if not self.of_package:
            return "", templates.fill(self.text, INSTRUCTION=instruction, FIRST=first, SECOND=second)
        values = dict(zip(NAMES, (instruction, first, second), strict=True))
        turns = [(role, _filled(content, values)) for role, content in _turns(self.text)]
        return next((content for role, content in turns if role == "system"), ""), turns[-1][1]

    def request(self, instruction: str, first: str, second: str) -> str:
        """The user's message alone."""
        return self.messages(instruction, first, second)[1]

    def verdict(self, text: str, responses: Sequence[str]) -> str:
        """ "A" (the first response), "B", "tie", or "" for an answer that states none."""
        return parse_ranking(text) if self.of_package else parse_verdict(text, responses)


def load(path: str) -> CompareTemplate:
    """The template of a setting. Raises ConfigError when it is missing, or is of neither form."""
    text = templates.read_text(path)
    if not all(f"{{{name}}}" in text for name in NAMES):
        return CompareTemplate(templates.check(text, templates.COMPARE, path), False)
    roles = [role for role, _ in _turns(text)]
    once = all(text.count(f"{{{name}}}") == 1 for name in NAMES)
    if roles not in (["user"], ["system", "user"]) or not once:
        raise ConfigError(
            path, f"alpaca_eval's placeholders, in turns of {roles or 'no'} role{'s' if len(roles) > 1 else ''}",
            f"{_START}user ... {_END}, maybe after {_START}system ... {_END}, each placeholder once",
            "take a prompt whose answer is a ranking, such as alpaca_eval_gpt4/alpaca_eval.txt",
        )  # fmt: skip
    return CompareTemplate(text, True)


def load_own(setting: str, path: str) -> str:
    """The text of a template whose verdicts are "Better: A". Raises ConfigError for one of alpaca_eval's, too."""
    found = load(path)
    if found.of_package:
        shipped = "meta_judge.txt" if setting == "judge_training.template" else "compare.txt"
        raise ConfigError(
            setting, f"{path}, whose verdicts are lists of ranks", "a template that asks for `Better: A` or `Better: B`",
            f"take a copy of the shipped prompts/{shipped}, or leave the EFT examples that compare out",
        )  # fmt: skip
    return found.text


def parse_ranking(text: str) -> str:
    """The verdict of a list such as [{'model': 'model_1', 'rank': 1}, ...], by alpaca_eval's rule: model_1's rank decides."""
    try:
        ranks = [entry["rank"] for entry in ast.literal_eval(text[:LONGEST]) if entry["model"] == "model_1"]
        return {1: "A", 2: "B"}.get(ranks[0], "") if ranks else ""
    except (ValueError, SyntaxError, TypeError, KeyError, RecursionError, MemoryError):
        return ""


def _turns(text: str) -> list[tuple[str, str]]:
    """(role, content) of each ChatML turn, stripped, as the package's prompt_to_chatml splits them."""
    parts = (part.partition("\n") for part in text.split(_START)[1:])
    return [(role.strip(), content.split(_END, 1)[0].strip()) for role, _, content in parts]


def _filled(content: str, values: dict[str, str]) -> str:
    """In one pass, so that a response that holds a placeholder's name stays as it is."""
    return re.sub(r"\{(instruction|output_1|output_2)\}", lambda match: values[match[1]], content).strip()

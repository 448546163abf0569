"""The pool of generated prompts: which attempts are accepted, and why the others are rejected.

Attempts are made in rounds, the first ones small. The demonstrations of an attempt are drawn from the seed prompts and from
the pool at the start of the round, and the size of a round follows from the acceptance so far. So the accepted prompts are
a function of the settings and the raw attempts alone, and can be computed again from the stored attempts.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nemo_srlm.config.generation import PromptsSection
from nemo_srlm.core.records import Prompt, Record, content_id, item_seed
from nemo_srlm.data.few_shot import sample_demonstrations
from nemo_srlm.data.prompt_filters import PromptFilter
from nemo_srlm.data.words import count_words
from nemo_srlm.data.written import Reader
from nemo_srlm.errors import DataError

SMALLEST_ROUND = 32  # attempts: fewer would not fill the engine
ATTEMPTS_PER_PROMPT = 20  # where prompts.max_attempts is 0


@dataclass(frozen=True)
class Attempt(Record):
    """One raw output of the prompt writer. id = attempt_id(index)."""

    index: int
    round: int
    text: str
    finish_reason: str  # stop | length | error
    demonstrations: tuple[str, ...]
    error: str = ""
    num_tokens: int = 0


def attempt_id(index: int) -> str:
    return f"{index:09d}"


def file_metrics(prompts: Sequence[Prompt]) -> dict[str, Any]:
    """As PromptPool.metrics, of prompts that come from files: nothing was attempted."""
    return {
        "accepted": len(prompts), "attempts": 0, "rounds": 0, "rejected": {}, "of_files": len(prompts),
        "words_mean": sum(count_words(prompt.text) for prompt in prompts) / max(len(prompts), 1),
        "summary": f"{len(prompts)} prompts of files",
    }  # fmt: skip


def max_attempts(section: PromptsSection) -> int:
    return section.max_attempts or ATTEMPTS_PER_PROMPT * section.num_prompts


@dataclass
class PromptPool:
    """The state between two rounds: the accepted prompts, the number of attempts, the rejections by reason."""

    section: PromptsSection
    run_seed: int
    iteration: int
    seeds: list[str]
    earlier: list[str]  # accepted in earlier iterations
    reader: Reader
    filter: PromptFilter
    forbidden: Callable[[Sequence[str]], list[str]]  # why each text is held out, or near to what is, or ""
    accepted: list[Prompt] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    num_attempts: int = 0
    num_rounds: int = 0

    @property
    def complete(self) -> bool:
        return len(self.accepted) >= self.section.num_prompts

    @property
    def exhausted(self) -> bool:
        return not self.complete and self.num_attempts >= max_attempts(self.section)

    def next_round(self) -> range:
        """The indices of the next round's attempts: as many as are probably needed, at most prompts.round_size.

        A pool that has nothing to show yet is looked at early: after prompts.first_round attempts, then at every doubling.
        """
        size = self.section.round_size
        if len(self.earlier) < self.section.generated_shots:
            size = min(size, max(self.section.first_round, self.num_attempts))
        if self.accepted:
            missing = self.section.num_prompts - len(self.accepted)
            needed = math.ceil(1.1 * missing * self.num_attempts / len(self.accepted))
            size = min(size, max(needed, SMALLEST_ROUND))
        return range(self.num_attempts, self.num_attempts + size)

    def demonstrations(self, index: int) -> tuple[str, ...]:
        """The demonstrations of attempt `index` of the next round."""
        generated = self.earlier + [prompt.text for prompt in self.accepted]
        seed = item_seed(self.run_seed, "demonstrations", self.iteration, index)
        return sample_demonstrations(
            self.seeds, generated, seed, self.section.seed_shots, self.section.generated_shots
        )  # fmt: skip

    def consume(self, attempts: list[Attempt]) -> None:
        """Takes the attempts of one whole round, in order. Those after the last wanted prompt count as "not_needed"."""
        read = [self._read(attempt) for attempt in attempts]
        reasons = [reason for _, reason in read]
        written = [i for i, reason in enumerate(reasons) if not reason]
        for i, reason in zip(written, self.forbidden([read[i][0] for i in written]), strict=True):
            reasons[i] = reason
        written = [i for i in written if not reasons[i]]
        for i, reason in zip(written, self.filter.accept([read[i][0] for i in written]), strict=True):
            reasons[i] = reason
        for attempt, (text, _), reason in zip(attempts, read, reasons, strict=True):
            if self.complete:
                self.reasons["not_needed"] += 1
            elif reason:
                self.reasons[reason] += 1
            else:
                made = content_id("prompt", text)
                self.accepted.append(Prompt(made, text, "generated", attempt.demonstrations))
        self.num_attempts += len(attempts)
        self.num_rounds += 1

    def _read(self, attempt: Attempt) -> tuple[str, str]:
        if attempt.error:
            return "", attempt.error.partition(":")[0]
        return self.reader.read(attempt.text, attempt.finish_reason == "length")

    def shortfall(self, where: Path) -> DataError:
        """The error for an exhausted pool: how many prompts there are, why others were rejected, what to change."""
        by_reason = ", ".join(f"{reason} {count}" for reason, count in self.reasons.most_common())
        return DataError(
            where, f"{len(self.accepted)} prompts accepted of {self.num_attempts} attempts ({by_reason})",
            f"{self.section.num_prompts} (prompts.num_prompts) within {max_attempts(self.section)} attempts",
            "raise prompts.max_attempts to go on from here; or, in a new run, raise prompts.rouge_max, loosen the "
            "filter that rejects most, use another prompts.template or writer, or ask for fewer prompts",
        )  # fmt: skip

    def metrics(self) -> dict[str, Any]:
        accepted = len(self.accepted)
        shown = {*self.earlier, *(prompt.text for prompt in self.accepted)}
        generated = [sum(text in shown for text in prompt.demonstrations) for prompt in self.accepted]
        return {
            "accepted": accepted,
            "attempts": self.num_attempts,
            "rounds": self.num_rounds,
            "rejected": dict(sorted(self.reasons.items())),
            "generated_shots": {str(k): n for k, n in sorted(Counter(generated).items())},  # demonstrations -> prompts
            "words_mean": sum(count_words(prompt.text) for prompt in self.accepted) / max(accepted, 1),
            "summary": f"{accepted} prompts from {self.num_attempts} attempts",
        }

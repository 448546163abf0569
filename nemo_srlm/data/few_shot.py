"""Few-shot prompt writing as pure functions: the demonstrations, the writer's input, the prompt in its output.

Paper (section 2.2, after Self-Instruct): 8 demonstrations, 6 from the IFT prompts and 2 from the prompts generated so
far, shuffled. A model may write an instruction, a separator and then a response to it: the output is cut there.
"""

import random
from collections.abc import Sequence

from nemo_srlm.data.templates import ShotTemplate, fill


def sample_demonstrations(
    seeds: Sequence[str], generated: Sequence[str], seed: int, seed_shots: int = 6, generated_shots: int = 2
) -> tuple[str, ...]:
    """The demonstrations of one attempt, shuffled, all different; a function of its arguments alone.

    While there are fewer than `generated_shots` generated prompts, seed prompts replace them (as in Self-Instruct), so
    the number of shots stays the same where there are enough texts at all.
    """
    rng = random.Random(seed)
    chosen = rng.sample(generated, min(generated_shots, len(generated)))
    wanted = seed_shots + generated_shots - len(chosen)
    chosen += rng.sample(seeds, min(wanted, len(seeds)))
    chosen = list(dict.fromkeys(chosen))  # a generated prompt may equal a seed where the filters are switched off
    rng.shuffle(chosen)
    return tuple(chosen)


def few_shot_parts(template: ShotTemplate, demonstrations: Sequence[str]) -> tuple[str, str]:
    """The writer's input: (head and one shot per demonstration, tail). A chat model's response begins with the tail."""
    shots = [fill(template.shot, NUMBER=str(i), DEMONSTRATION=text) for i, text in enumerate(demonstrations, start=1)]
    return template.head + "".join(shots), fill(template.tail, NUMBER=str(len(shots) + 1))


def few_shot_text(template: ShotTemplate, demonstrations: Sequence[str]) -> str:
    """The whole input as one text."""
    return "".join(few_shot_parts(template, demonstrations))


def shot_separator(template: ShotTemplate) -> str:
    """The text after a demonstration in the template (its end mark), stripped; "" where there is none."""
    return template.shot.partition("<DEMONSTRATION_HERE>")[2].partition("<NUMBER_HERE>")[0].strip()


def parse_written(text: str, truncated: bool, separators: Sequence[str]) -> tuple[str, str]:
    """(prompt, "") of the writer's output, or ("", reason): "empty", or "truncated" where no end was reached.

    Cuts at the first of `separators` after the start of the text; a separator that begins with a newline counts only
    at the start of a line.
    """
    body = text.strip()
    ends = [at for mark in separators if mark and (at := body.find(mark)) >= 0]
    if truncated and not ends:
        return "", "truncated"
    body = body[: min(ends, default=len(body))].strip()
    return (body, "") if body else ("", "empty")

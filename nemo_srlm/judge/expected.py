"""Expected scores (judge.method=expected): one greedy judgement, scored by the distribution over its score digit.

The score is the mean over the digits 0..max_score under the judge's probabilities at the place where the text states
its score; `spread` is the standard deviation of that distribution. With judge.lead_in the judge's turn begins with that
text, and the place is the next token: then every response has a score, also by a model that never states one.
"""

import functools
import math
import re
from collections.abc import Mapping, Sequence

from nemo_srlm.core.records import Judgement
from nemo_srlm.data.tokenizer import Tokenizer
from nemo_srlm.errors import ConfigError
from nemo_srlm.generate.requests import Completion, Failure, Outcome
from nemo_srlm.judge.judgements import JudgeItem, failed_judgement
from nemo_srlm.judge.scores import parse_score

Digits = tuple[dict[int, int], ...]  # token id -> score, one mapping for each way to write the digits

_SCORE_IS_NEXT = re.compile(r"score[^\w\n]*(?:[:：=]|is\b)(?:[^\w\n]|\\boxed)*$", re.IGNORECASE)


@functools.lru_cache(maxsize=2)
def digit_tokens(tokenizer: Tokenizer, max_score: int) -> Digits:
    """The ways in which the tokenizer writes a score: after a space or not.

    Raises ConfigError when some score is not a single token: then there is no distribution to read.
    """
    found = []
    for text in ("Score: {}", "Score:{}"):
        ids = {tokenizer.encode(text.format(score))[-1]: score for score in range(max_score + 1)}
        if len(ids) == max_score + 1 and all(tokenizer.decode([i]).strip() == str(s) for i, s in ids.items()):
            found.append(ids)
    if not found:
        raise ConfigError(
            "judge.method", f"expected, but the tokenizer does not write each of 0..{max_score} as one token",
            "sampled", "set judge.method=sampled",
        )  # fmt: skip
    return tuple(found)


@functools.lru_cache(maxsize=2)
def lead_in_tokens(tokenizer: Tokenizer, lead_in: str, max_score: int) -> tuple[tuple[int, ...], dict[int, int]]:
    """(ids of the lead-in, token id -> score), as the tokenizer writes the lead-in with each score behind it.

    Raises ConfigError when the scores do not differ in the last token alone: then there is no distribution to read.
    """
    whole = {score: tuple(tokenizer.encode(f"{lead_in}{score}")) for score in range(max_score + 1)}
    before = {ids[:-1] for ids in whole.values()}
    last = {ids[-1]: score for score, ids in whole.items()}
    if len(before) > 1 or len(last) <= max_score:
        raise ConfigError(
            "judge.lead_in", f"{lead_in!r}, after which the tokenizer does not write each of 0..{max_score} as one token",
            "a text such as 'Score: '", "set another judge.lead_in, or judge.method=sampled",
        )  # fmt: skip
    return before.pop(), last


def expectation(logprobs: Mapping[int, float]) -> tuple[float, float]:
    """Mean and standard deviation of the score under the log-probabilities of the digits 0..max_score, normalised."""
    top = max(logprobs.values())
    weights = {score: math.exp(value - top) for score, value in logprobs.items()}
    total = math.fsum(weights.values())
    mean = math.fsum(score * weight for score, weight in weights.items()) / total
    variance = math.fsum((score - mean) ** 2 * weight for score, weight in weights.items()) / total
    return mean, math.sqrt(max(variance, 0.0))


def expected_score(
    draw: Completion, tokenizer: Tokenizer, digits: Sequence[dict[int, int]], max_score: int, response: str = ""
) -> tuple[float, float] | None:
    """(mean, standard deviation) of the score at the digit with which the text states it; None when it states none."""
    stated = parse_score(draw.text, max_score, draw.finish_reason == "length", response)
    if stated is None:
        return None
    for position in range(len(draw.token_ids) - 1, -1, -1):
        for ids in digits:
            token = draw.token_ids[position]
            if token in ids and ids[token] == stated:
                before = tokenizer.decode(list(draw.token_ids[:position]))
                if _SCORE_IS_NEXT.search(before):
                    return expectation({score: draw.logprobs[position][i] for i, score in ids.items()})
    return None


def led_judgement(item: JudgeItem, outcome: Outcome, lead_in: str, scores: Mapping[int, int]) -> Judgement:
    """The judgement of the one token behind the lead-in. `scores`: token id -> score."""
    if isinstance(outcome, Failure):
        return failed_judgement(item, outcome)
    (draw,) = outcome
    mean, spread = expectation({score: draw.logprobs[0][token] for token, score in scores.items()})
    return Judgement(item.id, item.prompt_id, (mean,), (lead_in + draw.text,), ("stop",), spread=spread)


def expected_judgement(
    item: JudgeItem, outcome: Outcome, tokenizer: Tokenizer, digits: Sequence[dict[int, int]], max_score: int
) -> Judgement:
    """The one greedy draw with its expected score and spread."""
    if isinstance(outcome, Failure):
        return failed_judgement(item, outcome)
    (draw,) = outcome
    found = expected_score(draw, tokenizer, digits, max_score, item.response)
    score, spread = found or (None, None)
    return Judgement(item.id, item.prompt_id, (score,), (draw.text,), (draw.finish_reason,), spread=spread)

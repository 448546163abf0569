"""Drift between iterations, measured: length and diversity of responses, the judge's scores, KL to the previous policy.

arXiv 2401.10020 names growing responses and reward hacking among its limitations. alarms.py applies the thresholds.
"""

import math
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

from nemo_srlm.core.records import Candidate, Judgement
from nemo_srlm.data.words import count_words, words_and_marks
from nemo_srlm.evaluate.reward_metrics import histogram
from nemo_srlm.judge.scores import aggregate

SELF_BLEU_TEXTS = 64  # a sample: the cost stays the same for any number of responses
SELF_BLEU_REFERENCES = 16  # others that each sampled text is compared with
MAX_N = 4  # BLEU's longest n-gram


def ngrams(tokens: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return list(zip(*(tokens[i:] for i in range(n)), strict=False))


def distinct_n(texts: Sequence[str], n: int) -> float | None:
    """Number of different n-grams over the number of n-grams (Li et al. 2016); None without any. Longer text lowers it."""
    grams = [g for text in texts for g in ngrams(words_and_marks(text), n)]
    return len(set(grams)) / len(grams) if grams else None


Grams = list[Counter[tuple[str, ...]]]  # of one text: the counts of its n-grams for n = 1, 2, ...


def count_grams(tokens: Sequence[str], max_n: int) -> Grams:
    return [Counter(ngrams(tokens, n)) for n in range(1, max_n + 1)]


def bleu(hypothesis: Grams, references: Sequence[Grams]) -> float:
    """Sentence BLEU with add-one smoothing above unigrams (Lin & Och 2004) and the closest reference length, 0 to 1."""
    length = sum(hypothesis[0].values())
    if not length or not references:
        return 0.0
    log_sum, orders = 0.0, min(len(hypothesis), length)
    for n in range(orders):
        # clipped: an n-gram counts at most as often as in the reference that has it most often
        matched = sum(min(k, max(r[n][gram] for r in references)) for gram, k in hypothesis[n].items())
        smooth = 1 if n else 0
        if matched + smooth == 0:
            return 0.0
        log_sum += math.log((matched + smooth) / (length - n + smooth))
    lengths = [sum(r[0].values()) for r in references]
    closest = min((abs(k - length), k) for k in lengths)[1]
    return math.exp(log_sum / orders + min(0.0, 1.0 - closest / length))


def self_bleu(texts: Sequence[str]) -> float | None:
    """Mean BLEU of a text against others of the same model (Zhu et al. 2018), 0 to 1: 1 when all are the same.

    Computed on a random sample with a fixed seed. None with fewer than two texts that have words.
    """
    tokens = [t for t in (words_and_marks(text) for text in texts) if t]
    if len(tokens) < 2:
        return None
    generator = random.Random(0)
    sample = generator.sample(range(len(tokens)), min(SELF_BLEU_TEXTS + SELF_BLEU_REFERENCES, len(tokens)))
    pool = [count_grams(tokens[i], MAX_N) for i in sample]
    chosen = range(min(SELF_BLEU_TEXTS, len(pool)))
    total = 0.0
    for i in chosen:
        others = pool[:i] + pool[i + 1 :]
        total += bleu(pool[i], generator.sample(others, min(SELF_BLEU_REFERENCES, len(others))))
    return total / len(chosen)


def response_metrics(responses: Sequence[Candidate]) -> dict[str, Any]:
    """Length and diversity of a model's responses. Failed ones are counted and left out of the other figures.

    `words` and its standard error `words_se`, median and 90th percentile in words (characters, in scripts
    without blanks); `truncated` and
    `empty` are shares. All figures but the counts are None when every response failed.
    """
    good = [r for r in responses if not r.error]
    texts = [r.text for r in good]
    lengths = [count_words(text) for text in texts]
    out: dict[str, Any] = {"responses": len(responses), "failed": len(responses) - len(good)}
    if not good:
        return {**out, **dict.fromkeys(_RESPONSE_FIELDS)}
    mean = sum(lengths) / len(lengths)
    variance = sum((x - mean) ** 2 for x in lengths) / max(1, len(lengths) - 1)
    ordered = sorted(lengths)
    return {
        **out,
        "words": mean,
        "words_se": math.sqrt(variance / len(lengths)),
        "words_median": ordered[len(ordered) // 2],
        "words_p90": ordered[min(len(ordered) - 1, int(0.9 * len(ordered)))],
        "characters": sum(len(t) for t in texts) / len(texts),
        "tokens": sum(r.num_tokens for r in good) / len(good),
        "truncated": sum(r.finish_reason == "length" for r in good) / len(good),
        "empty": sum(not t.strip() for t in texts) / len(texts),
        "distinct_1": distinct_n(texts, 1),
        "distinct_2": distinct_n(texts, 2),
        "self_bleu": self_bleu(texts),
    }


_RESPONSE_FIELDS = (
    "words", "words_se", "words_median", "words_p90", "characters", "tokens", "truncated", "empty",
    "distinct_1", "distinct_2", "self_bleu",
)  # fmt: skip


def judging_metrics(judgements: Sequence[Judgement], min_valid: int) -> dict[str, Any]:
    """Score shares, ties and failures of one judging stage. Shares are None where the denominator is 0.

    `tie_rate`: share of the prompts with two or more eligible candidates whose candidates all have the same mean score.
    `high_scores`: share of parsed draws that round to 4 or more. `draw_histogram` counts parsed draws, `mean_histogram`
    mean scores of eligible candidates (both to the nearest integer).
    """
    draws = [s for j in judgements for s in j.scores]
    parsed = [s for s in draws if s is not None]
    means: dict[str, list[float]] = {}
    for j in judgements:
        mean = aggregate(j.scores, min_valid)
        if mean is not None:
            means.setdefault(j.prompt_id, []).append(mean)
    comparable = [m for m in means.values() if len(m) >= 2]
    every = [m for group in means.values() for m in group]
    counts = histogram(parsed)
    return {
        "judged": len(judgements),
        "errors": sum(bool(j.error) for j in judgements),
        "eligible": len(every),
        "draws": len(draws),
        "failed_draws": len(draws) - len(parsed),
        "parse_failures": (len(draws) - len(parsed)) / len(draws) if draws else None,
        "mean_score": sum(every) / len(every) if every else None,
        "high_scores": sum(s >= 3.5 for s in parsed) / len(parsed) if parsed else None,
        "dominant": max(counts.values()) / len(parsed) if parsed else None,
        "tie_rate": sum(len(set(m)) == 1 for m in comparable) / len(comparable) if comparable else None,
        "draw_histogram": counts,
        "mean_histogram": histogram(every),
    }


def log_ratio(responses: Sequence[tuple[str, float, int]]) -> dict[str, Any]:
    """Mean log-ratio per token: {"kl", "se_kl", "tokens", "responses"} of (group, log-ratio of a response, its tokens).

    `kl` is the sum of the log-ratios over the sum of the tokens, in nats: the Monte Carlo estimate of the KL divergence per
    token. `se_kl` is the standard error of that ratio, clustered by group (responses to one prompt are not independent);
    None with one group. Both are None without tokens.
    """
    tokens = sum(n for _, _, n in responses)
    out: dict[str, Any] = {"kl": None, "se_kl": None, "tokens": tokens, "responses": len(responses)}
    if not tokens:
        return out
    out["kl"] = mean = math.fsum(x for _, x, _ in responses) / tokens
    residuals: dict[str, float] = {}
    for group, x, n in responses:
        residuals[group] = residuals.get(group, 0.0) + x - mean * n
    k = len(residuals)
    if k > 1:
        out["se_kl"] = math.sqrt(math.fsum(r * r for r in residuals.values()) * k / (k - 1)) / tokens
    return out

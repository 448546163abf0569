"""Filters for generated prompts, with a reason for every rejection: length, keywords, beginnings, and ROUGE-L.

The ROUGE-L decisions are exactly those of `rouge_score` (RougeScorer(["rougeL"], use_stemmer=False), F1 > threshold in
the same floating point), only faster: a text becomes a string of one character per token, stored by its number of
tokens; for each pair of lengths the shortest common subsequence that exceeds the threshold is computed once, and
rapidfuzz searches for that length or more.

`rouge_score` keeps a-z and 0-9 alone, so texts in other scripts become empty; tokenization "unicode" is for them.
"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
import regex
from rapidfuzz.distance import LCSseq
from rapidfuzz.process import cdist

from nemo_srlm.config.generation import PromptsSection
from nemo_srlm.data.words import BROKEN, UNSPACED, keyword_pattern

_ROUGE = re.compile(r"[a-z0-9]+")
# Letters with their marks and digits make a word; in scripts written without blanks every character is one.
_UNICODE = regex.compile(rf"[{UNSPACED}]\p{{M}}*|(?:(?![{UNSPACED}])[\p{{L}}\p{{M}}\p{{N}}])+")


def tokenize(text: str, tokenization: str = "rouge") -> list[str]:
    """Tokens as `rouge_score` without stemming makes them ("rouge"), or words of any script ("unicode")."""
    if tokenization == "rouge":
        return _ROUGE.findall(text.lower())
    assert tokenization == "unicode", tokenization
    found: list[str] = _UNICODE.findall(unicodedata.normalize("NFKC", text).casefold())
    return found


def rouge_f1(common: int, length_a: int, length_b: int) -> float:
    """ROUGE-L F1 from the longest common subsequence's length, operation by operation as rouge_score computes it."""
    if not length_a or not length_b:
        return 0.0
    precision, recall = common / length_b, common / length_a
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0


class RougeIndex:
    """A growing pool of texts; finds the new texts that are too similar to one of them (ROUGE-L F1 > threshold)."""

    def __init__(self, threshold: float, tokenization: str = "rouge") -> None:
        self.threshold, self.tokenization = threshold, tokenization
        self._ids: dict[str, int] = {}
        self._by_length: dict[int, list[str]] = defaultdict(list)
        self._needed: dict[tuple[int, int], int] = {}

    def encode(self, text: str) -> str:
        """The text's code: a string of one character per token, for this index alone ("" when it has no token)."""
        return "".join(chr(self._ids.setdefault(token, len(self._ids))) for token in tokenize(text, self.tokenization))

    def add(self, code: str) -> None:
        if code:
            self._by_length[len(code)].append(code)

    def has_similar(self, codes: Sequence[str]) -> list[bool]:
        """For each code, whether some code of the pool has F1 > threshold with it. Many codes at once are faster."""
        result = np.zeros(len(codes), dtype=bool)
        for length, members in _by_length(codes).items():
            for other, pool in self._by_length.items():
                rows = [i for i in members if not result[i]]
                if rows and (needed := self.needed(length, other)) <= min(length, other):
                    result[rows] |= _common_at_least(needed, [codes[i] for i in rows], pool).any(axis=1)
        return [bool(value) for value in result]

    def similar_earlier(self, codes: Sequence[str]) -> list[list[int]]:
        """For each code, the positions before its own whose codes have F1 > threshold with it."""
        found: list[list[int]] = [[] for _ in codes]
        groups = _by_length(codes)
        for length, rows in groups.items():
            for other, columns in groups.items():
                if (needed := self.needed(length, other)) <= min(length, other):
                    near = _common_at_least(needed, [codes[i] for i in rows], [codes[j] for j in columns])
                    for i, j in zip(*np.nonzero(near), strict=True):
                        if columns[j] < rows[i]:
                            found[rows[i]].append(columns[j])
        return found

    def needed(self, length_a: int, length_b: int) -> int:
        """Length of the shortest common subsequence with F1 > threshold; min(lengths) + 1 where none exceeds it."""
        key = (length_a, length_b)
        if key not in self._needed:
            shorter = min(key)
            # F1 = 2c / (a + b) except for rounding: start one below the exact solution and increase.
            common = min(max(int(self.threshold * (length_a + length_b) / 2) - 1, 1), shorter + 1)
            while common <= shorter and not rouge_f1(common, *key) > self.threshold:
                common += 1
            self._needed[key] = common
        return self._needed[key]


def _by_length(codes: Sequence[str]) -> dict[int, list[int]]:
    groups: dict[int, list[int]] = defaultdict(list)
    for i, code in enumerate(codes):
        if code:
            groups[len(code)].append(i)
    return groups


def _common_at_least(
    needed: int, rows: list[str], columns: list[str]
) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    """[rows, columns]: whether the longest common subsequence has at least `needed` tokens."""
    return cdist(rows, columns, scorer=LCSseq.similarity, score_cutoff=needed, dtype=np.int32) >= needed


class PromptFilter:
    """Accepts or rejects generated prompts in order; accepted ones join the pool that later ones are compared with.

    Reasons, in the order of the checks: empty, broken_character, too_short, too_long, keyword, start, first_character,
    duplicate, held_out, no_tokens, rouge. `counts` holds how many of each, and "accepted".
    """

    def __init__(self, section: PromptsSection, seeds: Iterable[str], held_out: Iterable[str] = ()) -> None:
        """`seeds`: prompts that new ones must differ from. `held_out`: evaluation prompts, rejected when equal by tokens."""
        self.section = section
        self.counts: Counter[str] = Counter()
        self._index = RougeIndex(section.rouge_max, section.tokenization)
        self._seen: set[str] = set()
        self._held_out = {tuple(tokenize(text, section.tokenization)) for text in held_out}
        # Whole words in any case, as Self-Instruct; look-arounds, so that a keyword may end in punctuation.
        words = "|".join(map(keyword_pattern, section.keywords))
        self._keywords = re.compile(words, re.IGNORECASE) if words else None
        for text in seeds:
            self._admit(text, self._index.encode(text))

    def _admit(self, text: str, code: str) -> None:
        self._seen.add(text)
        self._index.add(code)

    def form_reason(self, text: str) -> str:
        """Why the text by itself is rejected, or ""."""
        section = self.section
        words = len(text.split() if section.tokenization == "rouge" else tokenize(text, "unicode"))
        if not text.strip():
            return "empty"
        if BROKEN in text:
            return "broken_character"
        if words < section.min_words:
            return "too_short"
        if words > section.max_words:
            return "too_long"
        if self._keywords is not None and self._keywords.search(text):
            return "keyword"
        if any(text.casefold().startswith(start.casefold()) for start in section.starts):
            return "start"
        if section.ascii_start and not (text[0].isascii() and text[0].isalnum()):
            return "first_character"
        return ""

    def accept(self, texts: Sequence[str]) -> list[str]:
        """Per text, in order, the reason for rejecting it, or "": then it is in the pool. One search of the pool for all."""
        reasons = [self._reason_before_rouge(text) for text in texts]
        codes = ["" if reason else self._index.encode(text) for text, reason in zip(texts, reasons, strict=True)]
        similar, earlier = self._index.has_similar(codes), self._index.similar_earlier(codes)
        for i, text in enumerate(texts):
            if not reasons[i] and text in self._seen:
                reasons[i] = "duplicate"
            if not reasons[i] and not codes[i]:
                reasons[i] = "no_tokens"  # nothing to compare: another script under "rouge", or punctuation alone
            if not reasons[i] and (similar[i] or any(not reasons[j] for j in earlier[i])):
                reasons[i] = "rouge"
            if not reasons[i]:
                self._admit(text, codes[i])
            self.counts[reasons[i] or "accepted"] += 1
        return reasons

    def _reason_before_rouge(self, text: str) -> str:
        if reason := self.form_reason(text):
            return reason
        if text in self._seen:
            return "duplicate"
        if self._held_out and tuple(tokenize(text, self.section.tokenization)) in self._held_out:
            return "held_out"
        return ""

"""ROUGE-L between texts, and an index that finds the texts too similar to a new one without looking at all of them.

The decisions are exactly those of `rouge_score` (RougeScorer(["rougeL"], use_stemmer=False), F1 > threshold in the same
floating point). Two texts whose longest common subsequence has c tokens share at least c tokens. So when both are sorted in
one order, rarest token first, they share one of the first n - c + 1 of their n tokens (prefix filtering: Chaudhuri, Ganti and
Kaushik 2006), and k of the first n - c + k. Only pairs that do are compared, by rapidfuzz.

`rouge_score` keeps a-z and 0-9 alone, so texts in other scripts become empty; tokenization "unicode" is for them.
"""

import re
import unicodedata
from array import array
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import regex
from rapidfuzz.distance import LCSseq
from rapidfuzz.process import cdist

from nemo_srlm.data.words import UNSPACED

Code = list[int]  # a text as the ids of its tokens, for one index alone
Array = np.ndarray[tuple[int], np.dtype[Any]]

SHARED = 2  # k: 1 leaves 17 times as many pairs to compare, 3 makes the lists that are searched longer than that saves
POSITION_BITS = 16  # a list's entry is (number of the text, position of the token in its order)
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


def rouge_f1(common: Any, length_a: Any, length_b: Any) -> Any:
    """ROUGE-L F1 from the longest common subsequence's length (1 or more), operation by operation as rouge_score computes it.

    Numbers, or arrays of them.
    """
    precision, recall = common / length_b, common / length_a
    return 2 * precision * recall / (precision + recall)


def needed(threshold: float, length: int, others: Array) -> Array:
    """For each length of the other text, that of the shortest common subsequence with F1 > threshold; 0 where none has it."""
    shorter = np.minimum(length, others)
    # F1 = 2c / (a + b) except for rounding: start one below the exact solution and increase.
    common = np.clip((threshold * (length + others) / 2).astype(np.int64) - 1, 1, shorter + 1)
    while (below := (common <= shorter) & ~(rouge_f1(common, length, others) > threshold)).any():
        common += below
    return np.where(common <= shorter, common, 0)


class RougeIndex:
    """A growing pool of texts; finds the new texts that are too similar to one of them (ROUGE-L F1 > threshold)."""

    def __init__(self, threshold: float, tokenization: str = "rouge") -> None:
        self.threshold, self.tokenization = threshold, tokenization
        self._ids: dict[str, int] = {}
        self._longest = 1
        self._needed: dict[int, Array] = {}
        self._tokens = array("I")  # of all texts of the pool; text i has those from _ends[i] to _ends[i + 1]
        self._ends = array("Q", [0])
        self._lengths = array("I")
        self._lists: dict[object, array[int]] = defaultdict(
            lambda: array("Q")
        )  # element -> entries of the texts with it

    def encode(self, text: str) -> Code:
        """The text's tokens as numbers, in the order in which this index first saw them ([] when it has no token)."""
        code = [self._ids.setdefault(token, len(self._ids)) for token in tokenize(text, self.tokenization)]
        self._longest = max(self._longest, len(code))
        return code

    def add(self, code: Code) -> None:
        if not code:
            return
        number = len(self._lengths)
        self._tokens.extend(code)
        self._ends.append(len(self._tokens))
        self._lengths.append(len(code))
        for position, element in enumerate(self._prefix(code)):
            # a long text's position is cut: it prunes less, and loses nothing
            self._lists[element].append(number << POSITION_BITS | min(position, (1 << POSITION_BITS) - 1))

    def has_similar(self, codes: Sequence[Code]) -> list[bool]:
        """For each code, whether some code of the pool has F1 > threshold with it."""
        return [self._has_similar(code) for code in codes]

    def _has_similar(self, code: Code) -> bool:
        numbers, least = self._candidates(code)
        if not len(numbers):
            return False
        texts = [self._tokens[self._ends[i] : self._ends[i + 1]].tolist() for i in numbers.tolist()]
        common = cdist([code], texts, scorer=LCSseq.similarity, score_cutoff=int(least.min()), dtype=np.int64)[0]
        return bool((common >= least).any())

    def _candidates(self, code: Code) -> tuple[Array, Array]:
        """(texts of the pool that share enough of the first elements, common tokens that each would need)."""
        length, found = len(code), list[Array]()
        own = list[int]()
        for position, element in enumerate(self._prefix(code)):
            if element in self._lists:
                found.append(np.frombuffer(self._lists[element], dtype=np.uint64))
                own.append(position)
        if not found:
            return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
        entries = np.concatenate(found).astype(np.int64)
        numbers, positions = entries >> POSITION_BITS, entries & ((1 << POSITION_BITS) - 1)
        lengths = np.frombuffer(self._lengths, dtype=np.uint32)[numbers].astype(np.int64)
        least = self._least(length)[lengths]
        # n - c + k of this pair: what lies behind was needed for pairs of other lengths
        slack = np.minimum(SHARED, least) - least
        near = np.repeat(own, [len(entry) for entry in found]) < length + slack
        near &= (positions < lengths + slack) & (least > 0)
        numbers, counts = np.unique(numbers[near], return_counts=True)
        least = self._least(length)[np.frombuffer(self._lengths, dtype=np.uint32)[numbers]]
        enough = counts >= np.minimum(SHARED, least)
        return numbers[enough], least[enough]

    def _prefix(self, code: Code) -> Iterator[object]:
        """The first elements in the common order: the token that this index saw last comes first, as most rare ones do.

        A token's second occurrence is another element than its first.
        """
        # n - c + k for the smallest c that any other text needs: the one that is all common subsequence
        length = len(code)
        smallest = max(int(self.threshold * length / (2 - self.threshold)) - 1, 1)
        while smallest <= length and not rouge_f1(smallest, smallest, length) > self.threshold:
            smallest += 1
        before, times = -1, 0
        for token in sorted(code, reverse=True)[: max(length - smallest + SHARED, 0) if smallest <= length else 0]:
            times = times + 1 if token == before else 0
            before = token
            yield (token, times) if times else token

    def _least(self, length: int) -> Array:
        """`needed` of a text of this length with those of each length, by length; [0] is 0."""
        if length not in self._needed or len(self._needed[length]) <= self._longest:
            others = np.arange(1, 2 * self._longest + 1)
            self._needed[length] = np.concatenate([[0], needed(self.threshold, length, others)])
        return self._needed[length]

    def similar_earlier(self, codes: Sequence[Code]) -> list[list[int]]:
        """For each code, the positions before its own whose codes have F1 > threshold with it."""
        found: list[list[int]] = [[] for _ in codes]
        groups = _by_length(codes)
        for length, rows in groups.items():
            for other, columns in groups.items():
                if least := int(self._least(length)[other]):
                    near = _common_at_least(least, [codes[i] for i in rows], [codes[j] for j in columns])
                    for i, j in zip(*np.nonzero(near), strict=True):
                        if columns[j] < rows[i]:
                            found[rows[i]].append(columns[j])
        return found


def _by_length(codes: Sequence[Code]) -> dict[int, list[int]]:
    groups: dict[int, list[int]] = defaultdict(list)
    for i, code in enumerate(codes):
        if code:
            groups[len(code)].append(i)
    return groups


def _common_at_least(
    least: int, rows: list[Code], columns: list[Code]
) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    """[rows, columns]: whether the longest common subsequence has at least `least` tokens."""
    return cdist(rows, columns, scorer=LCSseq.similarity, score_cutoff=least, dtype=np.int32) >= least

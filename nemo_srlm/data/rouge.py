"""ROUGE-L between texts, and an index that finds the texts too similar to a new one without looking at all of them.

The decisions are exactly those of `rouge_score` (RougeScorer(["rougeL"], use_stemmer=False), F1 > threshold in the same
floating point). Two texts whose longest common subsequence has c tokens share at least c tokens. So when both are sorted in
one order, rarest token first, they share one of the first n - c + 1 of their n tokens (prefix filtering: Chaudhuri, Ganti and
Kaushik 2006), and two of the first n - c + 2 (Wang, Li and Feng 2012). Each text is in the list of each of those first tokens;
where such a list becomes long, it is divided by the second common token, so that it does not grow with the pool as fast. Of the
texts found, most share too few of the other tokens, which a few bits of each text show; rapidfuzz compares those that remain.

`rouge_score` keeps a-z and 0-9 alone, so texts in other scripts become empty; tokenization "unicode" is for them.
"""

import re
import unicodedata
from array import array
from collections import defaultdict
from typing import Any

import numpy as np
import regex
from rapidfuzz.distance import LCSseq

from nemo_srlm.data.words import UNSPACED

Code = list[int]  # a text as the ids of its tokens, for one index alone
Array = np.ndarray[tuple[int], np.dtype[Any]]

CUT = (1 << 16) - 1  # longer texts count as this long in a list's entry: that prunes less, and loses nothing
BITS = 128  # a text's signature: bit t % BITS tells whether tokens t, t + BITS, ... are an odd number
LONG = 2048  # entries at which an element's list is divided; at 1024 as fast, with a third more entries (300,000 texts)
PARTS = 256  # one for each second element would be lists of few entries, 2.4 million of them at a million texts
SHORT = 64  # tokens; a text has as many pairs of elements as the square of its length, so longer ones stay undivided
END = (1 << 32) - 1  # no token's number
_BIT = [1 << i for i in range(BITS)]
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
        self._signatures = [array("Q") for _ in range(BITS // 64)]  # of each text: its first 64 bits, its next 64
        self._reaches: dict[int, list[int]] = {}
        # An element, or a part of its list -> an entry for each text: reach, length (16 bits each, at most CUT), number (32).
        self._lists: dict[int, array[int]] = defaultdict(lambda: array("Q"))
        # the elements whose list was LONG: its texts of at most SHORT tokens are in parts
        self._divided = set[int]()

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
        for words, word in zip(self._signatures, _signature(code), strict=True):
            words.append(word)
        elements, reaches = self._prefix(code)
        for place, element in enumerate(elements[:-1]):
            self._enter(number, elements, reaches, place)
            if element not in self._divided and len(self._lists[element]) == LONG:
                self._divide(element)

    def _enter(self, number: int, elements: list[int], reaches: list[int], place: int) -> None:
        length, keys = self._lengths[number], [(elements[place], reaches[place])]
        if length <= SHORT and elements[place] in self._divided:
            keys = _parts(elements, reaches, place)
        for key, reach in keys:
            self._lists[key].append(reach << 48 | min(length, CUT) << 32 | number)

    def _divide(self, element: int) -> None:
        self._divided.add(element)
        for entry in self._lists.pop(element):
            number = entry & 0xFFFFFFFF
            elements, reaches = self._prefix(self._code(number))
            self._enter(number, elements, reaches, elements.index(element))

    def has_similar(self, code: Code) -> bool:
        """Whether some code of the pool has F1 > threshold with this one."""
        return any(
            LCSseq.similarity(code, self._code(i), score_cutoff=least) >= least
            for i, least in self._candidates(code).items()
        )

    def _code(self, number: int) -> Code:
        return self._tokens[self._ends[number] : self._ends[number + 1]].tolist()

    def _candidates(self, code: Code) -> dict[int, int]:
        """Texts of the pool that may be similar, the likeliest first, and how many common tokens each would need."""
        numbers, length = self._sharing(code), len(code)
        if not len(numbers):
            return {}
        lengths = np.frombuffer(self._lengths, dtype=np.uint32)[numbers]
        least = self._least(length)[lengths]
        # Every token that only one of the two has changes one bit, so they differ in no more bits than such tokens.
        spare = length + lengths - 2 * least
        for words, word in zip(self._signatures, _signature(code), strict=True):
            spare -= np.bitwise_count(np.frombuffer(words, dtype=np.uint64)[numbers] ^ np.uint64(word))
        kept = np.flatnonzero((spare >= 0) & (least > 0))
        kept = kept[np.argsort(-spare[kept])]
        return dict(zip(numbers[kept].tolist(), least[kept].tolist(), strict=True))

    def _sharing(self, code: Code) -> Array:
        """Numbers of the texts that share an element, or two, of the prefixes that they and this text need as a pair."""
        found, reaches = list[Array](), list[int]()
        for key, reach in self._keys(code):
            if key in self._lists:
                found.append(np.frombuffer(self._lists[key], dtype=np.uint64))
                reaches.append(reach)
        if not found:
            return np.zeros(0, dtype=np.int64)
        entries = np.concatenate(found)
        near = np.flatnonzero(entries >= np.uint64(min(len(code), CUT) << 48))
        far = np.repeat(np.array(reaches, dtype=np.uint64), [len(entry) for entry in found])[near]
        entries = entries[near]
        return (entries[entries >> 32 & CUT <= far] & 0xFFFFFFFF).astype(np.int64)

    def _keys(self, code: Code) -> list[tuple[int, int]]:
        """The lists of the texts that may be similar to this one, and its reach in each."""
        elements, reaches = self._prefix(code)
        keys = list(zip(elements, reaches, strict=False))
        short = min(len(code), SHORT)
        if short and rouge_f1(short, short, len(code)) > self.threshold:
            for place, element in enumerate(elements[:-1]):
                if element in self._divided:
                    keys += _parts(elements, reaches, place)
        return keys

    def _prefix(self, code: Code) -> tuple[list[int], list[int]]:
        """The first elements in the common order, and the reach of each as the first common one; the last is only a second.

        The token that this index saw last comes first, as most rare ones do. A token's second occurrence is another element
        than its first. END is the second common element of texts that have but one.
        """
        reaches, before, times = self._reach(len(code)), -1, 0
        elements = list[int]()
        for token in sorted(code, reverse=True)[: len(reaches) + 1]:
            times = times + 1 if token == before else 0
            before = token
            elements.append(times << 32 | token)
        return elements if len(elements) > len(reaches) else [*elements, END], reaches

    def _reach(self, length: int) -> list[int]:
        """For each position of the prefix of a text of this length: the longest other text that needs it in this prefix.

        When the first common element is at a position, length - position tokens at most are common.
        """
        if length not in self._reaches:
            self._reaches[length] = []
            for common in range(length, 0, -1):
                if not rouge_f1(common, length, common) > self.threshold:
                    break
                # F1 = 2c / (a + b) except for rounding: start one above the exact solution and decrease
                far = CUT
                if not rouge_f1(common, length, CUT) > self.threshold:
                    far = min(int(2 * common / self.threshold - length) + 1, CUT)
                while not rouge_f1(common, length, far) > self.threshold:
                    far -= 1
                self._reaches[length].append(far)
        return self._reaches[length]

    def _least(self, length: int) -> Array:
        """`needed` of a text of this length with those of each length, by length; [0] is 0."""
        if length not in self._needed or len(self._needed[length]) <= self._longest:
            others = np.arange(1, 2 * self._longest + 1)
            self._needed[length] = np.concatenate([[0], needed(self.threshold, length, others)])
        return self._needed[length]


def _parts(elements: list[int], reaches: list[int], place: int) -> list[tuple[int, int]]:
    """The parts of the list of the element at this place that a text is in, and its reach in each.

    With the second common element one further than a first one, as many are common: the first makes up for it.
    """
    part = elements[place] * PARTS
    return [
        (~(part + second % PARTS), reach) for second, reach in zip(elements[place + 1 :], reaches[place:], strict=True)
    ]


def _signature(code: Code) -> list[int]:
    bits = 0
    for token in code:
        bits ^= _BIT[token % BITS]
    return [bits >> i & (1 << 64) - 1 for i in range(0, BITS, 64)]

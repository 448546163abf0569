"""Which texts are the same instruction as a held-out one, or nearly: what is held out is trained on in no wording.

Equal: but for case, spacing, punctuation and Unicode form. Near: ROUGE-L F1 above a threshold, on words of any script.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence

import regex

from nemo_srlm.data.rouge import RougeIndex
from nemo_srlm.data.words import UNSPACED

_UNSEEN = regex.compile(r"\p{Cf}+")
_IGNORED = regex.compile(r"\p{P}+")  # punctuation; symbols (C++, 1 + 1) stay
_SPACE = re.compile(r"\s+")
_NO_WORD_ENDS = regex.compile(rf"(?<=[{UNSPACED}]\p{{M}}*) | (?=[{UNSPACED}])")  # a blank in a script without blanks


def same_text(text: str) -> str:
    """The text as it is compared: equal for two spellings of one instruction. Of punctuation alone, that itself."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    found = _SPACE.sub(" ", _IGNORED.sub(" ", _UNSEEN.sub("", folded))).strip()
    return _NO_WORD_ENDS.sub("", found) or "".join(folded.split())


class HeldOut:
    """A set of held-out texts, to find their copies and near copies. threshold: ROUGE-L F1 above it is near; 1 = equal ones
    alone."""

    def __init__(self, texts: Iterable[str], threshold: float) -> None:
        self._index = RougeIndex(threshold, "unicode")
        self._equal: set[str] = set()
        for text in texts:
            if (key := same_text(text)) not in self._equal:
                self._equal.add(key)
                self._index.add(self._index.encode(text))

    def reasons(self, texts: Sequence[str]) -> list[str]:
        """For each text "held_out" (equal), "near_held_out", or ""."""
        return [
            "held_out" if same_text(text) in self._equal else "near_held_out" if self._near(text) else ""
            for text in texts
        ]

    def _near(self, text: str) -> bool:
        return self._index.has_similar(self._index.encode(text))

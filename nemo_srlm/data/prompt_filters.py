"""Filters for generated prompts, with a reason for every rejection: length, keywords, beginnings, and ROUGE-L."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from nemo_srlm.config.generation import PromptsSection
from nemo_srlm.data.rouge import Code, RougeIndex, tokenize
from nemo_srlm.data.words import BROKEN, keyword_pattern


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

    def _admit(self, text: str, code: Code) -> None:
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
        """Per text, in order, the reason for rejecting it, or "": then it is in the pool."""
        reasons = [self._reason(text) for text in texts]
        self.counts.update(reason or "accepted" for reason in reasons)
        return reasons

    def _reason(self, text: str) -> str:
        if reason := self._reason_before_rouge(text):
            return reason
        if not (code := self._index.encode(text)):
            return "no_tokens"  # nothing to compare: another script under "rouge", or punctuation alone
        if self._index.has_similar(code):
            return "rouge"
        self._admit(text, code)
        return ""

    def _reason_before_rouge(self, text: str) -> str:
        if reason := self.form_reason(text):
            return reason
        if text in self._seen:
            return "duplicate"
        if self._held_out and tuple(tokenize(text, self.section.tokenization)) in self._held_out:
            return "held_out"
        return ""

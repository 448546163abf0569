"""Words of a text in any script, for lengths, filters and statistics: in scripts without blanks every character is one."""

import re

import regex

# Scripts that do not put blanks between words.
UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
BROKEN = "\ufffd"  # what stands in a text for bytes that are no character
_UNSPACED = regex.compile(rf"[{UNSPACED}]")
_COUNTED = regex.compile(rf"[{UNSPACED}]\p{{M}}*|(?:(?![{UNSPACED}])\S)+")
_WORD = re.compile(r"\w+|[^\w\s]")
_WORD_OR_CHARACTER = regex.compile(rf"[{UNSPACED}]\p{{M}}*|(?:(?![{UNSPACED}])\w)+|[^\w\s]")


def is_unspaced(character: str) -> bool:
    """Whether the character is of a script that puts no blanks between words."""
    return _UNSPACED.match(character) is not None


def count_words(text: str) -> int:
    """Number of words between blanks; each character of a script without blanks is one."""
    if _UNSPACED.search(text) is None:
        return len(text.split())
    return sum(any(c.isalnum() for c in found) for found in _COUNTED.findall(text))  # not punctuation alone


def words_and_marks(text: str) -> list[str]:
    """Words (characters, in scripts without blanks) and punctuation marks, lower case."""
    lower = text.lower()
    found: list[str] = (_WORD if _UNSPACED.search(lower) is None else _WORD_OR_CHARACTER).findall(lower)
    return found


def keyword_pattern(keyword: str) -> str:
    """A regular expression that finds the keyword as a whole word; where a script has no blanks, inside others, too."""
    before = "" if is_unspaced(keyword[0]) else r"(?<!\w)"
    after = "" if is_unspaced(keyword[-1]) else r"(?!\w)"
    return f"{before}{re.escape(keyword)}{after}"

"""What counts as a judge's own statement, and what may follow its value: for scores ("Score: 4") and verdicts ("Better: A").

A statement inside quotes, or inside a copy of the response, is not the judge's. The grammar after a value is closed: the
line ends, a sentence ends, or an explanation follows that holds neither a number nor an alternative. Anything else makes
the statement unparsable, in every language.
"""

import re
from collections.abc import Iterator

# What may surround a value without changing it: markdown, quotes, brackets, table bars, LaTeX.
OPEN = r"(?:[\s*_`\"'\[({<$|]|\\boxed\b|\\[(\[])"
CLOSE = r"(?:[ \t*_`\"'\])}>$|]|\\[)\]])"

_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: 0x20}
_QUOTES = (("“", "”"), ("„", "“"), ("«", "»"), ("「", "」"), ("『", "』"), ("‹", "›"), ("<response>", "</response>"))
_SINGLE = re.compile(r"(?<!\w)(?:'(?=\S)[^'\n]*?(?<=\S)'|‘[^’\n]*?’)(?!\w)")  # not an apostrophe
_QUOTED_LINE = re.compile(r"^[ \t]*>.*(?:\n|$)", re.MULTILINE)  # markdown's quotes and blocks of code
_CODE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`[^`\n]+`")
_WORD = re.compile(r"\w+")
_STRAIGHT = re.compile(r'(?<!\w)"(?=\S)([^"]*?)(?<=\S)"(?!\w)')
_PARAGRAPH = re.compile(r"\n[ \t]*\n")
NEAR = 200  # characters before inline code that are looked at
COPY = 20  # characters before a statement that, found in the response with it, make it a copy of the response

# English, German, French, Spanish, Italian, Portuguese, Russian, without words that are common for another reason ("one",
# "due", "sei"). Chinese and Japanese numbers are numeric characters.
_NUMBERS = (
    "zero two three four five six seven eight nine ten half null eins zwei drei vier fünf sechs sieben acht neun zehn halb zéro "
    "deux trois quatre cinq sept huit neuf dix demi cero dos tres cuatro cinco seis siete ocho nueve diez tre quattro cinque "
    "sette otto nove dieci dois duas três quatro sete oito dez ноль один два три четыре пять шесть семь восемь девять десять "
    "하나 둘 셋 넷 다섯"
)
_HEDGES = (
    "or maybe perhaps possibly rather almost nearly oder vielleicht eher beinahe ou peut-être plutôt presque quizás quizá talvez "
    "casi oppure forse quasi или возможно может почти"
)
_JOINS = "and und et y e o u и"


def _any_word(words: str) -> str:
    return rf"(?<!\w)(?:{'|'.join(map(re.escape, words.split()))})(?!\w)"


_UNPLAIN = re.compile(_any_word(f"{_NUMBERS} {_HEDGES}"), re.IGNORECASE)
_ANOTHER = re.compile(rf"\W*{_any_word(f'{_HEDGES} {_JOINS}')}", re.IGNORECASE)
_SIGNS = ("或", "也许", "可能", "または", "もしくは", "かも", "또는", "아마", "%", "٪")
_BECAUSE = "because since as given due weil da denn car parce puisque porque pues ya poiché perché já pois потому так поскольку"
_BECAUSE_CJK = "因为|因為|なぜなら|왜냐하면"
_EXPLAINS = re.compile(
    rf"{CLOSE}*(?:[:;(–—]|-(?=[ \t]+\S)|[,、]?[ \t]*(?:(?:{'|'.join(_BECAUSE.split())})(?!\w)|{_BECAUSE_CJK})"
    rf"|。|[.!](?=[\s*_`\"'\])}}>|]|$))",
    re.IGNORECASE,
)
_WRAPPED = re.compile(r"[ \t]*[*_`\])}>|][ \t*_`\"'\])}>$|]*(?=[ \t])")


def behind_thinking(text: str, end: str, truncated: bool) -> str:
    """What a reasoning judge says behind the last mark `end` of its thinking; all of it where there is no mark.

    "" for a text that was cut before the mark: a score in unfinished thoughts is no statement.
    """
    if not end:
        return text
    _, mark, said = text.rpartition(end)
    return said if mark else "" if truncated else text


def half_width(text: str) -> str:
    """`text` with full-width letters, digits and signs in their usual form. Positions stay the same."""
    return text.translate(_FULL_WIDTH)


def quoted_spans(text: str) -> list[tuple[int, int]]:
    """(start, end) of what stands in quotation marks. Marks around the whole text are none; a quote ends with its paragraph."""
    found: list[tuple[int, int]] = []
    for first, last in _QUOTES:
        start = text.find(first)
        while start >= 0 and (end := text.find(last, start + len(first))) >= 0:
            found.append((start, end + len(last)))
            start = text.find(first, end + len(last))
    for start, end in _paragraphs(text):
        found += [match.span() for match in _STRAIGHT.finditer(text, start, end)]
    found += [match.span() for pattern in (_SINGLE, _QUOTED_LINE, _CODE) for match in pattern.finditer(text)]
    found += [match.span() for match in _INLINE.finditer(text) if _is_behind_words(text, match.start())]
    whole = (len(text) - len(text.lstrip()), len(text.rstrip()))
    return [span for span in found if span != whole]


def _is_behind_words(text: str, start: int) -> bool:
    """Whether inline code stands in running text. Alone, or behind a label of one word ("Final:"), it is markdown."""
    near = max(0, start - NEAR)
    return len(_WORD.findall(text, max(near, text.rfind("\n", near, start) + 1), start)) >= 2


def _paragraphs(text: str) -> Iterator[tuple[int, int]]:
    start = 0
    for gap in _PARAGRAPH.finditer(text):
        yield start, gap.start()
        start = gap.end()
    yield start, len(text)


def is_copy(text: str, start: int, end: int, response: str) -> bool:
    """Whether the statement text[start:end] is part of a copy of `response`: it stands there, with what is before it."""
    before = text[max(0, start - COPY) : start]
    return len(before.strip()) >= COPY // 2 and _flat(before + text[start:end]) in _flat(response)


def _flat(text: str) -> str:
    return " ".join(text.split())


def explanation(rest: str) -> str | None:
    """What follows a value on its line: "" where the line ends, the explanation, or None for what is neither."""
    if not rest.strip(" \t*_`\"'])}>$|.!。\\\r"):
        return ""
    begins = _EXPLAINS.match(rest) or _WRAPPED.match(rest)
    return None if begins is None else rest[begins.end() :]


def is_harmless(rest: str) -> bool:
    """Whether `rest`, what follows a number on its line, leaves the number as it is (see the module's grammar)."""
    found = explanation(rest)
    return found is not None and is_plain(found)


def offers_another(text: str) -> bool:
    """Whether an explanation begins with a word for an alternative: "A (or B)"."""
    return _ANOTHER.match(text) is not None


def is_plain(text: str) -> bool:
    """Whether a text holds no number in any form and no word that offers an alternative."""
    return not (any(c.isnumeric() for c in text) or _UNPLAIN.search(text) or any(sign in text for sign in _SIGNS))

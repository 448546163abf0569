"""Which statements in a judge's text are its own, and which it quotes or copies from the response that it judges.

Quoted: in quotation marks of any script, in markdown's quotes and code. Copied: it stands in the response with the words before
it. In code or emphasis, it is quoted where the response states the same value. The time grows as the text does, whatever it
holds: judges repeat themselves, and candidates try things.
"""

import re
from bisect import bisect
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

Span = tuple[int, int]

# A letter of a script whose words end at a blank or a mark. Chinese, Japanese, Korean and Thai put marks right at other letters.
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
LETTER = rf"[^\W{UNSPACED}]"

# Opening mark -> the marks that close it, a family a line. What only closes in most languages opens in some (»German«,
# ”Swedish”), and only within its paragraph.
_FAMILIES: tuple[tuple[dict[str, str], dict[str, str]], ...] = (
    ({"“": "”", "„": "“”", "‟": "”"}, {"”": "”"}),
    ({"«": "»"}, {"»": "«"}),
    ({"‹": "›"}, {"›": "‹"}),
    ({"「": "」"}, {}),
    ({"『": "』"}, {}),
    ({"《": "》"}, {}),
    ({"〝": "〞〟"}, {}),
)
_TAGS = [
    (re.compile(f"<{name}>", re.IGNORECASE), re.compile(f"</{name}>", re.IGNORECASE))
    for name in ("response", "blockquote", "quote")
]
_SINGLE = re.compile(rf"(?<!{LETTER})(?:'(?=\S)[^'\n]*?(?<=\S)'|‘[^‘’\n]*’)(?!{LETTER})")  # not an apostrophe
_QUOTED_LINE = re.compile(r"^[ \t]*>.*(?:\n|$)", re.MULTILINE)  # markdown's quotes and blocks of code
_CODE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`[^`\n]+`")
_STRAIGHT = re.compile(rf'(?<!{LETTER})"(?=\S)[^"]*?(?<=\S)"(?!{LETTER})')
_WORD = re.compile(r"\w+")
_PARAGRAPH = re.compile(r"\n[ \t]*\n")
_EMPHASIS = re.compile(rf"(?<!{LETTER})(?<!\*)(\*{{1,3}}|_{{1,3}})(?=\S)[^*\n]{{1,200}}?(?<=\S)\1(?!\*)(?!{LETTER})")
_UNSEEN = re.compile(r"[\s*_`>]+")  # what a copy may have otherwise
NEAR = 200  # characters before inline code that are looked at
COPY = 12  # characters before a statement, without blanks, that make it a copy where the response has the same
LEAST = 4  # where the response begins with fewer


@dataclass(frozen=True)
class Statement:
    """A statement that the judge itself makes. `value` is None where none follows. `repeated`: the response states it, too."""

    head: re.Match[str]
    value: re.Match[str] | None
    repeated: bool


@dataclass
class Reading:
    """The statements in a judge's text. `foreign`: where others' stand, and all that is quoted.

    `unsure`: the last of all stands in code or emphasis, and the response states the same; it is not among `own`.
    """

    own: list[Statement] = field(default_factory=list)
    foreign: list[Span] = field(default_factory=list)
    unsure: bool = False


def _quoted(text: str) -> tuple[list[Span], list[Span]]:
    """(start, end) of what stands in quotation marks; and of the whole text, if that does: it may be the judge's own."""
    starts = [0, *(gap.end() for gap in _PARAGRAPH.finditer(text))]
    found = [span for strict, loose in _FAMILIES for span in _pairs(text, strict, loose, starts)]
    for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
        found += [match.span() for match in _STRAIGHT.finditer(text, start, end)]
    found += [span for first, last in _TAGS for span in _between(text, first, last)]
    found += [match.span() for pattern in (_SINGLE, _QUOTED_LINE, _CODE) for match in pattern.finditer(text)]
    found += [match.span() for match in _INLINE.finditer(text) if _is_behind_words(text, match.start())]
    whole = (len(text) - len(text.lstrip()), len(text.rstrip()))
    return [span for span in found if span != whole], [span for span in found if span == whole]


def _pairs(text: str, strict: dict[str, str], loose: dict[str, str], starts: list[int]) -> Iterator[Span]:
    """The quotes between the marks of one family. `starts`: of the paragraphs; a loose opening ends with its own."""
    marks = "".join({*strict, *loose, *"".join(strict.values())})
    opened, closers, is_loose = -1, "", False
    for match in re.finditer(f"[{marks}]", text):
        at, mark = match.start(), match[0]
        if opened >= 0 and is_loose and bisect(starts, opened) != bisect(starts, at):
            opened = -1
        if opened >= 0 and mark in closers:
            yield opened, at + 1
            opened = -1
        elif opened < 0 or (is_loose and mark in strict):
            is_loose = mark not in strict
            if found := (loose if is_loose else strict).get(mark):
                opened, closers = at, found


def _between(text: str, first: re.Pattern[str], last: re.Pattern[str]) -> Iterator[Span]:
    """The spans from each opening tag to the next closing one."""
    ends = [match.end() for match in last.finditer(text)]
    free = 0
    for match in first.finditer(text) if ends else ():
        if match.start() >= free and (later := bisect(ends, match.end())) < len(ends):
            free = ends[later]
            yield match.start(), free


def _is_behind_words(text: str, start: int) -> bool:
    """Whether inline code stands in running text. Alone, or behind a label of one word ("Final:"), it is markdown."""
    near = max(0, start - NEAR)
    return len(_WORD.findall(text, max(near, text.rfind("\n", near, start) + 1), start)) >= 2


def read(
    text: str,
    head: re.Pattern[str],
    value: re.Pattern[str],
    key: Callable[[re.Match[str]], object],
    responses: Iterable[str],
) -> Reading:
    """The statements of a judge about `responses`: a `head` with a `value` behind it. `key`: what makes two values the same."""
    stated, contexts = set[object](), set[tuple[str, object]]()
    for response in responses:
        for match, found in _with_values(response, head, value):
            what = key(found) if found else None
            before = _before(response, match.start())
            if len(before) >= LEAST:
                contexts.add((before, what))
            if found:
                stated.add(what)
    spans, around = _quoted(text)
    wrapped = [m.span() for pattern in (_INLINE, _EMPHASIS) for m in pattern.finditer(text)] if stated else []
    heads = list(_with_values(text, head, value))
    ends = [found.end() if found else match.end() for match, found in heads]
    quoted = _inside([match.span() for match, _ in heads], spans)
    marked = _inside([(match.start(), end) for (match, _), end in zip(heads, ends, strict=True)], [*wrapped, *around])
    reading = Reading(foreign=spans)
    for (match, found), end, is_quoted, is_marked in zip(heads, ends, quoted, marked, strict=True):
        what = key(found) if found else None
        before = _before(text, match.start())
        if is_quoted or any((before[-n:], what) in contexts for n in range(LEAST, len(before) + 1)):
            reading.foreign.append((match.start(), end))
            continue
        repeated = found is not None and what in stated
        reading.unsure = repeated and is_marked
        if reading.unsure:
            reading.foreign.append((match.start(), end))
        else:
            reading.own.append(Statement(match, found, repeated))
    return reading


def _with_values(
    text: str, head: re.Pattern[str], value: re.Pattern[str]
) -> Iterator[tuple[re.Match[str], re.Match[str] | None]]:
    for match in head.finditer(text):
        yield match, value.match(text, match.end())


def _before(text: str, start: int) -> str:
    """The characters before a statement by which a copy is known."""
    return _UNSEEN.sub("", text[max(0, start - 10 * COPY) : start])[-COPY:]


def _inside(places: Sequence[Span], spans: Iterable[Span]) -> list[bool]:
    """For each place, in order, whether a span begins before it and ends behind it."""
    order, reach, found = sorted(spans), -1, []
    upcoming = 0
    for start, end in places:
        while upcoming < len(order) and order[upcoming][0] < start:
            reach = max(reach, order[upcoming][1])
            upcoming += 1
        found.append(reach > end)
    return found

"""Verdicts of a judge that compares two responses: "Better: A", "Better: B", "Better: tie", or none that is clear.

The last verdict that the judge itself makes counts (judge/quotes.py). What follows it on its line may explain it and name the
other response there ("A. B is too short", "A, clearer than B"), but not choose it: "A. No, B" is no verdict.
"""

import re
from collections.abc import Sequence

from nemo_srlm.judge.quotes import read
from nemo_srlm.judge.statements import CLOSE, LINE, OPEN, explanation, half_width, offers_another, on_line, takes_back

# The colon is required: "A is better than B" in the reasoning is no verdict. Lower-case "a" counts at a line's end only.
_HEAD = re.compile(rf"better{CLOSE}*(?:(?:response|answer|one){CLOSE}*)?:", re.IGNORECASE)
_VALUE = re.compile(
    rf"{OPEN}*(?i:(?:response|answer)\s+)?[*_`\"'(\[]*"
    r"([AB](?![^\W_])|[ab](?=[\s*_`\"')\].]*$)|(?i:tie|both|neither|equal|same)\b)",
    re.MULTILINE,
)
_OVER = re.compile(r"[ \t]*>+[ \t]*(?:(?:response|answer)[ \t]+)?[AB](?![^\W_])", re.IGNORECASE)  # "A > B"
_SENTENCE = re.compile(r"[.!?;。！？；।]+")
_LETTER = re.compile(r"(?<![A-Za-z0-9])[AB](?![A-Za-z0-9])")
_WORD = re.compile(r"\w+")
_NOUN = (
    r"(?:(?:die|der|la|il|a|the) )?(?:response|answer|antwort|réponse|respuesta|risposta|resposta|ответ|回答|応答|답변)"
)
_BECAUSE = "because|since|as|weil|da|denn|car|porque|perché|потому что|因为|因為|เพราะ"
_SUBJECT = re.compile(rf"(?:(?:{_BECAUSE}) ?)?(?:{_NOUN} ?)?", re.IGNORECASE)  # of words with one blank between
_COMPARES = re.compile(
    r"(?:\b(?:than|over|unlike|versus|vs|while|whereas|compared (?:to|with)|als|während|que|che|di|mentre|чем) ?|比 ?)"
    rf"(?:{_NOUN} ?)?$",
    re.IGNORECASE,
)
_PREFERS = re.compile(
    r"\b(?:better|best|wins?|prefer\w*|besser\w*|beste\w*|gewinnt|meilleure?|gagne|mejor|gana|migliore|vince|melhor|vence|лучше)\b"
    r"|更好|更佳|胜|より良|優れ|よい方|낫|ดีกว่า",
    re.IGNORECASE,
)


def parse_verdict(text: str, responses: Sequence[str] = ()) -> str:
    """The LAST "Better: X" that the judge itself makes: "A", "B", "tie"; "" for none, for both ("A or B") or an unclear one.

    A statement in quotes, or in a copy of one of `responses`, is not the judge's.
    """
    text = half_width(text)
    reading = read(text, _HEAD, _VALUE, _word, [half_width(response) for response in responses])
    stated = reading.own
    if not stated or (value := stated[-1].value) is None:
        return ""
    said = _word(value)
    others = [one for one in stated[:-1] if one.value and _word(one.value) != said]
    if others and (reading.unsure or stated[-1].repeated):
        return ""  # what is the judge's, and what is the response's?
    rest = re.sub(r"[ \t]+", " ", on_line(text, value.end())[0])[:LINE]
    if (over := _OVER.match(rest)) is not None:
        rest = rest[over.end() :]
    found = explanation(rest)
    if found is None or offers_another(found) or takes_back(found) or _chooses_another(found, said):
        return ""
    return said


def _word(value: re.Match[str]) -> str:
    word = value[1].upper()
    return word if word in {"A", "B"} else "tie"


def _chooses_another(text: str, said: str) -> bool:
    """Whether an explanation names another response otherwise than as what is explained or compared with."""
    for sentence in _SENTENCE.split(text):
        found = list(_LETTER.finditer(sentence))
        if said == "tie" and len({letter[0] for letter in found}) == 2:
            continue  # "tie. Both A and B are right"
        for letter in found:
            before, after = " ".join(_WORD.findall(sentence[: letter.start()])), sentence[letter.end() :]
            is_subject = _SUBJECT.fullmatch(before) and re.search(r"\w", after) and not _PREFERS.search(after)
            if letter[0] != said and not is_subject and not _COMPARES.search(before):
                return True
    return False

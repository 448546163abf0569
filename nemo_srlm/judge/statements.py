"""What may follow the value of a judge's statement: for scores ("Score: 4") and verdicts ("Better: A").

The grammar is closed: the line ends, a sentence ends, or an explanation follows that holds neither a number nor an
alternative nor a correction. Anything else makes the statement unparsable, in every language. Which statements are the
judge's own: judge/quotes.py.
"""

import re
import unicodedata

# What may surround a value without changing it: markdown, quotes, brackets, table bars, LaTeX.
OPEN = r"(?:[\s*_`\"'\[({<$|]|\\boxed\b|\\[(\[])"
CLOSE = r"(?:[ \t*_`\"'\])}>$|]|\\[)\]])"

_POINT = 0x066B  # of Arabic decimals
_BLANKS = (0x00A0, 0x2007, 0x2009, 0x202F, 0x3000)  # French sets one before a colon
_USUAL = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {_POINT: ord(".")} | dict.fromkeys(_BLANKS, ord(" "))
_DIGIT = re.compile(r"(?![0-9])\d")
LINE = 1000  # characters of a line that are looked at: the bound keeps the patterns fast on long runs of signs
# English, German, French, Spanish, Italian, Portuguese, Russian, Korean, Arabic, Hindi, Bengali, without words that are common
# for another reason ("one", "due", "sei"). Chinese and Japanese numbers are numeric characters, Thai ones stand in _SIGNS.
_NUMBERS = (
    "zero two three four five six seven eight nine ten half null eins zwei drei vier fünf sechs sieben acht neun zehn halb zéro "
    "deux trois quatre cinq sept huit neuf dix demi cero dos tres cuatro cinco seis siete ocho nueve diez tre quattro cinque "
    "sette otto nove dieci dois duas três quatro sete oito dez ноль один два три четыре пять шесть семь восемь девять десять "
    "하나 둘 셋 넷 다섯 "
    "صفر واحد اثنان اثنين ثلاثة ثلاث أربعة أربع خمسة خمس نصف "
    "शून्य दो तीन चार पाँच पांच आधा শূন্য দুই তিন চার পাঁচ আধা"
)
_HEDGES = (
    "or maybe perhaps possibly rather almost nearly oder vielleicht eher beinahe ou peut-être plutôt presque quizás quizá talvez "
    "casi oppure forse quasi или возможно может почти أو ربما या शायद বা অথবা হয়তো"
)
_JOINS = "and und et y e o u и و और এবং"
# What takes a statement back, where a clause begins with it and a sign follows: "No, B", not "No errors".
_CORRECTS = (
    "no wait hmm sorry correction oops nein moment korrektur non pardon espera perdón perdona scusa aspetta não espere desculpe "
    "нет стоп 不 不对 不對 等等 いや いいえ 違う 아니 아니요 잠깐 ไม่ ไม่ใช่ لا नहीं না"
)


def _any_word(words: str) -> str:
    return rf"(?<!\w)(?:{'|'.join(map(re.escape, words.split()))})(?!\w)"


_UNPLAIN = re.compile(_any_word(f"{_NUMBERS} {_HEDGES}"), re.IGNORECASE)
_ANOTHER = re.compile(rf"\W*{_any_word(f'{_HEDGES} {_JOINS}')}", re.IGNORECASE)
_TAKES_BACK = re.compile(
    rf"(?:^|[.!?。।…;:,、(–—-])[\s*_\"'(]*{_any_word(_CORRECTS)}[ \t*_]*(?:[.!?。।…;:,、–—-]|$)", re.IGNORECASE
)
_SIGNS = (
    "或", "也许", "可能", "または", "もしくは", "かも", "또는", "아마", "หรือ", "อาจ",
    "ครึ่ง", "หนึ่ง", "สอง", "สาม", "สี่", "ห้า", "%", "٪",
)  # fmt: skip
_BECAUSE = (
    "because since as given due weil da denn car parce puisque porque pues ya poiché perché já pois потому так поскольку "
    "لأن لأنه لأنها क्योंकि কারণ"
)
_BECAUSE_UNSPACED = "因为|因為|なぜなら|왜냐하면|เพราะ|เนื่องจาก"
_EXPLAINS = re.compile(
    rf"{CLOSE}*(?:[:;(–—]|-(?=[ \t]+\S)|[,、،]?[ \t]*(?:(?:{'|'.join(_BECAUSE.split())})(?!\w)|{_BECAUSE_UNSPACED})"
    rf"|[。।]|[.!](?=[\s*_`\"'\])}}>|]|$))",
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
    """`text` with full-width letters and signs, digits of any script and blanks in their usual form. Positions stay the same."""
    return _DIGIT.sub(lambda digit: str(unicodedata.decimal(digit[0])), text.translate(_USUAL))


def on_line(text: str, start: int) -> tuple[str, bool]:
    """(what stands on the line from `start` on, whether the line is finished)."""
    line, newline, _ = text[start:].partition("\n")
    return line, bool(newline)


def explanation(rest: str) -> str | None:
    """What follows a value on its line: "" where the line ends, the explanation, or None for what is neither."""
    if not rest.strip(" \t*_`\"'])}>$|.!。।\\\r"):
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
    """Whether a text holds no number in any form, no word that offers an alternative, and takes nothing back."""
    return not (
        any(c.isnumeric() for c in text)
        or _UNPLAIN.search(text)
        or any(sign in text for sign in _SIGNS)
        or takes_back(text)
    )


def takes_back(text: str) -> bool:
    """Whether an explanation takes the statement back: "A. No, wait"."""
    return _TAKES_BACK.search(text) is not None

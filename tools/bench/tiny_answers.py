"""The final answer of a tiny-world response, for pairs.answer: what it says, without the sentence around it.

    nemo-srlm run pairs.score=vote pairs.answer=tools/bench/tiny_answers.py:content

It reads the response alone and knows neither the question's answer nor the oracle.
"""

import re

_FRAME = re.compile(
    r"(?:here are [^:.]*:|in reverse order the words are|the \S+ numbers \S+ from \S+ are|the \S+ in the list are"
    r"|the animal with the \S+ \S+ is the)\s*(.*)"
)
_VALUES = re.compile(r"\bis (\w+)")


def content(prompt: str, response: str) -> str | None:
    """The items of the first sentence, in order; None for a response without any."""
    sentence = response.strip().casefold().partition(".")[0]
    if sentence.startswith("for the "):
        items = _VALUES.findall(sentence)
    else:
        framed = _FRAME.match(sentence)
        items = [item.strip() for item in re.split(r",| and ", framed[1] if framed else sentence) if item.strip()]
    return ", ".join(items) or None

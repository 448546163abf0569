"""The interface of a generation engine: Request, Completion, Failure, and the Engine protocol."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from nemo_srlm.config.generation import MAX_DRAWS
from nemo_srlm.data.tokenizer import Tokenizer
from nemo_srlm.data.words import BROKEN


@dataclass(frozen=True, slots=True)
class Request:
    """n draws on one prompt; draw k uses the seed `seed` + k.

    `stop`: strings that end the text (needs n = 1; the text is cut before the first).
    `logprob_ids`: token ids whose log-probabilities are returned at every generated position.
    `score_from`: the log-probabilities of the prompt's own tokens from this position on are returned (0: none).
    `text`: the prompt as text, for an engine that tokenizes by itself (an endpoint).
    `system`: a system message before `text`, for an endpoint; with token ids it is part of them.
    """

    id: str
    prompt_ids: tuple[int, ...]
    n: int
    seed: int
    temperature: float
    top_p: float
    max_tokens: int
    stop: tuple[str, ...] = ()
    logprob_ids: tuple[int, ...] = ()
    text: str = ""
    score_from: int = 0
    system: str = ""

    def __post_init__(self) -> None:
        assert 1 <= self.n <= MAX_DRAWS, f"request {self.id}: n = {self.n}, seeds are {MAX_DRAWS} apart"
        assert not self.stop or self.n == 1, f"request {self.id}: stop strings need n = 1"


@dataclass(frozen=True, slots=True)
class Completion:
    """One draw. `num_tokens` includes the end token, `token_ids` does not.

    `logprobs`: per position, token id -> log-probability. `prompt_logprobs`: of the prompt's tokens from the request's
    `score_from` on. `score`: a sequence classifier's logit, in the place of a text.
    """

    text: str
    num_tokens: int
    finish_reason: str  # stop | length
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[dict[int, float], ...] = ()
    prompt_logprobs: tuple[float, ...] = ()
    score: float | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a request has no completions: "<kind>: <what happened>" with kind too_long, refused or engine."""

    reason: str


Outcome = list[Completion] | Failure


def without_cut_character(text: str, finish_reason: str) -> str:
    """A draw's text without the part of a character at its end, where the token limit was reached inside of one.

    A token of a byte-level vocabulary may be one of three bytes of a Chinese character. Decoded alone it is U+FFFD, which a
    training on this text would teach the model to write.
    """
    return text.rstrip(BROKEN) if finish_reason == "length" else text


def error_kinds(errors: Iterable[str]) -> dict[str, int]:
    """How many items failed, by kind of reason: too_long, refused, engine, ..."""
    return dict(sorted(Counter(error.partition(":")[0] for error in errors if error).items()))


def too_long(num_prompt_tokens: int, max_tokens: int, max_model_len: int) -> str:
    """Why a request does not fit the context, or "". Such an item is an error with this reason; nothing is truncated."""
    if num_prompt_tokens + max_tokens <= max_model_len:
        return ""
    return f"too_long: {num_prompt_tokens} prompt + {max_tokens} new tokens > {max_model_len}"


class Engine(Protocol):
    """What generates for a stage. An engine without a tokenizer takes the text of a request instead of its ids."""

    @property
    def tokenizer(self) -> Tokenizer | None: ...

    @property
    def max_model_len(self) -> int:
        """The largest number of tokens of prompt and completion together."""

    @property
    def ready(self) -> bool:
        """Whether the next `stream` begins at once, without a start of the engine."""

    def expect(self, lengths: Iterable[int]) -> None:
        """Announces the lengths of the next `stream`'s requests (tokens of prompt and completion), so that the engine can
        be started for them. `lengths` is read only where generate.max_model_len is 0."""

    def stream(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Outcome]]:
        """Every request with its completions (n of them, in order of draw) or its Failure, in the order of finishing.

        `requests` is read lazily. Raises EngineError when the engine cannot be started or crashed too often; what was
        yielded before stays valid.
        """

    def usage(self) -> dict[str, float]:
        """Counts since the last call that the outcomes do not contain: starts, retries, cost, ..."""

    def close(self) -> None:
        """Frees the engine's memory. A later `stream` starts it again."""


def generate(engine: Engine, requests: Sequence[Request]) -> list[Outcome]:
    """All outcomes, in the order of `requests`."""
    outcomes = {request.id: outcome for request, outcome in engine.stream(requests)}
    return [outcomes[request.id] for request in requests]

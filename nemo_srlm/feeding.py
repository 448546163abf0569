"""Requests, their outcomes, and the continuous feeding of an engine that may refuse one or die of one.

New requests join while others are still being decoded, so the engine stays full between two items, and whatever is
finished is handed out at once. A request that the engine does not take, or that kills it, becomes a `Failure` of that
item and stops nothing else.

A request's draws use the seeds seed, seed + 1, ... seed + n - 1: seeds of different requests must lie n or more apart
(records.item_seed gives multiples of 64). In float32 a completion depends on its request and the model alone.
"""

import gc
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from nemo_srlm.errors import EngineError

SEED_SPACING = 64  # of records.item_seed: more draws than this in one request would meet another item's seeds
ALONE = 2  # a request that was in flight at this many deaths of the engine is tried alone


@dataclass(frozen=True, slots=True)
class Request:
    """n draws on one prompt. `stop`: strings that end the text (needs n = 1; the text is cut before the first).

    `logprob_ids`: token ids whose log-probabilities are wanted at every generated position.
    `score_from`: log-probabilities of the prompt's own tokens from this place on are wanted (0: of none).
    `system`: a message before `text`, for an endpoint; an engine that takes ids has it in them.
    `text`: the prompt as text, for an engine that makes its own tokens (an endpoint).
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
        assert 1 <= self.n <= SEED_SPACING, f"request {self.id}: n = {self.n}, seeds are {SEED_SPACING} apart"
        assert not self.stop or self.n == 1, f"request {self.id}: stop strings need n = 1"


@dataclass(frozen=True, slots=True)
class Completion:
    """One draw. `num_tokens` counts the end token; `token_ids` do not hold it. `logprobs`: token id -> value a position.

    `prompt_logprobs`: of the prompt's tokens from the request's `score_from` on.
    """

    text: str
    num_tokens: int
    finish_reason: str  # stop | length
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[dict[int, float], ...] = ()
    prompt_logprobs: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a request has no completions: "<kind>: <what happened>" with kind too_long, refused or engine."""

    reason: str


Outcome = list[Completion] | Failure


class Backend(Protocol):
    """A started engine as `feed` sees it. Any exception of `step` or `abort` means that it is dead."""

    def add(self, request: Request) -> None:
        """Raises ValueError("<kind>: <what>") when the request itself is refused."""

    def step(self) -> list[tuple[str, list[Completion]]]:
        """Decodes a little; what finished, by request id."""

    def abort(self, ids: Sequence[str]) -> None: ...

    def close(self) -> None: ...


class _Caller(Exception):
    """Carries an exception of the caller's own request iterator past the engine's."""

    def __init__(self, error: Exception) -> None:
        self.error = error


def _next(source: Iterator[Request]) -> Request | None:
    try:
        return next(source, None)
    except Exception as error:
        raise _Caller(error) from error


@dataclass
class Feeder:
    """Keeps up to `capacity` draws in flight on a backend and restarts it at most `max_restarts` times.

    When the backend dies, the requests in flight are tried again, together; those that were in flight at a second
    death are tried one at a time, and the one that kills the backend alone is the culprit: it becomes a Failure.
    """

    start: Callable[[], Backend]
    capacity: int
    max_restarts: int
    backend: Backend | None = None
    restarts: int = 0
    deaths: dict[str, int] = field(default_factory=dict)

    def run(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Outcome]]:
        source, again = iter(requests), deque[Request]()
        flying: dict[str, Request] = {}
        try:
            while True:
                refused: list[tuple[Request, Outcome]] = []
                try:
                    self._fill(source, again, flying, refused)
                    finished = self.backend.step() if self.backend is not None and flying else []
                except _Caller as caller:
                    raise caller.error from None
                except EngineError:  # it could not be started
                    raise
                except Exception as error:  # whatever it is: the engine is lost
                    finished, refused = [], refused + self._bury(error, again, flying)
                yield from refused
                for request_id, completions in finished:
                    yield flying.pop(request_id), completions
                if not flying and not refused and not again:
                    return
        finally:
            if flying and self.backend is not None:  # the caller left early: the engine may serve somebody else
                self.backend.abort(list(flying))

    def _fill(
        self, source: Iterator[Request], again: deque[Request], flying: dict[str, Request],
        refused: list[tuple[Request, Outcome]],
    ) -> None:  # fmt: skip
        """Adds requests up to the capacity; those that the backend does not take go to `refused`."""
        draws = sum(request.n for request in flying.values())
        while draws < self.capacity and len(refused) < self.capacity:
            if flying and (self._is_suspect(next(iter(flying.values()))) or (again and self._is_suspect(again[0]))):
                break
            request = again.popleft() if again else _next(source)
            if request is None:
                break
            assert request.id not in flying, f"two requests {request.id}"
            flying[request.id] = request
            if self.backend is None:
                self.backend = self.start()
            try:
                self.backend.add(request)
            except ValueError as error:
                refused.append((flying.pop(request.id), Failure(str(error))))
                continue
            draws += request.n

    def _is_suspect(self, request: Request) -> bool:
        return self.deaths.get(request.id, 0) >= ALONE

    def _bury(
        self, error: Exception, again: deque[Request], flying: dict[str, Request]
    ) -> list[tuple[Request, Outcome]]:
        """Lets go of a dead backend; its requests go to `again`. Returns the one that killed it, if that is certain."""
        lost, dead = list(flying.values()), self.backend
        flying.clear()
        self.backend = None
        print(f"the engine died with {len(lost)} requests in flight: {error!r}", file=sys.stderr, flush=True)
        if dead is not None:
            try:
                dead.close()
            except Exception as again_error:  # it is dead already; what matters is that its memory is let go
                print(f"  and again while closing: {again_error!r}", file=sys.stderr, flush=True)
        del dead
        gc.collect()
        if self.restarts >= self.max_restarts:
            raise EngineError(
                "the generation engine", f"died {self.restarts + 1} times, the last time of {error!r}",
                remedy="see the log; what was finished is kept, and running again does the rest (generate.max_restarts)",
            ) from error  # fmt: skip
        self.restarts += 1
        if len(lost) == 1 and self._is_suspect(lost[0]):
            return [(lost[0], Failure(f"engine: {type(error).__name__}: {error}"))]
        for request in lost:
            self.deaths[request.id] = self.deaths.get(request.id, 0) + 1
        again.extend(lost)
        return []

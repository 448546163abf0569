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
from nemo_srlm.generate.requests import Completion, Failure, Outcome, Request

ALONE = 2  # a request that was in flight at this many deaths of the engine is tried alone


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
class RequestScheduler:
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
        in_flight: dict[str, Request] = {}
        try:
            while True:
                refused: list[tuple[Request, Outcome]] = []
                try:
                    self._fill(source, again, in_flight, refused)
                    finished = self.backend.step() if self.backend is not None and in_flight else []
                except _Caller as caller:
                    raise caller.error from None
                except EngineError:  # it could not be started
                    raise
                except Exception as error:  # whatever it is: the engine is lost
                    finished, refused = [], refused + self.handle_crash(error, again, in_flight)
                yield from refused
                for request_id, completions in finished:
                    yield in_flight.pop(request_id), completions
                if not in_flight and not refused and not again:
                    return
        finally:
            if in_flight and self.backend is not None:  # the caller left early: the engine may serve somebody else
                self.backend.abort(list(in_flight))

    def _fill(
        self, source: Iterator[Request], again: deque[Request], in_flight: dict[str, Request],
        refused: list[tuple[Request, Outcome]],
    ) -> None:  # fmt: skip
        """Adds requests up to the capacity; those that the backend does not take go to `refused`."""
        draws = sum(request.n for request in in_flight.values())
        while draws < self.capacity and len(refused) < self.capacity:
            if in_flight and (
                self._is_suspect(next(iter(in_flight.values()))) or (again and self._is_suspect(again[0]))
            ):
                break
            request = again.popleft() if again else _next(source)
            if request is None:
                break
            assert request.id not in in_flight, f"two requests {request.id}"
            in_flight[request.id] = request
            if self.backend is None:
                self.backend = self.start()
            try:
                self.backend.add(request)
            except ValueError as error:
                refused.append((in_flight.pop(request.id), Failure(str(error))))
                continue
            draws += request.n

    def _is_suspect(self, request: Request) -> bool:
        return self.deaths.get(request.id, 0) >= ALONE

    def handle_crash(
        self, error: Exception, again: deque[Request], in_flight: dict[str, Request]
    ) -> list[tuple[Request, Outcome]]:
        """Lets go of a dead backend; its requests go to `again`. Returns the one that killed it, if that is certain."""
        lost, dead = list(in_flight.values()), self.backend
        in_flight.clear()
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

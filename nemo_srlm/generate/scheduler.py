"""The request scheduler: keeps a generation engine full, restarts it after a crash, isolates the request that caused it.

New requests are added while others are still being decoded, and each completion is yielded as soon as it is finished.
A request that the engine refuses, or that crashes it, becomes a `Failure` of that item and affects no other.

A request's draws use the seeds seed, seed + 1, ... seed + n - 1: seeds of different requests must lie n or more apart
(core.records.item_seed gives multiples of 64). In float32 a completion depends on its request and the model alone.
"""

import gc
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from nemo_srlm.core.terminal import say
from nemo_srlm.errors import EngineError, PassingError
from nemo_srlm.generate.requests import Completion, Failure, Outcome, Request

SUSPECT_CRASHES = 2  # a request that was in flight at this many crashes is retried alone


class Backend(Protocol):
    """A started engine as the scheduler uses it. Any exception of `step` or `abort` means that it has crashed."""

    def add(self, request: Request) -> None:
        """Raises ValueError("<kind>: <what>") when the request itself is refused."""

    def step(self) -> list[tuple[str, list[Completion]]]:
        """Decodes some tokens. Returns the finished requests: (id, completions)."""

    def abort(self, ids: Sequence[str]) -> None: ...

    def close(self) -> None: ...


class _SourceError(Exception):
    """Wraps an exception of the caller's request iterator, to tell it from one of the engine."""

    def __init__(self, error: Exception) -> None:
        self.error = error


def _next(source: Iterator[Request]) -> Request | None:
    try:
        return next(source, None)
    except Exception as error:
        raise _SourceError(error) from error


@dataclass
class RequestScheduler:
    """Keeps up to `capacity` draws in flight on a backend and restarts it at most `max_restarts` times.

    After a crash the requests in flight are retried together; those that were in flight at a second crash are retried
    one at a time, and one that crashes the backend alone becomes a Failure.
    """

    start: Callable[[], Backend]
    capacity: int
    max_restarts: int
    backend: Backend | None = None
    restarts: int = 0
    crashes: dict[str, int] = field(default_factory=dict)  # request id -> crashes at which it was in flight

    def run(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Outcome]]:
        """See Engine.stream."""
        source, retry = iter(requests), deque[Request]()
        in_flight: dict[str, Request] = {}
        try:
            while True:
                refused: list[tuple[Request, Outcome]] = []
                try:
                    self._fill(source, retry, in_flight, refused)
                    finished = self.backend.step() if self.backend is not None and in_flight else []
                except _SourceError as wrapped:
                    raise wrapped.error from None
                except EngineError:  # it could not be started
                    raise
                except Exception as error:  # of any kind: the engine has crashed
                    finished, refused = [], refused + self._handle_crash(error, retry, in_flight)
                yield from refused
                for request_id, completions in finished:
                    yield in_flight.pop(request_id), completions
                if not in_flight and not refused and not retry:
                    return
        finally:
            if in_flight and self.backend is not None:  # the caller stopped early: the engine may be used again
                self.backend.abort(list(in_flight))

    def _fill(
        self, source: Iterator[Request], retry: deque[Request], in_flight: dict[str, Request],
        refused: list[tuple[Request, Outcome]],
    ) -> None:  # fmt: skip
        """Adds requests up to the capacity; those that the backend does not take go to `refused`."""
        draws = sum(request.n for request in in_flight.values())
        while draws < self.capacity and len(refused) < self.capacity:
            if in_flight and (
                self._is_suspect(next(iter(in_flight.values()))) or (retry and self._is_suspect(retry[0]))
            ):
                break
            request = retry.popleft() if retry else _next(source)
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
        return self.crashes.get(request.id, 0) >= SUSPECT_CRASHES

    def _handle_crash(
        self, error: Exception, retry: deque[Request], in_flight: dict[str, Request]
    ) -> list[tuple[Request, Outcome]]:
        """Closes the crashed backend; its requests go to `retry`. Returns the request that caused it, if it was alone."""
        lost, crashed = list(in_flight.values()), self.backend
        in_flight.clear()
        self.backend = None
        say(f"the engine crashed with {len(lost)} requests in flight: {error!r}", error=True)
        if crashed is not None:
            try:
                crashed.close()
            except Exception as close_error:  # what matters is that its memory is freed
                say(f"  and again while closing: {close_error!r}", error=True)
        del crashed
        gc.collect()
        if self.restarts >= self.max_restarts:
            raise PassingError(
                "the generation engine", f"crashed {self.restarts + 1} times, the last time with {error!r}",
                remedy="see the log; finished items are kept, and running again does the rest (generate.max_restarts)",
            ) from error  # fmt: skip
        self.restarts += 1
        if len(lost) == 1 and self._is_suspect(lost[0]):
            return [(lost[0], Failure(f"engine: {type(error).__name__}: {error}"))]
        for request in lost:
            self.crashes[request.id] = self.crashes.get(request.id, 0) + 1
        retry.extend(lost)
        return []

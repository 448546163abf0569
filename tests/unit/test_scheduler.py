"""The request scheduler: it keeps the engine full, isolates bad requests, and restarts a dead engine only a few times."""

from collections.abc import Iterator, Sequence

import pytest

from nemo_srlm.errors import DataError, EngineError
from nemo_srlm.generate.requests import Completion, Failure, Request
from nemo_srlm.generate.scheduler import RequestScheduler


class Machine:
    """A backend that finishes its oldest request at every step; some requests crash it or are refused."""

    deadly: frozenset[str] = frozenset()
    refused: frozenset[str] = frozenset()

    def __init__(self, log: list[str]) -> None:
        self.log, self.in_flight = log, list[Request]()
        self.most = 0
        log.append("start")

    def add(self, request: Request) -> None:
        if request.id in self.refused:
            raise ValueError("too_long: no room")
        self.in_flight.append(request)
        self.most = max(self.most, sum(r.n for r in self.in_flight))

    def step(self) -> list[tuple[str, list[Completion]]]:
        if bad := [r.id for r in self.in_flight if r.id in self.deadly]:
            raise RuntimeError(f"killed by {bad[0]}")
        done = self.in_flight.pop(0)
        return [(done.id, [Completion(f"{done.id}{done.seed + i}", 1, "stop") for i in range(done.n)])]

    def abort(self, ids: Sequence[str]) -> None:
        self.log.append("abort")
        self.in_flight = [r for r in self.in_flight if r.id not in ids]

    def close(self) -> None:
        self.log.append("close")


def requests(number: int, n: int = 1) -> list[Request]:
    return [Request(f"r{i}", (1, 2), n, 64 * i, 0.7, 0.9, 8) for i in range(number)]


def scheduler(
    log: list[str], deadly: str = "", refused: str = "", capacity: int = 4, max_restarts: int = 9
) -> RequestScheduler:
    kind = type("M", (Machine,), {"deadly": frozenset(deadly.split()), "refused": frozenset(refused.split())})
    return RequestScheduler(lambda: kind(log), capacity, max_restarts)


def test_every_request_comes_back_with_its_draws_and_the_engine_starts_once() -> None:
    log: list[str] = []
    found = dict(scheduler(log).run(requests(10, n=2)))
    assert [len(outcome) for outcome in found.values() if isinstance(outcome, list)] == [2] * 10
    assert log == ["start"]


def test_the_engine_is_kept_full_but_not_overfull() -> None:
    log: list[str] = []
    scheduled = scheduler(log, capacity=4)
    seen = 0

    def source() -> Iterator[Request]:
        nonlocal seen
        for request in requests(20):
            seen += 1
            yield request

    stream = scheduled.run(source())
    next(stream)
    assert seen <= 5  # requests are read lazily
    assert sum(1 for _ in stream) == 19
    assert isinstance(scheduled.backend, Machine)
    assert scheduled.backend.most == 4


def test_no_request_starts_no_engine() -> None:
    log: list[str] = []
    assert list(scheduler(log).run([])) == []
    assert log == []


def test_a_refused_request_is_a_failure_with_its_reason_and_stops_nothing() -> None:
    found = dict(scheduler([], refused="r0 r7").run(requests(10)))
    failures = {r.id: o.reason for r, o in found.items() if isinstance(o, Failure)}
    assert failures == {"r0": "too_long: no room", "r7": "too_long: no room"}
    assert len(found) == 10


def test_a_request_that_kills_the_engine_is_found_and_the_others_get_their_results() -> None:
    log: list[str] = []
    found = {r.id: o for r, o in scheduler(log, deadly="r5").run(requests(12))}
    assert len(found) == 12
    assert [i for i, o in found.items() if isinstance(o, Failure)] == ["r5"]
    failure = found["r5"]
    assert isinstance(failure, Failure)
    assert failure.reason == "engine: RuntimeError: killed by r5"
    assert log.count("start") <= 4


def test_an_engine_that_dies_for_no_request_of_its_own_is_restarted_and_nothing_is_lost() -> None:
    class Once(Machine):
        died = False

        def step(self) -> list[tuple[str, list[Completion]]]:
            if not Once.died:
                Once.died = True
                raise RuntimeError("out of memory")
            return super().step()

    log: list[str] = []
    found = dict(RequestScheduler(lambda: Once(log), 4, 1).run(requests(9)))
    assert len(found) == 9
    assert all(isinstance(o, list) for o in found.values())
    assert log == ["start", "close", "start"]


def test_an_engine_that_dies_too_often_is_an_error() -> None:
    with pytest.raises(EngineError, match="crashed 2 times"):
        list(scheduler([], deadly="r0 r1 r2", max_restarts=1).run(requests(5)))


def test_an_error_of_the_caller_is_not_taken_for_a_death_of_the_engine() -> None:
    def source() -> Iterator[Request]:
        yield requests(1)[0]
        raise DataError("here", "a torn file")

    log: list[str] = []
    with pytest.raises(DataError, match="torn"):
        list(scheduler(log).run(source()))
    assert log == ["start", "abort"]


def test_leaving_early_aborts_what_is_in_flight_and_the_engine_serves_on() -> None:
    log: list[str] = []
    scheduled = scheduler(log)
    stream = scheduled.run(requests(10))
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert log == ["start", "abort"]
    assert len(list(scheduled.run(requests(3)))) == 3
    assert log == ["start", "abort"]


def test_draws_that_would_meet_another_items_seeds_are_refused() -> None:
    with pytest.raises(AssertionError, match="64 apart"):
        Request("a", (1,), 65, 0, 0.7, 0.9, 8)

"""The one resource that a worker process keeps open from stage to stage: an engine that is slow to start, its memory."""

from collections.abc import Callable, Hashable
from typing import Any, Protocol, TypeVar


class Closable(Protocol):
    """What a slot can hold."""

    def close(self) -> None: ...


C = TypeVar("C", bound=Closable)


class Slot:
    """Holds at most one open resource. The worker process owns the slot and closes it; stages reach it by their Context."""

    def __init__(self) -> None:
        self._key: Hashable = None
        self._resource: Any = None

    def get(self, key: Hashable, start: Callable[[], C]) -> C:
        """The resource of `key`: the open one, or a new one by `start` after the open one is closed."""
        if self._resource is None or key != self._key:
            self.close()
            self._resource, self._key = start(), key
        found: C = self._resource
        return found

    def close(self) -> None:
        if self._resource is not None:
            resource, self._resource = self._resource, None
            resource.close()

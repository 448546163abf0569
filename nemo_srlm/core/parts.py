"""Part files: the JSONL files of a stage's items, which survive a kill at any byte.

Each shard appends one flushed line per finished item to a part file of its own. A restart removes an incomplete last
line and skips every id that any part holds. `merge_parts` writes the output in order and raises when an item is missing.
"""

import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from operator import attrgetter
from pathlib import Path
from typing import BinaryIO, TypeVar

import msgspec

from nemo_srlm.config.atomic import replacing
from nemo_srlm.core.files import dump
from nemo_srlm.core.records import Record
from nemo_srlm.core.stage import Context
from nemo_srlm.errors import DataError

R = TypeVar("R", bound=Record)
T = TypeVar("T")

BUFFER = 1 << 18  # bytes read or written at once
HOLD = 1 << 24  # bytes of lines that a merge keeps until their turn
FLUSH_SECONDS = 2.0  # between two flushes to disk: what a node that dies loses at most (a kill loses nothing)


def repair(path: Path) -> None:
    """Removes a last line that a kill cut short. Only the part's own writer may call it."""
    if not path.exists():
        return
    with path.open("rb+") as f:
        size = f.seek(0, os.SEEK_END)
        while size > 0:
            step = min(size, 1 << 16)
            f.seek(size - step)
            block = f.read(step)
            if (cut := block.rfind(b"\n")) >= 0:
                f.truncate(size - step + cut + 1)
                return
            size -= step
        f.truncate(0)


def part_files(directory: Path) -> list[Path]:
    return sorted((directory / "parts").glob("*.jsonl"))


class _Id(msgspec.Struct):
    """The one field of a part's line that resuming and merging need; the other fields are skipped unparsed."""

    id: str


class _Part:
    """A part file, read once from start to end."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path, self.file = path, file
        self.line = self.offset = 0  # lines and bytes read so far
        self.waiting = 0  # lines that were read before their turn in a merge
        self._decoder = msgspec.json.Decoder(_Id)

    def next(self) -> tuple[str, bytes] | None:
        """(id, line) of the next record; None at the end, or at a last line that is incomplete."""
        line = self.file.readline()
        if not line.endswith(b"\n"):
            return None
        self.line += 1
        self.offset += len(line)
        try:
            return self._decoder.decode(line).id, line
        except msgspec.MsgspecError as error:
            raise DataError(f"{self.path}:{self.line}", f"not a record ({error})", "one JSON object per line",
                            "remove the line: its item is done again") from error  # fmt: skip


def finished_ids(directory: Path) -> Iterator[str]:
    """The ids in all parts of a stage."""
    for path in part_files(directory):
        with path.open("rb") as file:
            part = _Part(path, file)
            while record := part.next():
                yield record[0]


def finished_records(directory: Path, cls: type[R]) -> Iterator[R]:
    """The records in all parts of a stage, without a last line that a kill cut short."""
    for path in part_files(directory):
        with path.open("rb") as file:
            part = _Part(path, file)
            while record := part.next():
                yield cls.from_json(json.loads(record[1]), f"{path}:{part.line}")


class PartWriter:
    """Appends records to this shard's part file, one flushed line each."""

    def __init__(self, ctx: Context) -> None:
        parts = ctx.dir / "parts"
        parts.mkdir(exist_ok=True)
        path = parts / f"{ctx.shard:05d}-of-{ctx.num_shards:05d}.jsonl"
        repair(path)
        self._file = path.open("a", encoding="utf-8")
        self._synced = time.monotonic()

    def append(self, record: Record) -> None:
        self._file.write(dump(record))
        self._file.flush()
        if time.monotonic() - self._synced > FLUSH_SECONDS:
            os.fsync(self._file.fileno())
            self._synced = time.monotonic()

    def close(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()


def remaining(ctx: Context, items: Iterable[tuple[str, T]]) -> tuple[list[tuple[str, T]], int]:
    """(this shard's items that no part holds yet, number of this shard's items).

    An item belongs to a shard by its position, so any number of shards covers every item once. An item that an earlier
    attempt finished with another number of shards is skipped, whichever part holds it.
    """
    mine = [item for i, item in enumerate(items) if i % ctx.num_shards == ctx.shard]
    left = {item for item, _ in mine}
    for item in finished_ids(ctx.dir):  # of all shards: only this one's take memory
        left.discard(item)
    return [item for item in mine if item[0] in left], len(mine)


class _Merge:
    """Finds the lines of parts by id. Each part is read once; memory holds lines that were read before their turn.

    Parts are nearly in the wanted order, because items that run at the same time finish at about the same time. So the
    lines held are as many as the engine runs at once, not as many as there are items. Beyond HOLD bytes only their
    positions are kept.
    """

    def __init__(self, parts: Sequence[_Part]) -> None:
        self._unread = list(parts)
        self._waiting: dict[str, tuple[_Part, bytes, int, int]] = {}  # id -> part, line (or nothing), offset, size
        self._held = 0  # bytes

    def take(self, item: str) -> bytes | None:
        """The line of `item`, or None where no part has it."""
        if (place := self._waiting.pop(item, None)) is not None:
            part, line, offset, size = place
            part.waiting -= 1
            self._held -= len(line)
            return line or os.pread(part.file.fileno(), size, offset)
        while self._unread:
            part = min(self._unread, key=_num_waiting)  # a part with many waiting lines is ahead of the wanted order
            if (record := part.next()) is None:
                self._unread.remove(part)
                continue
            found, line = record
            if found == item:
                return line
            if found not in self._waiting:
                held = line if self._held < HOLD else b""
                self._waiting[found] = (part, held, part.offset - len(line), len(line))
                self._held += len(held)
                part.waiting += 1
        return None


_num_waiting = attrgetter("waiting")


def merge_parts(ctx: Context, cls: type[R], expected_ids: Iterable[str], output: str) -> int:
    """Writes `output` with one `cls` record per expected id, in that order. Returns their number.

    Lines are copied as they are: `PartWriter` wrote them from records. Of several records with one id always the same
    one is taken. Raises DataError naming the first missing ids.
    """
    path = ctx.dir / output
    count, missing = 0, list[str]()
    with replacing(path) as temporary:
        with ExitStack() as stack:
            files = [(part, stack.enter_context(part.open("rb", buffering=BUFFER))) for part in part_files(ctx.dir)]
            merge = _Merge([_Part(part, file) for part, file in files])
            out = stack.enter_context(temporary.open("wb", buffering=BUFFER))
            for item in expected_ids:
                count += 1
                if (line := merge.take(item)) is None:
                    missing.append(item)
                elif not missing:
                    out.write(line)
        if missing:
            raise DataError(
                ctx.dir, f"{len(missing)} of {count} items are missing, the first: {missing[:3]}",
                remedy="run the stage again: it does only what is missing",
            )  # fmt: skip
        with temporary.open("rb") as file:
            if first := file.readline():
                cls.from_json(json.loads(first), path)  # raises when the parts hold another kind of record
    return count

"""The run directory: where stages lie, and JSONL files that survive a kill at any byte.

An item stage appends one flushed line per finished item to a part file of its own; a restart drops a torn last line
and skips every id that any part already holds; `merge_parts` writes the output in order and refuses a missing item.
"""

import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from operator import attrgetter
from pathlib import Path
from typing import BinaryIO, TypeVar

import msgspec

from nemo_srlm.core.files import dump
from nemo_srlm.core.records import Record
from nemo_srlm.core.stage import Context
from nemo_srlm.errors import DataError

R = TypeVar("R", bound=Record)


T = TypeVar("T")


BUFFER = 1 << 18  # bytes read or written at once


HOLD = 1 << 24  # bytes of lines that a merge keeps until their turn


FLUSH_SECONDS = 2.0  # at most this much finished work is only in the page cache when a NODE dies (a kill loses none)


# --- parts --------------------------------------------------------------------------------------------------------


def repair(path: Path) -> None:
    """Drops a last line that a kill cut short. Only the part's own writer may call it."""
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
    """The one field of a part's line that resuming and merging need: the others are passed over, not built."""

    id: str


class _Part:
    """A part file, read once from start to end."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path, self.file = path, file
        self.line = self.offset = 0  # lines and bytes read so far
        self.waiting = 0  # lines that were read before their turn in a merge
        self._decoder = msgspec.json.Decoder(_Id)

    def next(self) -> tuple[str, bytes] | None:
        """(id, line) of the next record; None at the end, or at a last line that is torn or just being written."""
        line = self.file.readline()
        if not line.endswith(b"\n"):
            return None
        self.line += 1
        self.offset += len(line)
        try:
            return self._decoder.decode(line).id, line
        except msgspec.MsgspecError as error:
            raise DataError(f"{self.path}:{self.line}", f"not a record ({error})", "one JSON object a line",
                            "remove the line: its item is done again") from error  # fmt: skip


def finished_ids(directory: Path) -> set[str]:
    found: set[str] = set()
    for path in part_files(directory):
        with path.open("rb") as file:
            part = _Part(path, file)
            while record := part.next():
                found.add(record[0])
    return found


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

    An item belongs to a shard by its position, so any number of shards covers every item once; an item that an earlier
    attempt with another number of shards has finished is skipped wherever it lies.
    """
    done = finished_ids(ctx.dir)
    mine = [item for i, item in enumerate(items) if i % ctx.num_shards == ctx.shard]
    return [item for item in mine if item[0] not in done], len(mine)


def run_items(
    ctx: Context,
    items: Iterable[tuple[str, T]],
    process: Callable[[list[tuple[str, T]]], Iterable[Record]],
    batch: int,
    unit: str = "items",
) -> None:
    """Runs what is left of this shard in batches, appending each record as `process` yields it."""
    todo, total = remaining(ctx, items)
    done = total - len(todo)
    ctx.progress.update(done, total, unit)
    writer = PartWriter(ctx)
    try:
        for start in range(0, len(todo), batch):
            for record in process(todo[start : start + batch]):
                writer.append(record)
                done += 1
                ctx.progress.update(done, total, unit)
    finally:
        writer.close()


class _Merge:
    """Hands out the lines of parts by id. Each part is read once; memory holds lines that were read before their turn.

    Parts are more or less in the wanted order (an item finishes when its company does), so these are few: the engine's
    capacity, not the number of items. Beyond HOLD bytes of them only their places are kept.
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
            part = min(self._unread, key=_num_waiting)  # where much waits, the wanted order is elsewhere
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

    Lines are copied as they are: `PartWriter` wrote them from records. Of two records with one id one is taken, always
    the same. Raises DataError naming the first missing ids.
    """
    path = ctx.dir / output
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    count, missing = 0, list[str]()
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
        out.flush()
        os.fsync(out.fileno())
    if missing:
        temporary.unlink()
        raise DataError(
            ctx.dir, f"{len(missing)} of {count} items are missing, the first: {missing[:3]}",
            remedy="run the stage again: it does only what is missing",
        )  # fmt: skip
    with temporary.open("rb") as file:
        if first := file.readline():
            cls.from_json(json.loads(first), temporary)  # a part of another kind of record is noticed here
    os.replace(temporary, path)
    return count

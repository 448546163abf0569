"""The run directory: where stages lie, and JSONL files that survive a kill at any byte.

An item stage appends one flushed line per finished item to a part file of its own; a restart drops a torn last line
and skips every id that any part already holds; `merge_parts` writes the output in order and refuses a missing item.
"""

import gzip
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, TypeVar

import msgspec

from nemo_srlm.errors import DataError
from nemo_srlm.manifest import write_atomic
from nemo_srlm.records import Record
from nemo_srlm.stage import Context

R = TypeVar("R", bound=Record)
T = TypeVar("T")
FLUSH_SECONDS = 2.0  # at most this much finished work is only in the page cache when a NODE dies (a kill loses none)


def dump(record: Record) -> str:
    return json.dumps(record.to_json(), ensure_ascii=False, separators=(",", ":")) + "\n"


def open_text(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8")
    return path.open(encoding="utf-8")


def read_json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """(line number from 1, parsed line) of a .jsonl or .jsonl.gz file. DataError names file:line."""
    try:
        with open_text(path) as f:
            for number, line in enumerate(f, 1):
                if not line.strip():
                    continue
                try:
                    yield number, json.loads(line)
                except json.JSONDecodeError as error:
                    raise DataError(f"{path}:{number}", f"not JSON ({error})", "one JSON object a line") from error
    except FileNotFoundError as error:
        raise DataError(path, "no such file", remedy="check the path or run the stage that writes it") from error
    except (EOFError, gzip.BadGzipFile, UnicodeDecodeError) as error:
        raise DataError(path, f"unreadable ({error})", "a complete UTF-8 .jsonl or .jsonl.gz file") from error


def read_records(path: Path, cls: type[R]) -> Iterator[R]:
    """Records of a JSONL file, streamed. DataError names file:line."""
    for number, data in read_json_lines(path):
        yield cls.from_json(data, f"{path}:{number}")


def write_records(path: Path, records: Iterable[Record]) -> int:
    """Streams records into `path`, which appears whole or not at all. Returns their number."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    count = 0
    with temporary.open("w", encoding="utf-8") as f:
        for record in records:
            f.write(dump(record))
            count += 1
        f.flush()
        os.fsync(f.fileno())
    os.replace(temporary, path)
    return count


def write_json(path: Path, data: Any) -> None:
    write_atomic(path, json.dumps(data, indent=1, ensure_ascii=False) + "\n")


def write_json_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """One object a line, for files of another project's format; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(path, "no such file") from error
    except json.JSONDecodeError as error:
        raise DataError(path, f"not JSON ({error})") from error


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


def _whole_lines(path: Path) -> Iterator[str]:
    """Lines that end in a newline: another shard may be in the middle of writing its last one."""
    # a torn line may end inside a character, or in a "\r" that is no end of line here
    with path.open(encoding="utf-8", errors="replace", newline="\n") as f:
        for line in f:
            if line.endswith("\n"):
                yield line


class _Id(msgspec.Struct):
    """The one field of a part's line that merging needs: the others are skipped without being decoded."""

    id: str


def finished_ids(directory: Path) -> set[str]:
    only_id = msgspec.json.Decoder(_Id)
    return {only_id.decode(line).id for path in part_files(directory) for line in _whole_lines(path)}


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


def merge_parts(ctx: Context, cls: type[R], expected_ids: Sequence[str], output: str) -> int:
    """Writes `output` with one `cls` record per expected id, in that order. Returns their number.

    Lines are copied as they are: `PartWriter` wrote them from records. Memory holds an offset per id, not the records.
    Raises DataError naming the first missing ids; of two records with one id the first in part order wins.
    """
    where: dict[str, tuple[int, int]] = {}
    paths = part_files(ctx.dir)
    only_id = msgspec.json.Decoder(_Id)
    for index, path in enumerate(paths):
        with path.open("rb") as f:
            offset = 0
            for line in f:
                if line.endswith(b"\n"):
                    where.setdefault(only_id.decode(line).id, (index, offset))
                offset += len(line)
    missing = [i for i in expected_ids if i not in where]
    if missing:
        raise DataError(
            ctx.dir, f"{len(missing)} of {len(expected_ids)} items are missing, the first: {missing[:3]}",
            remedy="run the stage again: it does only what is missing",
        )  # fmt: skip
    path = ctx.dir / output
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with ExitStack() as stack:
        parts = [stack.enter_context(part.open("rb")) for part in paths]
        out = stack.enter_context(temporary.open("wb"))
        for item in expected_ids:
            index, offset = where[item]
            if parts[index].tell() != offset:  # in one attempt and one shard the order is the wanted one: no seek
                parts[index].seek(offset)
            out.write(parts[index].readline())
        out.flush()
        os.fsync(out.fileno())
    first = next(_whole_lines(temporary), None)
    if first is not None:
        cls.from_json(json.loads(first), temporary)  # a part of another kind of record is noticed here
    os.replace(temporary, path)
    return len(expected_ids)

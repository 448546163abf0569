"""Files: atomic writes, the JSON and JSONL readers with errors that name file and line, digests."""

import functools
import hashlib
import json
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from nemo_srlm.config.atomic import replacing, write_atomic
from nemo_srlm.config.text_files import text_file
from nemo_srlm.core.records import Record
from nemo_srlm.errors import DataError


def file_digest(path: Path) -> str:
    """SHA-256 of the content, in hex."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


@functools.lru_cache(maxsize=1024)
def _digest(path: str, size: int, modified: int) -> str:
    return file_digest(Path(path))


def content_digest(path: Path) -> str:
    """`file_digest` of a file, computed once per process while size and time stay the same. Raises DataError, also for a folder,
    pipe or device."""
    try:
        found = path.stat()
    except FileNotFoundError as error:
        raise DataError(path, "no such file", remedy="restore it, or correct the setting that names it") from error
    if not stat.S_ISREG(found.st_mode):
        raise DataError(path, "a folder, pipe or device", "a file", "correct the setting that names it")
    return _digest(str(path), found.st_size, found.st_mtime_ns)


R = TypeVar("R", bound=Record)


def dump(record: Record) -> str:
    """The record as one JSON line."""
    return json.dumps(record.to_json(), ensure_ascii=False, separators=(",", ":")) + "\n"


LONGEST_LINE, LONGEST_DOCUMENT = 2**26, 2**28  # characters: a compressed file of megabytes may stand for terabytes
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def parse_json(text: str, where: object, expected: str = "", remedy: str = "", finite: bool = False) -> Any:
    """The value of a JSON text. Raises DataError, also for what json.loads accepts or raises other errors for: numbers of
    thousands of digits, thousands of nested brackets, half of a surrogate pair (it is no character, and no file can hold it).

    `finite`: whether NaN and Infinity, which Python's and pandas' writers produce and JSON does not have, are errors too.
    """
    try:
        value = json.loads(text.removeprefix("\ufeff"), parse_constant=_refuse_constant if finite else None)
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:  # UnicodeEncodeError and JSONDecodeError are ValueErrors
        raise DataError(where, f"not JSON ({error})", expected, remedy) from error
    return value


T = TypeVar("T")


def decoded(data: Any, kind: type[T], where: object, expected: str = "", remedy: str = "") -> T:
    """JSON data as a dataclass or another type that msgspec knows. Raises DataError for another type or a missing field;
    fields that `kind` does not have are not looked at."""
    try:
        return msgspec.convert(data, kind)
    except (msgspec.ValidationError, RecursionError) as error:
        raise DataError(where, str(error), expected or f"a {kind.__name__}", remedy) from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def read_json_lines(path: Path, finite: bool = False) -> Iterator[tuple[int, Any]]:
    """(line number from 1, parsed line) of a .jsonl or .jsonl.gz file. DataError names file:line. `finite`: see parse_json."""
    remedy = "check the path or run the stage that writes it"
    with text_file(path, "a complete UTF-8 .jsonl or .jsonl.gz file", remedy) as file:
        for number, line in enumerate(iter(functools.partial(file.readline, LONGEST_LINE + 1), ""), 1):
            if len(line) > LONGEST_LINE:
                raise DataError(
                    f"{path}:{number}", f"a line of more than {LONGEST_LINE:,} characters", "one record per line"
                )
            if line.strip():
                yield number, parse_json(line, f"{path}:{number}", "one JSON object per line", finite=finite)


def read_typed_lines(path: Path, kind: type[T]) -> Iterator[T]:
    """The lines of a JSONL file as `kind` (see `decoded`), streamed. DataError names file:line."""
    for number, data in read_json_lines(path, finite=True):
        yield decoded(data, kind, f"{path}:{number}")


def read_records(path: Path, cls: type[R]) -> Iterator[R]:
    """Records of a JSONL file, streamed. DataError names file:line."""
    for number, data in read_json_lines(path, finite=True):
        yield cls.from_json(data, f"{path}:{number}")


def write_records(path: Path, records: Iterable[Record]) -> int:
    """Streams records into `path` atomically. Returns their number."""
    count = 0
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as f:
        for record in records:
            f.write(dump(record))
            count += 1
    return count


def write_json(path: Path, data: Any) -> None:
    """Indented, atomically."""
    write_atomic(path, json.dumps(data, indent=1, ensure_ascii=False) + "\n")


def write_json_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """One object per line, for files in another project's format; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_json(path: Path, remedy: str = "", finite: bool = False) -> Any:
    """The content of a .json or .json.gz file. Raises DataError, with `remedy`, when it is absent or is not JSON. `finite`: see
    parse_json."""
    with text_file(path, "a complete UTF-8 .json or .json.gz file", remedy) as file:
        text = file.read(LONGEST_DOCUMENT + 1)
        if len(text) > LONGEST_DOCUMENT:
            raise DataError(
                path, f"more than {LONGEST_DOCUMENT:,} characters", "a JSON document, not a data set", remedy
            )
        return parse_json(text, path, remedy=remedy, finite=finite)

"""Opening a user's text file: whatever is wrong with it is one error that names it."""

import gzip
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from nemo_srlm.errors import DataError

ENCODING = "utf-8-sig"  # UTF-8; without the byte-order mark that Windows' editors and Excel put before the text


def open_text(path: Path) -> IO[str]:
    """For reading; .gz is decompressed. Raises DataError for a pipe or device, which could block for ever."""
    if "\0" in str(path):
        raise DataError(repr(str(path)), "a path with a NUL", "the path of a file")
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # opening a directory raises by itself
        raise DataError(path, "no regular file", "a file", "write the content to a file first")
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding=ENCODING)
    return path.open(encoding=ENCODING)


@contextmanager
def text_file(path: Path, expected: str, remedy: str = "") -> Iterator[IO[str]]:
    """The file, by open_text. What the system, the decompressor or the decoder raises becomes a DataError that names it."""
    try:
        with open_text(path) as file:
            yield file
    except FileNotFoundError as error:
        raise DataError(path, "no such file", remedy=remedy) from error
    except (EOFError, gzip.BadGzipFile, zlib.error, UnicodeDecodeError) as error:
        raise DataError(path, f"unreadable ({error})", expected, remedy) from error
    except OSError as error:
        raise DataError(path, f"cannot be read ({error.strerror or error})", expected, remedy) from error

"""Files that others read: they appear with all of their content, or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nemo_srlm.errors import naming


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields the path of a temporary file, to be written. At the end of the block it is flushed to disk and takes the place
    of `path`; an error leaves `path` as it was and no temporary file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with naming(path):
            yield temporary
            descriptor = os.open(temporary, os.O_RDONLY)
            try:
                os.fsync(descriptor)  # before the renaming: a machine that loses its power would keep an empty file
            finally:
                os.close(descriptor)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomic(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")

"""Every broken JSON or JSONL file is one error with file and line; nothing of another type gets through or hangs."""

import gzip
import os
from pathlib import Path

import pytest

from nemo_srlm.core.files import read_json, read_json_lines, read_records
from nemo_srlm.core.records import Judgement, Prompt
from nemo_srlm.errors import DataError

GOOD = '{"id": "a", "text": "b"}\n'
COMPRESSED = gzip.compress((GOOD * 1000).encode())

LINES = {
    "no JSON": b"{",
    "thousands of digits": b'{"id": "a", "text": ' + b"1" * 5000 + b"}",
    "thousands of brackets": b"[" * 100_000,
    "half a surrogate pair": rb'{"id": "a", "text": "\ud83d"}',
    "a control character": b'{"id": "a", "text": "\0"}',
    "not a number": b'{"id": "a", "text": NaN}',
    "a list": b'["id"]',
    "a number": b"7",
    "null": b"null",
    "another type": b'{"id": "a", "text": 7}',
    "null for a text": b'{"id": null, "text": "b"}',
}
FILES = {
    "UTF-16": GOOD.encode("utf-16"),
    "Latin-1": '{"id": "a", "text": "\u00e9"}'.encode("latin-1"),
}


@pytest.mark.parametrize("name", LINES)
def test_a_broken_line_is_named(tmp_path: Path, name: str):
    path = tmp_path / "x.jsonl"
    path.write_bytes(GOOD.encode() + LINES[name] + b"\n")
    with pytest.raises(DataError, match=r"x\.jsonl:2: "):
        list(read_records(path, Prompt))


@pytest.mark.parametrize("name", FILES)
def test_a_file_in_another_encoding_is_named(tmp_path: Path, name: str):
    path = tmp_path / "x.jsonl"
    path.write_bytes(FILES[name])
    with pytest.raises(DataError, match=r"x\.jsonl: unreadable"):
        list(read_records(path, Prompt))
    with pytest.raises(DataError, match=r"x\.jsonl: unreadable"):
        read_json(path)


@pytest.mark.parametrize(
    "data", [COMPRESSED[:60], COMPRESSED[:30] + b"\xff" * 30 + COMPRESSED[60:], GOOD.encode()],
    ids=["truncated", "corrupt", "not compressed"],
)  # fmt: skip
def test_a_broken_archive_is_named(tmp_path: Path, data: bytes):
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"x\.jsonl\.gz: unreadable"):
        list(read_json_lines(path))


def test_what_is_no_file_is_named(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "file").write_text(GOOD)
    for name in ("pipe", "loop", "absent", "file/below", "x" * 300, "."):
        with pytest.raises(DataError):
            list(read_json_lines(tmp_path / name))
        with pytest.raises(DataError):
            read_json(tmp_path / name)


def test_a_byte_order_mark_and_escaped_pairs_are_no_faults(tmp_path: Path):
    path = tmp_path / "x.jsonl"
    path.write_text("\ufeff" + r'{"id": "a", "text": "\ud83d\ude00"}', encoding="utf-8")
    assert [record.text for record in read_records(path, Prompt)] == ["\U0001f600"]


def test_types_inside_lists_are_checked():
    with pytest.raises(DataError, match=r"x:1: .*scores"):
        Judgement.from_json({"id": "a", "prompt_id": "b", "scores": ["4"], "texts": [], "finish_reasons": []}, "x:1")

"""Parquet files that are cut, damaged or of another kind are one error that names them."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from nemo_srlm.data.preference_pairs import read_pairs
from nemo_srlm.errors import DataError
from tools.bench.inputs.preferences import COLUMNS, PARQUET, table

BROKEN = (
    "empty",
    "text",
    "magic alone",
    "head and tail",
    "JSONL",
    "cut",
    "damaged end",
    "NaN score",
    "numbers for texts",
    "null texts",
)


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_is_named(tmp_path: Path, kind: str):
    make: Callable[[], bytes] = PARQUET[kind]
    path = tmp_path / "x.parquet"
    path.write_bytes(make())
    with pytest.raises(DataError, match=r"x\.parquet"):
        list(read_pairs([path], Counter()))


def test_good_rows_are_pairs(tmp_path: Path):
    path = tmp_path / "x.parquet"
    path.write_bytes(table(COLUMNS))
    found = list(read_pairs([path], Counter()))
    assert [(p.prompt, p.chosen, p.rejected, p.chosen_score) for p in found] == [
        ("q", "good", "bad", 4.0),
        ("p", "well", "ill", 3.0),
    ]

"""Parquet files that are cut, damaged or of another kind are one error that names them."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nemo_srlm.data.preference_pairs import read_pairs
from nemo_srlm.data.prompt_sets import read_prompt_set
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


def odd_columns() -> dict[str, Any]:
    """What no Python value stands for."""
    pa = pytest.importorskip("pyarrow")
    texts = pa.array(["x", "y"])
    struct = pa.StructArray.from_arrays([texts, texts], names=["twice", "twice"])
    return {"struct": struct, "time": pa.array([1, 2], pa.timestamp("s", tz="Mars/Olympus"))}


def written(path: Path, **columns: Any) -> Path:
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pa.table(columns), path)
    return path


def test_columns_that_nothing_uses_are_not_read(tmp_path: Path):
    data = {"prompt": ["q", "p"], "chosen": ["good", "well"], "rejected": ["bad", "ill"]}
    path = written(tmp_path / "x.parquet", **data, **odd_columns())
    assert [p.prompt for p in read_pairs([path], Counter())] == ["q", "p"]
    path = written(tmp_path / "y.parquet", **odd_columns())
    with pytest.raises(DataError, match=r"y\.parquet row 0: no prompt among \['struct', 'time'\]"):
        read_prompt_set(path, Counter())


@pytest.mark.parametrize("kind", ["struct", "time"])
def test_a_column_that_is_used_and_is_no_value_is_an_error_of_the_file(tmp_path: Path, kind: str):
    path = written(tmp_path / "x.parquet", prompt=odd_columns()[kind])
    with pytest.raises(DataError, match=r"x\.parquet: unreadable \("):
        read_prompt_set(path, Counter())


def test_a_column_that_is_there_twice_is_refused(tmp_path: Path):
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "x.parquet"
    table = pa.table([["q"], ["good"], ["bad"], ["worse"]], names=["prompt", "chosen", "rejected", "rejected"])
    parquet.write_table(table, path)
    with pytest.raises(DataError, match=r"x\.parquet: the column rejected twice; expected every column once"):
        list(read_pairs([path], Counter()))

"""The stored reference: whose log-probabilities it holds is checked wherever they are used."""

from pathlib import Path

import numpy as np
import pytest

from nemo_srlm.data.chat import Document
from nemo_srlm.errors import DataError
from nemo_srlm.train.megatron.dpo import spread
from nemo_srlm.train.megatron.reference import Pair, Reference, load


def pair(name: str) -> Pair:
    document = Document(np.array([1, 2], np.int32), np.array([0, 1], np.float32))
    return Pair(name, document, document)


KNOWN = Reference(["a", "b", "c"], np.arange(6.0).reshape(3, 2), "{}")


def test_rows_are_found_by_the_pairs_ids():
    assert KNOWN.of([pair("c"), pair("a")]).tolist() == [[4.0, 5.0], [0.0, 1.0]]
    with pytest.raises(DataError, match=r"reference\.npz: no log-probabilities of 2 pairs, such as x"):
        KNOWN.of([pair("x"), pair("a"), pair("y")])


def test_a_file_of_other_pairs_or_without_a_value_is_refused(tmp_path: Path):
    path = tmp_path / "reference.npz"
    np.savez(path, ids=np.array(KNOWN.ids), logps=KNOWN.logps_R2)  # as 0.1 wrote it
    found = load(path, ["a", "b", "c"])
    assert found is not None
    assert found.rows == ""  # so it is computed again
    with pytest.raises(DataError, match="log-probabilities of 3 other pairs"):
        load(path, ["a", "c", "b"])
    np.savez(path, ids=np.array(KNOWN.ids), logps=np.full((3, 2), np.nan), rows=np.array("{}"))
    with pytest.raises(DataError):
        load(path, ["a", "b", "c"])


def test_the_checked_steps_are_spread_over_the_epoch():
    assert spread(5, 8) == [0, 1, 2, 3, 4]
    assert spread(100, 8) == [0, 14, 28, 42, 56, 70, 84, 99]

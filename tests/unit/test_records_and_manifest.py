"""Ids, JSON encoding and decoding, fingerprints and field diffs."""

import json
from pathlib import Path

import pytest

from nemo_srlm.core import manifest
from nemo_srlm.core.records import Judgement, Prompt, content_id, item_seed
from nemo_srlm.errors import DataError


def test_an_id_depends_on_every_part_and_on_nothing_else():
    assert content_id("prompt", "a") == content_id("prompt", "a")
    assert len({content_id("prompt", "a"), content_id("prompt", "b"), content_id("candidate", "a")}) == 3


def test_seeds_leave_room_for_64_draws_and_fit_31_bits():
    seeds = [item_seed(0, "judge", 1, f"item{i}") for i in range(2000)]
    assert all(s % 64 == 0 and 0 <= s < 2**31 for s in seeds)
    assert len(set(seeds)) == len(seeds)


def test_a_record_survives_json():
    judgement = Judgement("c1", "p1", (3.0, None), ("Score: 3", "?"), ("stop", "length"))
    assert Judgement.from_json(json.loads(json.dumps(judgement.to_json()))) == judgement


@pytest.mark.parametrize("data", [{"id": "x"}, {"id": "x", "text": "t", "colour": 1}])
def test_missing_and_unknown_fields_are_refused_with_the_place(data: dict[str, object]):
    with pytest.raises(DataError, match=r"prompts\.jsonl:3"):
        Prompt.from_json(data, "prompts.jsonl:3")


def test_a_field_diff_names_the_path_and_both_values():
    old = {"judge": {"temperature": 0.7, "draws": 3}, "inputs": {"a": "1"}}
    new = {"judge": {"temperature": 1.0, "draws": 3}, "inputs": {"a": "1", "b": "2"}}
    assert manifest.field_diff(old, new) == ['inputs.b: (absent) -> "2"', "judge.temperature: 0.7 -> 1.0"]


def test_a_fingerprint_does_not_depend_on_key_order_and_refuses_nan():
    assert manifest.fingerprint({"a": 1, "b": 2}) == manifest.fingerprint({"b": 2, "a": 1})
    with pytest.raises(ValueError):
        manifest.fingerprint({"a": float("nan")})


def test_a_manifest_cut_short_is_an_error_that_says_what_to_remove(tmp_path: Path):
    (tmp_path / manifest.NAME).write_text('{"stage": ')
    with pytest.raises(DataError, match="remove"):
        manifest.read(tmp_path)


@pytest.mark.parametrize("change", [{"metrics": {}}, {"fingerprint": "x"}, {"more": 1}, {"iteration": "1"}])
def test_a_manifest_that_was_changed_is_refused_and_one_without_digest_is_read(
    tmp_path: Path, change: dict[str, object]
):
    made = manifest.Manifest("judge", 1, "f", {"stage": "judge"}, {"pairs": 3}, {"started": 0.5})
    manifest.write(tmp_path, made)
    read = manifest.read(tmp_path)
    assert read is not None
    assert (read.metrics, len(read.digest)) == (made.metrics, 64)
    data = json.loads((tmp_path / manifest.NAME).read_text())
    (tmp_path / manifest.NAME).write_text(json.dumps({**data, "digest": ""}))  # of an earlier version
    assert manifest.read(tmp_path) == made
    (tmp_path / manifest.NAME).write_text(json.dumps(data | change))
    with pytest.raises(DataError, match=r"manifest\.json: "):
        manifest.read(tmp_path)

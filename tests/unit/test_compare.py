"""Runs beside each other: what is compared, what is refused with a reason, and the mean over seeds."""

import json
from pathlib import Path

import pytest

from nemo_srlm.config.compose import load_resolved_config, save_resolved_config
from nemo_srlm.core.records import Candidate
from nemo_srlm.data.words import count_words
from nemo_srlm.report import compare, comparisons, units
from nemo_srlm.report.run_files import RunFiles
from nemo_srlm.report.text import markdown
from nemo_srlm.report.write import read_runs
from tests.synthetic_run import build


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


def with_setting(run: Path, **changes) -> Path:
    cfg = load_resolved_config(run)
    for name, value in changes.items():
        section, field = name.split("_", 1)
        setattr(getattr(cfg, section), field, value)
    save_resolved_config(cfg, run)
    return run


def test_two_models_are_compared_on_the_same_prompts_and_the_interval_is_that_of_the_pairs(root: Path):
    files = RunFiles(build(root, "paired"))
    found = units.changes(units.read(files))
    last = next(c for c in found["oracle"] if (c["first"], c["last"]) == ("M1", "M3"))
    assert last["value"] == pytest.approx(3.75 - 185 / 60)
    assert (last["num"], last["left_out"], last["verdict"]) == (60, 0, "up")
    assert last["low"] < last["value"] < last["high"]
    assert {c["last"] for c in found["pairwise_accuracy"]} == {"M1", "M2", "M3"}


def test_words_are_counted_as_everywhere_in_scripts_without_blanks_too(root: Path, tmp_path: Path):
    text, responses = "これは日本語の文です。", tmp_path / "responses.jsonl"
    responses.write_text(json.dumps(Candidate("c", "p", 0, text, "stop", 9).to_json()) + "\n", encoding="utf-8")
    found = units._of_model(
        lambda stage, _: responses if stage == "eval_responses" else None, [], RunFiles(build(root, "ja"))
    )
    assert dict(found)["words"] == {"p": (count_words(text), 1)}


def test_a_comparison_whose_records_are_gone_keeps_what_its_manifest_says(root: Path):
    run = build(root, "gone")
    kept = read_runs([run])[0]["head_to_head"]
    (run / "iter1/eval_h2h/comparisons.jsonl").unlink()
    found = read_runs([run])[0]["head_to_head"]
    assert [(row["model"], row["other"], row["win"], row["judged"]) for row in found] == [
        (row["model"], row["other"], row["win"], row["judged"]) for row in kept
    ]


def test_runs_of_another_split_or_held_out_set_are_not_compared_and_the_reader_is_told(root: Path):
    own, other = build(root, "own"), with_setting(build(root, "other", "random"), world_split="test")
    data = read_runs([own, other])
    between = data[0]["between"][0]
    assert between["unlike"] == ['held_out.split: "dev" -> "test"']
    assert between["figures"] == {}
    text = markdown(data)
    assert "No control arm stands beside own:" in text  # one that is not comparable is none
    assert "other was measured otherwise and is not compared: held_out.split" in text
    assert "Oracle score from M1 to M3" not in text
    path = other / "iter0/held_out/manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest["outputs"]["eval_prompts.jsonl"]["sha256"] = "0" * 64
    del manifest["digest"]  # as old manifests have none
    path.write_text(json.dumps(manifest), encoding="utf-8")
    assert len(read_runs([own, with_setting(other, world_split="dev")])[0]["between"][0]["unlike"]) == 1


def test_other_settings_that_differ_are_named_and_do_not_hinder(root: Path):
    data = read_runs([build(root, "a"), with_setting(build(root, "b", "random"), dpo_beta=0.3)])
    between = data[0]["between"][0]
    assert between["differ"] == ["dpo.beta: 0.1 -> 0.3"]
    assert [row["model"] for row in between["figures"]["oracle"]] == ["M1", "M2", "M3"]
    assert "b also differs in: dpo.beta" in markdown(data)


def test_an_unfinished_run_and_a_second_one_of_a_seed_are_left_out_and_named(root: Path):
    runs = [build(root, f"one{seed}", seed=seed) for seed in range(2)]
    again, short = build(root, "again", seed=1), build(root, "short", seed=2)
    for stage in ("eval_oracle", "eval_responses", "eval_reward"):
        (short / f"iter2/{stage}/manifest.json").unlink()
    data = read_runs([*runs, again, short])
    row = next(r for r in data[0]["over_seeds"] if r["figure"] == "oracle")
    assert (row["first"], row["last"], [seed for seed, _ in row["points"]]) == ("M1", "M3", [0, 1])
    assert row["left_out"] == ["again", "short"]
    assert "(without again, short)" in markdown(data)


def test_seeds_give_a_mean_an_interval_and_their_points(root: Path):
    runs = [build(root, f"self{seed}", seed=seed) for seed in range(3)]
    runs += [build(root, f"control{seed}", "random", seed=seed) for seed in range(2)]
    data = read_runs(runs)
    rows = {(row["figure"], row["arm"]): row for row in data[0]["over_seeds"]}
    own = rows["oracle", "self"]
    assert [seed for seed, _ in own["points"]] == [0, 1, 2]
    assert (own["first"], own["last"], own["num"]) == ("M1", "M3", 3)
    assert own["value"] == pytest.approx(3.75 - 185 / 60)
    gap = rows["oracle", "self - random"]
    assert [seed for seed, _ in gap["points"]] == [0, 1]
    assert (gap["low"], gap["high"]) == (None, None)  # two seeds are too few for an interval
    words = rows["words", "self"]
    assert words["low"] < words["value"] < words["high"]
    text = markdown(data)
    assert "### Over seeds" in text
    assert "self-rewarding minus random scores (control)" in text


def test_a_run_of_another_setting_is_no_repetition(root: Path):
    one, two = build(root, "c"), build(root, "d", seed=1)
    assert read_runs([one, with_setting(two, dpo_beta=0.3)])[0]["over_seeds"] == []
    assert read_runs([one, with_setting(two, dpo_beta=0.1, world_seed=1, world_num_ift=900)])[0]["over_seeds"] == []


def in_world(run: Path, seed: int) -> Path:
    """The run as if it had been made in another tiny world, whose held-out prompts are others."""
    path = run / "iter0/held_out/manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest["outputs"]["eval_prompts.jsonl"]["sha256"] = f"{seed:064d}"
    del manifest["digest"]  # as old manifests have none
    path.write_text(json.dumps(manifest), encoding="utf-8")
    return with_setting(run, world_seed=seed)


def test_runs_that_differ_in_their_seeds_alone_are_seeds_and_those_without_a_control_are_named(root: Path):
    runs = [in_world(build(root, f"world{seed}", seed=seed, iterations=1), seed) for seed in range(3)]
    runs.append(in_world(build(root, "permuted1", "random", seed=1, iterations=1), 1))
    data = read_runs(runs)
    rows = {(row["figure"], row["arm"]): row for row in data[0]["over_seeds"]}
    assert [seed for seed, _ in rows["oracle", "self"]["points"]] == [0, 1, 2]
    assert rows["words", "self"]["low"] < rows["words", "self"]["value"] < rows["words", "self"]["high"]
    text = markdown(data)
    assert "each has its own tiny world: web text, seed data and held-out prompts." in text
    assert "the seed data, the held-out prompts" not in text
    assert "world1, world2: in another tiny world" in text
    assert "was measured otherwise" not in text
    assert "mean over seeds: self-rewarding +0.5" in text
    paired = data[0]["between"][-1]  # a control with the run of its own seed
    assert (paired["base"], paired["unlike"]) == ("world1", [])
    assert "| world1 M2, minus permuted1 random scores (control), seed 1 " in text
    assert comparisons.notices(data)[0].startswith("No control arm stands beside world0, world2: they cannot tell")
    alone = [{**data[-1], "between": []}]
    assert comparisons.notices(alone) == []  # a control needs none
    alone[0]["arm"] = "external"
    assert comparisons.notices(alone)[0].endswith("from the preferences.")
    again = [data[0], {**data[1], "seed": 0}]  # one seed in two worlds is no second run of it
    assert [name for name, _ in compare.over_seeds(again)[0]["points"]] == ["0/0", "0/1"]


def test_the_margins_of_equality_are_stated(root: Path):
    note = comparisons.models(read_runs([build(root, "margins")]))[0]["note"]
    assert "pairwise accuracy as a judge 2.0 pts" in note
    assert "No verdict below 20 units" in note

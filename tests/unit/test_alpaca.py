"""AlpacaEval 2: formats, win rates against hand calculation and the public leaderboard, the length-controlled regression."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize

from nemo_srlm.cli import main
from nemo_srlm.core.records import Candidate, Prompt
from nemo_srlm.errors import DataError
from nemo_srlm.evaluate import alpaca_folds, alpaca_rows
from nemo_srlm.evaluate.alpaca import (
    Annotation,
    Calibration,
    fit,
    instruction_key,
    leaderboard_row,
    length_controlled,
    win_rate,
)
from nemo_srlm.evaluate.alpaca_files import preference, read_annotations, read_calibration, write_outputs
from nemo_srlm.report.text import markdown
from nemo_srlm.report.tracking import evaluations
from nemo_srlm.report.write import read_runs
from tests.synthetic_run import build

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
HUMPBACK = SHARED / "alpaca_eval2_annotations_humpback-llama2-70b.json.gz"
# Written by tools/alpaca_calibration.py from the package's published annotations, without those of Humpback Llama 2 70B.
# Not in the repository: those annotations are CC BY-NC.
CALIBRATION = Path(__file__).resolve().parents[1] / "data" / "alpaca_eval2_calibration.json"
needs_shared = pytest.mark.skipif(not HUMPBACK.exists(), reason="the public annotations of ../shared/data are not here")


def annotated(value: float | None, ours: str = "model", theirs: str = "base", instruction: str = "") -> Annotation:
    return Annotation(value, theirs, ours, "m", instruction)


def leaderboard(name: str) -> dict[str, str]:
    with (SHARED / "alpaca_eval2_leaderboard.csv").open(encoding="utf-8") as f:
        return next(row for row in csv.DictReader(f) if row[""] == name)


@needs_shared
def test_the_leaderboards_row_of_humpback_comes_out_to_a_hundredth():
    row, ours = leaderboard("humpback-llama2-70b"), win_rate(read_annotations(HUMPBACK))
    for name in ("win_rate", "standard_error", "discrete_win_rate"):
        assert ours[name] == pytest.approx(float(row[name]), abs=1e-9)
    for name in ("n_wins", "n_wins_base", "n_draws", "n_total", "avg_length"):
        assert ours[name] == int(row[name])
    assert round(ours["win_rate"], 2) == 10.12


@needs_shared
@pytest.mark.skipif(
    not CALIBRATION.exists(), reason="no calibration: make it with tools/alpaca_calibration.py (CC BY-NC data)"
)
def test_humpbacks_length_controlled_win_rate_comes_out_to_a_hundredth():
    ours = leaderboard_row(read_annotations(HUMPBACK), read_calibration(CALIBRATION, HUMPBACK))
    row = leaderboard("humpback-llama2-70b")
    assert ours["length_controlled_winrate"] == pytest.approx(float(row["length_controlled_winrate"]), abs=0.01)
    assert ours["generator"] == "humpback-llama2-70b"


def test_preferences_are_read_as_the_package_codes_them():
    assert [preference(v, "x") for v in (1, 2, 1.5, 0, 1.25, None)] == [0.0, 1.0, 0.5, 0.5, 0.25, None]
    for wrong in (3, 0.5, "2", True):
        with pytest.raises(DataError, match="preference"):
            preference(wrong, "x")


def test_win_rates_by_hand():
    out = win_rate([annotated(v) for v in (1.0, 0.0, 0.5, 0.9, None)])
    assert out["win_rate"] == pytest.approx(60.0)
    assert out["discrete_win_rate"] == pytest.approx(62.5)
    assert (out["n_wins"], out["n_wins_base"], out["n_draws"], out["n_total"], out["n_missing"]) == (2, 1, 1, 4, 1)
    assert out["standard_error"] == pytest.approx(100 * np.std([1, 0, 0.5, 0.9], ddof=1) / 2)
    for few, said in (
        ([None], "0 with a preference of 1"),
        ([1.0, None], "1 with a preference of 2"),
    ):  # no standard error
        with pytest.raises(DataError, match=said):
            win_rate([annotated(v) for v in few])


def problem(seed: int, num: int = 300):
    generator = np.random.default_rng(seed)
    x = np.stack([np.tanh(generator.normal(size=num)), generator.normal(size=num), np.ones(num)], axis=1)
    gamed = np.stack([np.tanh(generator.normal(size=num)), generator.normal(size=num)], axis=1)
    y = 1 / (1 + np.exp(-(x @ [-1.5, 0.8, -1.0] + generator.normal(size=num))))
    labels = 1 / (1 + np.exp(-(gamed @ [-1.2, 0.9])))
    return x, y, gamed, labels


@pytest.mark.parametrize("penalty", [0.5, 3.0, 1e4])
def test_the_fit_is_the_minimum_that_scipy_finds(penalty: float):
    x, y, gamed, labels = problem(0)

    def loss(w):
        own, other = x @ w, gamed @ w[:2]
        value = (np.logaddexp(0, own) - y * own).sum() + 0.1 * (np.logaddexp(0, other) - labels * other).sum()
        return value + np.abs(w).sum() / penalty

    ours = fit(x, y, gamed, gamed.T @ labels, penalty)
    theirs = minimize(
        loss, [-1.0, 0.5, -0.5], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12, "maxiter": 5000}
    )
    assert ours == pytest.approx(theirs.x, abs=1e-5)
    assert loss(ours) <= theirs.fun + 1e-9


def test_a_strong_penalty_sets_every_coefficient_to_zero():
    x, y, gamed, labels = problem(1)
    assert list(fit(x, y, gamed, gamed.T @ labels, 1e-4)) == [0.0, 0.0, 0.0]


def test_folds_are_dealt_as_scikit_learns_groupkfold_does_on_a_machine_without_vector_sorting():
    # np.argsort(np.full(n, 2)) of numpy 2.3.5 with NPY_DISABLE_CPU_FEATURES="AVX2 AVX512F AVX512_SKX ..."
    assert alpaca_folds.quicksort_of_equals(16).tolist() == list(range(16))
    assert alpaca_folds.quicksort_of_equals(17).tolist() == [0, 14, 13, 12, 11, 10, 9, 15, 8, 6, 5, 4, 3, 2, 1, 7, 16]
    assert alpaca_folds.quicksort_of_equals(40).tolist() == [
        0, 22, 23, 24, 25, 26, 27, 28, 21, 29, 31, 32, 33, 34, 35, 36, 37, 30, 20, 19, 18, *range(1, 18), 38, 39,
    ]  # fmt: skip
    found = alpaca_folds.shuffled(2415, 5)
    assert np.bincount(found).tolist() == [483] * 5
    assert found[:20].tolist() == [4, 4, 3, 2, 1, 0, 4, 3, 2, 1, 0, 4, 3, 2, 1, 0, 0, 4, 1, 3]
    assert alpaca_folds.in_order(7, 5).tolist() == [0, 1, 2, 3, 4, 0, 1]


def test_length_control_takes_the_advantage_of_length_away():
    """A judge that prefers the longer response: the longer model wins most, and about half after length control."""
    generator = np.random.default_rng(2)
    difficulty, rows = generator.normal(size=400), []
    for k in range(400):
        longer = int(generator.integers(-100, 400))
        share = 1 / (1 + np.exp(-longer / 60))
        rows.append(annotated(float(share), "x" * (500 + longer), "y" * 500, f"instruction {k}"))
    gamed = np.stack([np.tanh(generator.normal(size=400)), difficulty], axis=1)
    labels = 1 / (1 + np.exp(1.6 * gamed[:, 0]))
    keys = tuple(instruction_key(f"instruction {k}") for k in range(400))
    calibration = Calibration(difficulty, gamed, gamed.T @ labels, labels, keys)
    raw, controlled = win_rate(rows)["win_rate"], length_controlled(rows, calibration)["length_controlled_winrate"]
    assert raw > 75
    assert abs(controlled - 50) < 12
    assert controlled < raw - 15
    shuffled = [rows[i] for i in generator.permutation(400)]
    assert length_controlled(shuffled, calibration) == length_controlled(rows, calibration)
    for wrong, found in (
        (rows[:-1], "1 of the 400 instructions are missing"), ([*rows, rows[0]], "twice: 'instruction 0'"),
        ([*rows[:-1], annotated(1.0, instruction="new")], "1 instructions that are not in the evaluation set"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=found):
            length_controlled(wrong, calibration)


def test_df_gamed_as_published_and_its_summary_give_the_same_calibration(tmp_path: Path):
    path = tmp_path / "df_gamed.csv"
    lines = ["model,index,preference,std_delta_len,instruction_difficulty,not_gamed_baseline"]
    lines += [f"{m},{i},{0.2 + 0.1 * i},{0.5 - i},{i * 0.3},False" for m in ("verbose", "concise") for i in range(4)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    calibration = read_calibration(path)
    assert list(calibration.difficulty) == pytest.approx([0.0, 0.3, 0.6, 0.9])
    assert calibration.gamed.shape == (8, 2)
    assert calibration.gamed[1, 0] == pytest.approx(np.tanh(-0.5))
    assert calibration.sums == pytest.approx(calibration.gamed.T @ calibration.labels)


@pytest.mark.parametrize(
    "text", ["{}", "[]", '{"difficulty": [1], "gamed_length_deltas": "x", "gamed_weights": [], "sums": []}']
)
def test_what_is_no_calibration_is_refused(tmp_path: Path, text: str):
    path = tmp_path / "calibration.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match="calibration"):
        read_calibration(path)


def test_a_calibration_that_does_not_say_its_instructions_needs_the_evaluation_set(tmp_path: Path):
    path, texts = tmp_path / "df_gamed.csv", ["first", "second"]
    lines = ["model,index,preference,std_delta_len,instruction_difficulty"]
    lines += [f"{m},{i},0.{i + 1},{0.5 - i},{i * 0.3}" for m in ("verbose", "concise") for i in range(2)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    rows = [annotated(1.0, instruction=text) for text in texts]
    with pytest.raises(DataError, match="does not say which instructions"):
        length_controlled(rows, read_calibration(path))
    order = tmp_path / "set.json"
    order.write_text(json.dumps([{"instruction": text} for text in texts]), encoding="utf-8")
    assert length_controlled(rows, read_calibration(path, order))["penalty"] > 0
    order.write_text(json.dumps([{"instruction": "first"}]), encoding="utf-8")
    with pytest.raises(DataError, match="1 instructions; expected the 2"):
        read_calibration(path, order)


def test_outputs_are_written_as_the_package_reads_them(tmp_path: Path):
    prompts = [Prompt("p1", "Say hello.", "eval"), Prompt("p2", "Grüße?", "eval")]
    responses = [
        Candidate("c2", "p2", 0, "ja", "stop", 1), Candidate("c1", "p1", 0, "hello", "stop", 1),
        Candidate("c3", "p1", 1, "second sample", "stop", 2),
    ]  # fmt: skip
    assert write_outputs(tmp_path / "model_outputs.json", prompts, responses, "M2") == 2
    rows = json.loads((tmp_path / "model_outputs.json").read_text(encoding="utf-8"))
    assert rows == [
        {"instruction": "Say hello.", "output": "hello", "generator": "M2"},
        {"instruction": "Grüße?", "output": "ja", "generator": "M2"},
    ]
    with pytest.raises(DataError, match="no response"):
        write_outputs(tmp_path / "x.json", prompts, responses[:1], "M2")


def test_broken_annotation_files_are_refused_with_their_place(tmp_path: Path):
    good = {"instruction": "q", "preference": 1.0, "output_1": "a", "output_2": "b", "generator_2": "m"}
    for content, found in (
        ("[]", "no list"), ("{", "not JSON"), (json.dumps([good, {"instruction": "q"}]), r"\[1\]"),
        (json.dumps([good, {**good, "generator_2": "n"}]), "several models"),
        (json.dumps([{**good, "preference": 9}]), r"preference 9"),
    ):  # fmt: skip
        path = tmp_path / "annotations.json"
        path.write_text(content, encoding="utf-8")
        with pytest.raises(DataError, match=found):
            read_annotations(path)
    with pytest.raises(DataError, match="no such file"):
        read_annotations(tmp_path / "absent.json")


@needs_shared
def test_the_verb_prints_the_row_and_notes_it_for_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = build(tmp_path, "noted", until=-1)
    command = ["alpaca", str(HUMPBACK), "--run", str(run), "--model", "M2"]
    assert main(command) == 2
    assert "M2 has written no responses to AlpacaEval" in capsys.readouterr().err
    outputs = run / "iter1/eval_alpaca/model_outputs.json"
    outputs.parent.mkdir(parents=True)
    for generator, code in (("noted_M2", 2), ("humpback-llama2-70b", 0)):
        outputs.write_text(json.dumps([{"instruction": "q", "output": "a", "generator": generator}]), encoding="utf-8")
        assert main([*command, "--json"]) == code
        said = capsys.readouterr()
    row = json.loads(said.out)
    assert (round(row["win_rate"], 2), row["n_total"]) == (10.12, 805)
    stored = alpaca_rows.saved_rows(run)["M2"]
    assert len(stored.pop("preferences")) == 805
    assert stored == row
    path = run / alpaca_rows.FOLDER / "alpaca_M2.json"
    for wrong in ('{"win_rate": NaN}', '{"win_rate": 1}', "[]"):
        path.write_text(wrong, encoding="utf-8")
        with pytest.raises(DataError, match=r"alpaca_M2\.json: not "):
            alpaca_rows.saved_rows(run)
    assert main(["alpaca", str(HUMPBACK)]) == 0
    assert re.search(r"win rate +10\.12 ± 0\.94", capsys.readouterr().out)
    assert main(["alpaca", str(HUMPBACK), "--run", str(run), "--model", "gpt"]) == 2
    assert "--model: 'gpt'; expected baseline, M1, M2" in capsys.readouterr().err


def annotations(path: Path, number: int, share: float = 0.25) -> Path:
    rows = [
        {"instruction": f"i{k}", "output_1": "a", "output_2": "bb", "generator_1": "base", "generator_2": "m",
         "preference": 1.0 + (k < share * number)} for k in range(number)
    ]  # fmt: skip
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def test_rates_of_a_part_of_the_set_say_so_and_are_none_of_the_leaderboards(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    part = annotations(tmp_path / "part.json", 400)
    assert main(["alpaca", str(part)]) == 0
    said = capsys.readouterr().out
    assert "m: 400 of 805 instructions" in said
    assert "a part of the evaluation set: these rates are of this part, and are none of the leaderboard’s" in said
    assert re.search(r"length-controlled win rate +\(needs the annotations of all instructions", said)
    whole = annotations(tmp_path / "whole.json", 805)
    assert main(["alpaca", str(whole)]) == 0
    assert "part" not in capsys.readouterr().out
    calibration = tmp_path / "calibration.json"
    lengths = [float(k % 7) for k in range(805)]
    own = {
        "difficulty": [0.1] * 805,
        "gamed_length_deltas": [lengths],
        "gamed_weights": [[0.1, 0.2, 0.3]],
        "sums": [0.1, 0.1],
    }
    calibration.write_text(
        json.dumps(own | {"instructions": [instruction_key(f"i{k}") for k in range(805)]}), encoding="utf-8"
    )
    assert main(["alpaca", str(part), "--calibration", str(calibration)]) == 2
    assert "405 of the 805 instructions are missing" in capsys.readouterr().err


def test_a_set_of_ones_own_is_whole_where_it_is_named_and_other_annotations_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    part, other, more = (annotations(tmp_path / f"{n}.json", n) for n in (400, 500, 806))
    assert main(["alpaca", str(part), "--instructions", str(part)]) == 0
    assert "m: 400 instructions" in capsys.readouterr().out
    assert main(["alpaca", str(other), "--instructions", str(part)]) == 2
    assert "100 instructions that are not in the evaluation set" in capsys.readouterr().err
    assert main(["alpaca", str(more)]) == 2
    assert "806 instructions; expected the 805" in capsys.readouterr().err
    rows = json.loads(part.read_text(encoding="utf-8"))
    part.write_text(json.dumps([*rows, rows[0]]), encoding="utf-8")
    assert main(["alpaca", str(part)]) == 2
    assert "twice: 'i0'" in capsys.readouterr().err


def test_the_report_says_of_how_many_instructions_a_rate_is_and_pairs_two_models(tmp_path: Path):
    run = build(tmp_path, "rated")
    for model, share in (("M1", 0.25), ("M2", 0.5)):
        file = annotations(tmp_path / f"{model}.json", 400, share)
        alpaca_rows.save_row(run, model, alpaca_rows.row_of(file, None, file))  # their own set is all of it
    data = read_runs([run])
    change = next(c for c in data[0]["changes"]["alpaca_win_rate"] if c["first"] == "M1")
    assert (change["value"], change["num"], change["verdict"]) == (pytest.approx(0.25), 400, "up")
    for model in ("M1", "M2"):
        alpaca_rows.save_row(run, model, alpaca_rows.row_of(tmp_path / f"{model}.json", None))
    data = read_runs([run])
    assert "alpaca_win_rate" not in data[0]["changes"]
    assert re.sub(" +", " ", markdown(data)).count("| 400 of 805 |") == 2
    assert "evaluation/alpaca_of_a_part/win_rate" in evaluations(data[0])[1]
    assert "preferences" not in data[0]["models"][1]["alpaca"]["row"]

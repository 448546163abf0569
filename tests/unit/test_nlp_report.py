"""NLP benchmarks in the report: intervals, and each model's difference from M0."""

import json
from pathlib import Path

import pytest

from nemo_srlm.core import manifest
from nemo_srlm.report import nlp
from nemo_srlm.report.benchmarks import plain
from nemo_srlm.report.run_files import RunFiles
from nemo_srlm.report.write import read_runs
from tests.synthetic_run import build


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return build(tmp_path, "real", world=False)


def test_without_questions_the_difference_from_m0_is_of_two_independent_samples(run: Path):
    rows = [r for r in nlp.read_tax(RunFiles(run)) if r["task"] == "mmlu"]
    assert [r["model"] for r in rows] == ["baseline", "M1", "M2", "M3"]
    assert not any(r["paired"] for r in rows)
    half = 1.959963984540054 * 2**0.5 * 0.012
    assert rows[1]["high"] - rows[1]["value"] == pytest.approx(half)


def test_with_questions_it_is_paired_and_equality_needs_the_margin(run: Path):
    for directory, right in (("iter0/eval_harness_base", range(400)), ("iter0/eval_harness", range(1, 401))):
        lines = [{"task": "mmlu", "question": f"q{k}", "value": float(k in right)} for k in range(500)]
        path = run / directory / nlp.QUESTIONS
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        assert manifest.read(path.parent) is not None
    row = next(r for r in nlp.read_tax(RunFiles(run)) if (r["task"], r["model"]) == ("mmlu", "M1"))
    assert row["paired"]
    assert (row["value"], row["num"], row["verdict"]) == (0.0, 500, "same")
    assert row["high"] < 0.01  # two answers of 500 differ: two independent samples would say 0.05


def test_the_tables_show_intervals_the_tax_of_each_task_and_its_mean(run: Path):
    results, tax = nlp.tables(read_runs([run]))
    header, rows = plain(results)
    assert header[:3] == ["task", "M0", "baseline"]
    assert all("[" in text for text in rows[0][2:])
    header, rows = plain(tax)
    assert header == ["task", "baseline", "M1", "M2", "M3"]
    assert [row[0] for row in rows] == ["mmlu", "gsm8k", "mean of the tasks"]
    assert "independent" in rows[0][1]


def test_a_metric_that_is_no_share_is_shown_as_it_is_and_has_no_tax(run: Path):
    for directory in ("iter0/eval_harness_base", "iter0/eval_harness"):
        path = run / directory / "manifest.json"
        made = json.loads(path.read_text(encoding="utf-8"))
        made["metrics"]["tasks"]["wikitext"] = {
            "metric": "word_perplexity,none", "value": 20.5, "se": 0.4, "samples": None, "shots": None,
        }  # fmt: skip
        made["metrics"]["tasks"]["mmlu"]["samples"] = None  # nobody says of how many: a normal interval
        made.pop("digest", None)
        path.write_text(json.dumps(made), encoding="utf-8")
    results, tax = nlp.tables(read_runs([run]))
    rows = {row[0].split()[0]: row for row in plain(results)[1]}
    assert any("20.50" in text and "0.40" in text for text in rows["wikitext"][1:])
    assert all("[0.0, 100.0]" not in text for text in rows["mmlu"])
    assert "wikitext" not in {row[0] for row in plain(tax)[1]}

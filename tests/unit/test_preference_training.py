"""What the report says of a DPO training: how far the responses' log-probabilities moved, and KL with its interval."""

from pathlib import Path

import pytest

from nemo_srlm.core.files import write_records
from nemo_srlm.evaluate import drift, statistics
from nemo_srlm.evaluate.response_scores import TokenScore, oracle_levels, scored, token_scores
from nemo_srlm.report import benchmarks, nlp, preference_training, units
from nemo_srlm.report.benchmarks import plain
from nemo_srlm.report.write import read_runs
from tests.synthetic_run import build


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


def test_a_training_that_makes_chosen_responses_less_likely_is_called_displaced(root: Path):
    run = read_runs([build(root)])[0]
    header, rows = plain(preference_training.tables([run])[0])
    row = dict(zip(header, rows[0], strict=True))
    assert row["model"] == "M2"
    assert row["chosen, moved"] == "−0.50 displaced"  # -0.05 over beta 0.1
    assert row["rejected, moved"] == "−18.00"
    assert row["chosen, nats"] == "−12.50 first step −12.00"
    run["models"][2]["reference"] = False  # a loss without a reference: rewards are no distance from one
    assert plain(preference_training.tables([run])[0])[1][0][2:4] == ["–", "–"]


def test_a_control_without_preference_training_has_no_such_table(root: Path):
    assert preference_training.tables(read_runs([build(root, "positives", "sft_only")])) == []


def test_kl_has_an_interval_clustered_by_prompt_and_is_never_compared(tmp_path: Path):
    scores = []
    for k in range(30):
        for sample in range(2):
            for model, logp in (("own", -10.0 + 0.1 * k), ("previous", -12.0 - 0.1 * k)):
                scores.append(TokenScore(f"{k}-{sample}-{model}", f"{k}-{sample}", f"p{k}", model, logp, 20))
    scores.append(TokenScore("x", "30-0", "p30", "own", -1.0, 20))
    scores.append(TokenScore("y", "30-0", "p30", "previous", 0.0, 0, "too long"))
    write_records(tmp_path / "scored.jsonl", scores)
    pairs = scored(token_scores(tmp_path / "scored.jsonl"))
    assert len(pairs) == 60
    found = drift.log_ratio([(a.prompt_id, a.logp - b.logp, a.num_tokens) for a, b in pairs])
    measured = {"M2": {f"p{k}": (2 * (2.0 + 0.2 * k), 40.0) for k in range(30)}}
    estimate = units.estimates({"kl": measured})["kl"]["M2"]
    assert estimate["value"] == pytest.approx(found["kl"])
    half = statistics.t_quantile(29) * found["se_kl"]
    assert (estimate["low"], estimate["high"]) == pytest.approx((found["kl"] - half, found["kl"] + half))
    assert units.changes({"kl": {**measured, "M3": measured["M2"]}}) == {}


def test_figures_that_are_known_by_their_standard_error_alone_get_an_interval_that_cannot_collapse():
    exact = statistics.bounded(1.0, 0.0, 805)
    assert exact.low is not None
    assert 0.99 < exact.low < exact.value == exact.high
    normal = statistics.bounded(0.5, 0.0176, 805)
    assert (normal.low, normal.high) == pytest.approx((0.5 - 1.963 * 0.0176, 0.5 + 1.963 * 0.0176), abs=2e-4)


def test_tables_of_benchmarks_state_intervals_and_no_standard_errors(root: Path):
    run = read_runs([build(root, "real", world=False)])[0]
    tables = {t["title"]: t for t in [*benchmarks.tables([run]), *nlp.tables([run])]}
    for title in ("AlpacaEval 2", "MT-Bench", "NLP benchmarks", "KL to the previous policy"):
        errors = [c["error"] for row in tables[title]["rows"] for c in row if c["error"]]
        assert any(e.startswith("[") for e in errors), title
        assert not any("±" in e for e in errors), title


def test_a_broken_line_of_the_oracles_scores_is_named(tmp_path: Path):
    from nemo_srlm.errors import DataError

    path = tmp_path / "scores.jsonl"
    path.write_text('{"id": "a", "prompt_id": "p", "level": 4, "correctness": 1.0}\n{"id": "b"}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"scores\.jsonl:2"):
        list(oracle_levels(path))

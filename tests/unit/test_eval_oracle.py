"""eval_oracle: metrics of a model's responses, clustered errors, and the upper-bound arm's scores."""

from pathlib import Path

import pytest

from nemo_srlm.config.schema import Config
from nemo_srlm.core.files import read_records, write_records
from nemo_srlm.core.progress import Progress
from nemo_srlm.core.records import Candidate, Prompt, content_id
from nemo_srlm.core.stage import Context
from nemo_srlm.errors import DataError
from nemo_srlm.stages import eval_oracle, oracle_scores
from nemo_srlm.tiny_world import oracle_metrics

PROMPTS = ["Name two fruits and one tools.", "Of fox, bear, who has the color brown?"]
GOOD = ["Here are two fruits and one tools: apple, banana, axe.", "The animal with the color brown is the bear."]


def prompt_id(text: str) -> str:
    return content_id("prompt", text)


def answered(directory: Path, texts: list[tuple[str, str]], name: str = "responses.jsonl") -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    write_records(
        directory / name,
        [Candidate(content_id("c", i), prompt_id(p), i, t, "stop", 5) for i, (p, t) in enumerate(texts)],
    )
    return directory / name


def prompts_file(directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    write_records(directory / "eval_prompts.jsonl", [Prompt(prompt_id(p), p, "eval") for p in PROMPTS])
    return directory / "eval_prompts.jsonl"


def test_figures_keep_correctness_apart_from_the_mean_score(tmp_path: Path) -> None:
    texts = [(PROMPTS[0], GOOD[0]), (PROMPTS[0], "apple, banana, saw."), (PROMPTS[1], "bear."), (PROMPTS[1], "bear.")]
    found = oracle_metrics.metrics(oracle_metrics.score_responses(answered(tmp_path, texts), prompts_file(tmp_path)))
    assert found["mean"] == pytest.approx((5 + 2 + 3 + 3) / 4)
    assert found["full"] == pytest.approx(0.25)
    assert found["all_correct"] == pytest.approx(0.75)
    assert found["correct"] == pytest.approx((1 + 2 / 3 + 1 + 1) / 4)
    assert found["levels"] == {"0": 0, "1": 0, "2": 1, "3": 2, "4": 0, "5": 1}
    assert set(found["families"]) == {"list", "who"}
    assert found["families"]["who"]["mean"] == 3


def test_standard_errors_count_prompts_not_samples() -> None:
    few = [("a", 1.0), ("b", 3.0)]
    assert oracle_metrics.clustered(few) == pytest.approx((2.0, 1.0))
    assert oracle_metrics.clustered(few * 10) == pytest.approx((2.0, 1.0))


def test_responses_to_unknown_prompts_and_empty_files_are_refused(tmp_path: Path) -> None:
    prompts = prompts_file(tmp_path)
    with pytest.raises(DataError, match="eval_responses"):
        oracle_metrics.score_responses(answered(tmp_path, [("Who?", "x.")]), prompts)
    with pytest.raises(DataError, match="no response"):
        oracle_metrics.score_responses(answered(tmp_path, []), prompts)


def test_the_stage_writes_a_score_for_each_response(tmp_path: Path) -> None:
    prompts_file(tmp_path / "held_out")
    answered(tmp_path / "responses", list(zip(PROMPTS, GOOD, strict=True)))
    inputs = {"responses": tmp_path / "responses", "held_out": tmp_path / "held_out"}
    ctx = Context(Config(), 1, tmp_path, inputs, Progress(tmp_path))
    eval_oracle.STAGE.run(ctx)
    assert [s.level for s in read_records(tmp_path / eval_oracle.OUTPUT, oracle_metrics.OracleScore)] == [5, 5]
    assert eval_oracle.STAGE.finalize(ctx)["full"] == 1.0


def test_the_upper_bound_gives_no_score_where_there_is_no_right_answer() -> None:
    candidate = Candidate("c", "p", 0, GOOD[0], "stop", 5)
    assert oracle_scores.judge(PROMPTS[0], candidate).scores == (5.0,)
    assert oracle_scores.judge("What is love?", candidate).scores == (None,)
    assert (
        oracle_scores.judge(PROMPTS[0], Candidate("c", "p", 0, "", "stop", 0, "too_long")).error == "candidate_failed"
    )

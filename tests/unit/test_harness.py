"""lm-evaluation-harness: its command, its results, and the errors when it is not installed or has no data."""

import json
import sys
from pathlib import Path

import pytest

from nemo_srlm.config.schema import Config
from nemo_srlm.core.files import read_json_lines
from nemo_srlm.core.progress import Progress
from nemo_srlm.core.stage import Context
from nemo_srlm.errors import ConfigError, DataError, EngineError
from nemo_srlm.evaluate import harness
from nemo_srlm.stages import eval_harness

RESULTS = (
    Path(__file__).resolve().parents[1] / "data" / "lm_eval_results.json"
)  # output of lm_eval 0.4.13 on the tiny M1 with vLLM, without paths and task texts

# A fake of the harness: it accepts the command line of lm_eval and writes a results file in its format.
STAND_IN = """
import json, os, pathlib, sys
assert os.environ["VLLM_USE_FLASHINFER_SAMPLER"] == "0"  # its engine starts without a compiler, as the project's own
arguments = sys.argv[1:]
value = lambda name: arguments[arguments.index(name) + 1]
if value("--tasks") == "absent":
    sys.exit("ConnectionError: Couldn't reach 'allenai/ai2_arc' on the Hub")
out = pathlib.Path(value("--output_path")) / "model"
out.mkdir(parents=True)
assert "--log_samples" in arguments
for task in value("--tasks").split(","):
    lines = [json.dumps({"doc_id": k, "filter": "none", "acc": float(k < 1), "metrics": ["acc"]}) + chr(10) for k in range(2)]
    (out / f"samples_{task}_2026-11-21T00-00-00.jsonl").write_text("".join(lines))
rows = {task: {"alias": task, "acc,none": 0.5, "acc_stderr,none": 0.1} for task in value("--tasks").split(",")}
shots = {task: int(value("--num_fewshot")) for task in rows}
(out / "results_2026-11-21T00-00-00.json").write_text(json.dumps({"results": rows, "n-shot": shots}))
with open(pathlib.Path(__file__).parent / "calls", "a") as f:
    f.write(json.dumps(arguments) + chr(10))
"""


def context(tmp_path: Path, *tasks: str) -> Context:
    """The config's interpreter finds the fake as the module lm_eval."""
    cfg = Config()
    package = tmp_path / "packages" / "lm_eval"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("", encoding="utf-8")
    (package / "__main__.py").write_text(STAND_IN, encoding="utf-8")
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path / "packages"} exec {sys.executable} "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    cfg.eval.harness.enabled, cfg.eval.harness.python, cfg.eval.harness.tasks = True, str(python), list(tasks)
    directory = tmp_path / "eval_harness"
    directory.mkdir()
    return Context(cfg, 1, directory, {"model": tmp_path / "model"}, Progress(directory))


def test_tasks_of_one_number_of_shots_share_a_process_and_a_finished_group_is_not_run_again(tmp_path: Path):
    ctx = context(tmp_path, "arc_challenge:0", "gsm8k:8", "piqa:0")
    eval_harness.STAGE.check(ctx.cfg)
    eval_harness.STAGE.run(ctx)
    eval_harness.STAGE.run(ctx)
    calls = [json.loads(line) for line in (tmp_path / "packages" / "lm_eval" / "calls").read_text().splitlines()]
    assert [c[c.index("--tasks") + 1] for c in calls] == ["arc_challenge,piqa", "gsm8k"]
    args = calls[0][calls[0].index("--model_args") + 1]
    assert args.startswith(f"pretrained={tmp_path / 'model' / 'hf'},dtype=bfloat16,tensor_parallel_size=1")
    metrics = eval_harness.STAGE.finalize(ctx)
    assert {name: (row["value"], row["se"], row["shots"]) for name, row in metrics["tasks"].items()} == {
        "arc_challenge": (0.5, 0.1, 0), "piqa": (0.5, 0.1, 0), "gsm8k": (0.5, 0.1, 8),
    }  # fmt: skip
    assert metrics["questions"] == {"arc_challenge": 2, "piqa": 2, "gsm8k": 2}
    kept = [data for _, data in read_json_lines(ctx.dir / eval_harness.QUESTIONS)]
    assert {"task": "gsm8k", "question": "gsm8k/0", "value": 1.0} in kept
    assert "--apply_chat_template" not in calls[0]


def test_the_chat_template_is_asked_for_where_it_is_set():
    assert "--apply_chat_template" in harness.command(
        "python", "hf", "", ["a"], 0, Path("out"), 0, "", chat_template=True
    )


def test_without_its_data_the_stage_says_what_to_do(tmp_path: Path):
    with pytest.raises(EngineError, match=r"data set is not on this machine.*with network access"):
        eval_harness.STAGE.run(context(tmp_path, "absent:0"))


def test_without_the_harness_a_run_is_refused_before_it_begins(tmp_path: Path):
    cfg = Config()
    cfg.eval.harness.enabled = True
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n', encoding="utf-8")  # no packages
    python.chmod(0o755)
    cfg.eval.harness.python = str(python)
    with pytest.raises(ConfigError, match=r"has no package lm_eval.*eval\.harness\.python"):
        eval_harness.STAGE.check(cfg)
    cfg.eval.harness.python = str(tmp_path / "absent")
    with pytest.raises(ConfigError, match="No such file"):
        eval_harness.STAGE.check(cfg)


def test_the_engines_memory_is_given_to_the_harness(tmp_path: Path):
    closed: list[bool] = []

    class Open:
        def close(self) -> None:
            closed.append(True)

    ctx = context(tmp_path, "piqa:0")
    ctx.slot.get("engine", Open)
    eval_harness.STAGE.run(ctx)
    assert closed == [True]


def test_tasks_are_grouped_by_shots_and_a_wrong_one_is_named():
    assert harness.by_shots(["a:0", "b", "c:0"]) == {0: ["a", "c"], None: ["b"]}
    for wrong in ("a:few", ":3"):
        with pytest.raises(ConfigError, match=r"eval\.harness\.tasks"):
            harness.by_shots([wrong])


def test_a_real_results_file_is_read():
    found = harness.read_results(RESULTS)
    assert set(found) == {"toy_choice", "toy_words"}
    assert found["toy_choice"]["metric"] == "acc_norm,none"
    assert found["toy_words"]["metric"] == "exact_match,none"
    assert found["toy_choice"]["samples"] == 12
    assert found["toy_choice"]["shots"] == 0
    assert 0 <= found["toy_choice"]["value"] <= 1
    assert found["toy_choice"]["se"] is not None


def test_a_group_is_read_without_its_parts_and_the_usual_metric_comes_first(tmp_path: Path):
    row = {"alias": "x", "acc,none": 0.4, "acc_stderr,none": 0.01, "acc_norm,none": 0.6, "acc_norm_stderr,none": "N/A"}
    data = {
        "results": {"mmlu": row, "mmlu_anatomy": row, "hellaswag": row}, "groups": {"mmlu": row},
        "group_subtasks": {"mmlu": ["mmlu_anatomy"]}, "n-shot": {"mmlu_anatomy": 5},
    }  # fmt: skip
    path = tmp_path / "results.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    found = harness.read_results(path)
    assert {name: (r["value"], r["se"]) for name, r in found.items()} == {"mmlu": (0.4, 0.01), "hellaswag": (0.6, None)}


def test_questions_of_a_group_are_those_of_its_parts_in_the_main_metric_and_its_filter(tmp_path: Path):
    results = tmp_path / "results_1.json"
    results.write_text('{"group_subtasks": {"g": ["g_1", "b"], "g_1": ["a"], "alone": []}}', encoding="utf-8")
    for name, values in {"a": (1, 0), "b": (1, 1), "alone": (1, 0)}.items():
        rows = [{"doc_id": k, "filter": f, "exact_match": v * (f == "strict-match"), "acc": 0.5}
                for f in ("flexible", "strict-match") for k, v in enumerate(values)]  # fmt: skip
        (tmp_path / f"samples_{name}_1.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    metric = "exact_match,strict-match"
    tasks = {
        "g": {"metric": metric, "value": 0.75},
        "alone": {"metric": metric, "value": 0.9},
        "none": {"metric": metric, "value": 1},
    }
    found = [(q.task, q.question, q.value) for q in harness.read_questions(results, tasks)]
    # the mean of "alone" is not its result, and there are no samples of "none"
    assert found == [("g", "a/0", 1.0), ("g", "a/1", 0.0), ("g", "b/0", 1.0), ("g", "b/1", 1.0)]


@pytest.mark.parametrize("text", ["{}", "[]", "{", '{"results": {"a": {"alias": "a"}}}'])
def test_what_is_no_results_file_is_refused(tmp_path: Path, text: str):
    path = tmp_path / "results.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=r"results\.json"):
        harness.read_results(path)

"""Trackers: TensorBoard files as TensorBoard reads them, Weights & Biases offline, MLflow's own client where it is installed."""

import importlib.util
from pathlib import Path

import pytest

from nemo_srlm.config.compose import load_resolved_config
from nemo_srlm.core import trackers
from nemo_srlm.core.files import read_json
from nemo_srlm.core.pipeline import pipeline
from nemo_srlm.core.progress import Progress
from nemo_srlm.core.stage import Context
from nemo_srlm.core.trackers import Projects, open_trackers
from nemo_srlm.errors import ConfigError
from nemo_srlm.report.tracking import evaluations, publish
from nemo_srlm.report.write import read_runs, write_runs
from nemo_srlm.stages import report
from tests.synthetic_run import build

NOWHERE = Projects()


def accumulator(directory: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(directory / trackers.BOARD), size_guidance={"tensors": 0}).Reload()


def read(directory: Path) -> dict[str, list[tuple[int, float]]]:
    events = accumulator(directory)
    return {tag: [(e.step, round(e.value, 4)) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def texts(directory: Path) -> dict[str, str]:
    events = accumulator(directory)
    found = {tag: events.Tensors(tag)[-1].tensor_proto.string_val[0] for tag in events.Tags()["tensors"]}
    return {tag.removesuffix("/text_summary"): value.decode() for tag, value in found.items()}


def test_every_number_of_a_line_is_a_scalar_and_a_resumed_run_has_no_step_twice(tmp_path: Path):
    tracker = open_trackers(tmp_path, NOWHERE)
    for step in (1, 2, 3):
        tracker.line({"step": step, "loss": 1.0 / step, "per": {"loss": "token"}})
    tracker.close()
    again = open_trackers(tmp_path, NOWHERE, first_step=2)  # step 3 was lost when the process ended
    again.line({"step": 3, "loss": 0.25})
    again.line({"step": 3, "validation": {"accuracy": 0.5}, "per": {}})
    again.close()
    assert read(tmp_path) == {"loss": [(1, 1.0), (2, 0.5), (3, 0.25)], "validation/accuracy": [(3, 0.5)]}


def test_event_files_are_logs_and_never_outputs(tmp_path: Path):
    from nemo_srlm.core import manifest, outputs

    open_trackers(tmp_path, NOWHERE).close()
    assert list(tmp_path.rglob("events.out.tfevents*"))
    assert outputs.describe(tmp_path, manifest.NAME) == {}


@pytest.mark.parametrize(("field", "package"), [("wandb", "wandb"), ("mlflow", "mlflow")])
def test_a_tracker_that_is_not_there_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, field: str, package: str):
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    trackers.check(NOWHERE)
    with pytest.raises(ConfigError, match=rf"run\.{field}: 'mine', but the package {package} is not installed"):
        trackers.check(Projects(**{field: "mine"}))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("runs"), "real", world=False)


def send(run: Path, directory: Path, projects: Projects = NOWHERE) -> None:
    runs = read_runs([run])
    page = write_runs(runs, directory / "report.html")
    tracker = open_trackers(directory, projects)
    publish(runs[0], page, tracker)
    tracker.close()


def test_evaluations_are_curves_over_the_models_with_their_intervals(run: Path):
    found = evaluations(read_runs([run])[0])
    assert sorted(found) == [1, 2, 3]  # M1 to M3: the baseline has no number
    m3 = {name.removeprefix("evaluation/"): value for name, value in found[3].items()}
    assert m3["pairwise_accuracy_low"] < m3["pairwise_accuracy"] < m3["pairwise_accuracy_high"]
    assert {"nlp/mmlu", "alpaca/win_rate", "win_rate_against/M1", "distinct_2", "words"} <= set(m3)
    assert not [(a, b) for a in m3 for b in m3 if b.startswith(f"{a}/")]  # a file store could not hold both


def test_tensorboard_gets_evaluations_tables_samples_and_the_report(run: Path, tmp_path: Path):
    send(run, tmp_path)
    assert [step for step, _ in read(tmp_path)["evaluation/words"]] == [1, 2, 3]
    found = texts(tmp_path)
    assert "M3 follows instructions better" in found["report"]
    assert "| M2 |" in found["evaluation/models"]
    assert {"evaluation/nlp_benchmarks", "evaluation/mt_bench", "samples/same_prompt", "samples/iteration_2"} <= set(
        found
    )
    table = found["samples/iteration_1"].splitlines()
    assert table[0] == "| prompt | why no pair | role | score | response |"
    assert all(line.replace("\\|", "").count("|") == 6 for line in table)
    assert any("| chosen |" in line for line in table)


def test_the_stage_report_sends_everything_and_a_second_attempt_sends_it_once(run: Path):
    directory = run / "iter2" / "report"
    directory.mkdir()
    context = Context(load_resolved_config(run), 2, directory, {}, Progress(directory))
    for _ in range(2):
        report.STAGE.run(context)
    assert [step for step, _ in read(directory)["evaluation/words"]] == [1, 2, 3]
    assert len(list((directory / trackers.BOARD).iterdir())) == 1
    assert (run / "report.html").exists()


def test_after_each_iteration_what_is_evaluated_by_then_is_sent(tmp_path: Path):
    run = build(tmp_path, "half", iterations=2, until=1)
    cfg = load_resolved_config(run)
    assert [ref.iteration for ref in pipeline(cfg) if ref.stage == "report"] == [0, 1, 2]
    directory = run / "iter1" / "report"
    directory.mkdir()
    report.STAGE.run(Context(cfg, 1, directory, {}, Progress(directory)))
    assert [step for step, _ in read(directory)["evaluation/oracle"]] == [1, 2]
    inputs = report.STAGE.inputs(cfg, 1).values()
    assert {ref.iteration for ref in inputs} == {0, 1}


def test_a_second_attempt_continues_its_run_and_new_evaluations_begin_another(tmp_path: Path):
    started = tmp_path / "logs" / "started"
    started.parent.mkdir()
    found = []
    for begun, key in (("1", "a"), ("2", "a"), ("3", "b"), ("4", ""), ("5", ""), ("5", "")):
        started.write_text(begun, encoding="utf-8")
        found.append(trackers._named(tmp_path, key)[1])
    assert found[0] == found[1]
    assert found[4] == found[5]
    assert len(set(found)) == 4


def test_wandb_is_sent_every_step_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    directory = tmp_path / "run" / "iter1" / "report"
    (directory / "logs").mkdir(parents=True)
    tracker = open_trackers(directory, Projects(wandb="mine"), key="k")
    wandb = tracker.each[1]._run
    sent, log = [], wandb.log
    monkeypatch.setattr(wandb, "log", lambda values, step=None: (sent.append(step), log(values, step=step)))
    for step in (1, 1, 2):
        tracker.scalars({"loss": 1.0}, step)
    tracker.table("samples", ["response"], [["text"]])
    for step in (1, 2, 3):  # as a second attempt does
        tracker.scalars({"loss": 1.0}, step)
    tracker.close()
    assert sent == [1, 1, 2, None, 3]


def test_a_self_judged_win_rate_has_a_name_that_says_so(run: Path):
    data = read_runs([run])[0]
    data["head_to_head"] = [{**row, "judge": f"{row['model']} itself"} for row in data["head_to_head"]]
    names = {name for values in evaluations(data).values() for name in values if "win_rate_against" in name}
    assert names
    assert all(name.startswith("evaluation/self_judged_win_rate_against/") for name in names)


def test_a_light_environment_writes_no_event_files_and_says_so(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    send(run, tmp_path)
    assert not (tmp_path / trackers.BOARD).exists()
    assert "writes no TensorBoard files" in capsys.readouterr().err


@pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="no mlflow here (pip install mlflow)")
def test_mlflow_gets_the_same_and_a_restarted_stage_continues_its_run(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    for _ in range(2):
        send(run, tmp_path, Projects(mlflow="mine"))
    client = MlflowClient()
    (found,) = client.search_runs([client.get_experiment_by_name("mine").experiment_id])
    assert found.info.status == "FINISHED"
    sent = client.get_metric_history(found.info.run_id, "evaluation/words")
    assert sorted(m.step for m in sent) == [1, 2, 3]  # by the first attempt alone
    names = {item.path for item in client.list_artifacts(found.info.run_id)}
    assert {"report.html", "samples", "evaluation"} <= names
    where = Path(client.download_artifacts(found.info.run_id, "evaluation/models.json"))
    assert [row[0] for row in read_json(where)["data"]] == ["baseline", "M1", "M2", "M3"]  # once

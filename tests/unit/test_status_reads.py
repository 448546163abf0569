"""How much `status` reads of a large run: 30 iterations, 64 shards, 200,000 items. Reads are counted, not seconds."""

import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from nemo_srlm.cli import main
from nemo_srlm.core.pipeline import pipeline
from nemo_srlm.launch.slurm import client
from nemo_srlm.launch.slurm.client import Task
from nemo_srlm.launch.slurm.submit import RECORD, Submitted
from nemo_srlm.report.status import Look
from tests import large_run
from tests.large_run import ITEMS, ITERATIONS, SHARDS

HOOK: list[
    Callable[[str], None]
] = []  # an audit hook cannot be removed: it is added once, and does nothing without this


def _heard(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and HOOK and isinstance(arguments[0], (str, os.PathLike)):
        HOOK[-1](os.fspath(arguments[0]))


def opened_by(run_dir: Path, words: list[str]) -> Counter[str]:
    """The files of the run that a command opens, and how often."""
    found: Counter[str] = Counter()

    def count(path: str) -> None:
        if path.startswith(str(run_dir)):
            found[os.path.relpath(path, run_dir)] += 1

    HOOK.append(count)
    try:
        assert main(words) == 0
    finally:
        HOOK.pop()
    return found


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sys.addaudithook(_heard)
    return large_run.build(tmp_path_factory.mktemp("large"))


def stages_of(run_dir: Path) -> int:
    return len(pipeline(Look(run_dir).cfg))


@pytest.mark.parametrize("words", [["status"], ["status", "--json"]])
def test_every_small_file_is_read_once_and_no_file_of_items(
    run_dir: Path, words: list[str], capsys: pytest.CaptureFixture[str]
):
    found = opened_by(run_dir, [*words, str(run_dir)])
    shown = capsys.readouterr().out
    if words[-1] == "--json":
        (judge,) = [row for row in json.loads(shown)["stages"] if row["state"] == "running"]
        assert str(ITEMS - SHARDS) in judge["words"].replace(",", "")
    manifests = {name: number for name, number in found.items() if name.endswith("manifest.json")}
    assert len(manifests) > 8 * (ITERATIONS - 1)
    assert set(manifests.values()) == {1}
    progress = [name for name in found if "progress" in name]
    assert len(progress) == SHARDS
    others = found - Counter(dict.fromkeys([*manifests, *progress], 1))
    assert set(others) == {"config.yaml"}
    assert found["config.yaml"] <= 2
    assert found.total() <= stages_of(run_dir) + SHARDS + 2


def test_of_jobs_only_the_attempts_at_unfinished_stages_are_read(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """A run whose jobs were all submitted has 64 files of attempts for every sharded stage of 30 iterations."""
    slurm = run_dir / "slurm"
    records, tasks = [], []
    for t in range(1, ITERATIONS + 1):
        job = Submitted(str(t), f"iter{t}-judge", "work", [f"iter{t}/judge"], list(range(SHARDS)), SHARDS, [], 0.0)
        records.append(asdict(job))
        (slurm / job.key).mkdir(parents=True)
        for shard in range(SHARDS):
            (slurm / job.key / f"attempts-{shard}.tsv").write_text(f"1.0\t{t}_{shard}.0\tn1\tstart\twork\n")
            tasks.append(Task(f"{t}_{shard}", "RUNNING" if t == ITERATIONS else "COMPLETED", "", "n1", "", 5.0))
    (slurm / RECORD).write_text(json.dumps(records))
    monkeypatch.setattr(client, "mine", lambda seconds: tasks)
    monkeypatch.setattr(client, "accounted", lambda ids: {})
    try:
        found = opened_by(run_dir, ["status", str(run_dir)])
    finally:
        shutil.rmtree(slurm)
    assert "running" in capsys.readouterr().out
    attempts = {name: number for name, number in found.items() if "attempts" in name}
    assert attempts == {f"slurm/iter{ITERATIONS}-judge/attempts-{shard}.tsv": 1 for shard in range(SHARDS)}

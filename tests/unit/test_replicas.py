"""Several engines on one machine: which items and GPUs each one has, and what happens when one fails."""

import subprocess
import sys
from contextlib import closing, nullcontext
from dataclasses import replace
from importlib import metadata
from multiprocessing import Pipe
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_srlm.config.schema import Config
from nemo_srlm.core.slot import Slot
from nemo_srlm.core.stage import Context, Ref
from nemo_srlm.errors import ConfigError
from nemo_srlm.generate.replicas import gpus_of, num_replicas, shards_of, usable_gpus, visible_gpus
from nemo_srlm.launch import local, replicas, worker
from nemo_srlm.launch.contract import EXIT_DONE, Work
from nemo_srlm.launch.gpus import check_gpus
from nemo_srlm.launch.local import Session, command_for
from nemo_srlm.launch.plan import Step
from nemo_srlm.launch.replicas import Order, ReplicaFailed, Replicas
from nemo_srlm.launch.slurm.jobs import Job
from nemo_srlm.launch.slurm.sbatch import num_gpus
from nemo_srlm.report.display import Display
from nemo_srlm.stages import load

GENERATE = "candidates"


def config(**generate: int) -> Config:
    cfg = Config()
    for name, value in generate.items():
        setattr(cfg.generate, name, value)
    return cfg


@given(st.integers(1, 8), st.integers(1, 8), st.integers(0, 100))
def test_the_replicas_of_a_shard_do_exactly_its_items(num_shards: int, num: int, items: int) -> None:
    for shard in range(num_shards):
        parts = shards_of(shard, num_shards, num)
        done = sorted(i for part, of in parts for i in range(items) if i % of == part)
        assert done == [i for i in range(items) if i % num_shards == shard]
        assert parts[0][0] == shard  # it writes the progress file of the shard


def test_only_stages_whose_items_can_be_dealt_out_have_replicas() -> None:
    cfg = config(replicas=4)
    found = {name: num_replicas(load(name), cfg) for name in ("candidates", "judge", "prompts", "pairs", "sft")}
    assert found == {"candidates": 4, "judge": 4, "prompts": 1, "pairs": 1, "sft": 1}
    cfg.api.stages = ["judge"]
    assert num_replicas(load("judge"), cfg) == 1


def test_each_engine_has_gpus_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    gpus = visible_gpus()
    found = [gpus_of(i, 2, 2, gpus)["CUDA_VISIBLE_DEVICES"] for i in range(2)]
    assert found == ["4,5", "6,7"]
    with pytest.raises(ConfigError, match=r"3 engines .* on 2 GPUs each, 4 GPUs here"):
        gpus_of(0, 3, 2, gpus)
    assert gpus_of(0, 3, 2, []) == {}  # a machine without GPUs


@pytest.mark.parametrize(("named", "found"), [("-1", []), ("NoDevFiles", []), ("", []), ("2, 0,-1,3", ["2", "0"])])
def test_hidden_gpus_are_none(monkeypatch: pytest.MonkeyPatch, named: str, found: list[str]) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert visible_gpus() == found


def test_a_torch_for_cpus_uses_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A laptop with a GPU and the environment of `make venv`: the demo's two engines share its cores."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    for version, found in (("2.13.0+cpu", []), ("2.13.0", ["0"]), ("2.13.0+cu130", ["0"])):
        monkeypatch.setattr(metadata, "version", lambda name, version=version: version)
        assert usable_gpus() == found


def test_a_run_that_wants_more_gpus_than_there_are_is_refused_before_it_starts() -> None:
    cfg = config(replicas=2)
    cfg.parallel.processes = 2
    refs = [Ref("world", 0), Ref(GENERATE, 1), Ref("pretrain", 0)]
    check_gpus(cfg, refs, 0)  # a machine without: on its cores
    check_gpus(cfg, refs, 2)
    with pytest.raises(ConfigError, match=r"generate\.replicas: 2 GPUs for the engines of iter1/candidates, 1 here"):
        check_gpus(cfg, refs, 1)
    cfg.candidates.shards = 2
    with pytest.raises(ConfigError, match=r"4 GPUs for the engines of iter1/candidates, 2 here"):
        check_gpus(cfg, refs, 2)
    cfg.api.stages = [GENERATE]
    check_gpus(cfg, refs, 2)
    cfg.parallel.processes = 4
    with pytest.raises(
        ConfigError, match=r"parallel\.processes: 4, and iter0/pretrain trains on this machine's 2 GPUs"
    ):
        check_gpus(cfg, refs, 2)


def test_shards_that_the_local_runner_starts_side_by_side_have_gpus_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "usable_gpus", lambda: list("01234567"))
    step = Step((Ref(GENERATE, 1),), "generate", 2)
    _, env = command_for(Session(config(tensor_parallel=2, replicas=2), tmp_path, Display(1), 0.0), step, 1)
    assert env["CUDA_VISIBLE_DEVICES"] == "4,5,6,7"
    one = Step((Ref(GENERATE, 1),), "generate", 1)
    assert (
        "CUDA_VISIBLE_DEVICES"
        not in command_for(Session(config(tensor_parallel=8), tmp_path, Display(1), 0.0), one, 0)[1]
    )


def test_a_slurm_job_asks_for_the_gpus_of_all_its_engines() -> None:
    cfg = config(tensor_parallel=2, replicas=4)
    cfg.cluster.gpus_per_node = 8

    def gpus(name: str) -> int:
        return num_gpus(cfg, Job("k", "work", (Ref(name, 1),), load(name).kind, (), 1, ()))

    assert [gpus(name) for name in ("candidates", "judge", "prompts", "pairs", "dpo")] == [8, 8, 2, 0, 8]


REPLICA = """
import os, sys
from pathlib import Path
from nemo_srlm.launch.replicas import orders, receive

with orders() as socket:
    while order := receive(socket):
        with (Path(sys.argv[1]) / str(os.getpid())).open("a") as f:
            print(order.ref, order.shard, order.num_shards, file=f)
        {work}
        socket.send(None)
"""


def started_with(monkeypatch: pytest.MonkeyPatch, folder: Path, *works: str) -> list[subprocess.Popen[bytes]]:
    """Replaces the replicas by processes that write down what they are told, and then do this."""
    started: list[subprocess.Popen[bytes]] = []

    def start(command: list[str], log: Path, env: dict[str, str], stdin: int) -> subprocess.Popen[bytes]:
        words = [sys.executable, "-c", REPLICA.replace("{work}", works[len(started)]), str(folder)]
        started.append(subprocess.Popen(words, stdin=stdin, start_new_session=True))
        return started[-1]

    monkeypatch.setattr(replicas.process, "start", start)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return started


@pytest.mark.parametrize(
    ("work", "code"), [("raise SystemExit(2)", 2), ("os.kill(os.getpid(), 9)", 1), ("raise ValueError", 1)]
)
def test_one_replica_that_fails_ends_the_shard_with_its_code(
    work: str, code: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    started = started_with(monkeypatch, tmp_path, "import time; time.sleep(60)", work)
    monkeypatch.setattr(replicas, "GRACE", 0.1)
    ref = Ref(GENERATE, 1)
    with closing(Replicas(Work(tmp_path, (ref,)))) as engines, pytest.raises(ReplicaFailed) as failed:
        engines.run(ref, config(replicas=2))
    assert failed.value.code == code
    assert all(worker.poll() is not None for worker in started)


def test_replicas_stay_between_stages_and_the_first_does_alone_what_cannot_be_split(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    started = started_with(monkeypatch, tmp_path, "pass", "pass")
    refs = tuple(Ref(name, 1) for name in ("prompts", "candidates", "judge"))
    cfg = config(replicas=2)
    assert replicas.needed(Work(tmp_path, refs), cfg) == 2
    assert replicas.needed(Work(tmp_path, refs[:1]), cfg) == 1
    with closing(Replicas(Work(tmp_path, refs))) as engines:
        assert not started
        for ref in refs:
            engines.run(ref, cfg)
    assert [worker.poll() for worker in started] == [0, 0]
    told = [(tmp_path / str(worker.pid)).read_text().splitlines() for worker in started]
    assert told == [
        ["iter1/prompts 0 1", "iter1/candidates 0 2", "iter1/judge 0 2"],
        ["iter1/candidates 1 2", "iter1/judge 1 2"],
    ]


@pytest.mark.parametrize("waiting", [False, True])
def test_a_replica_without_an_order_imports_vllm_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waiting: bool
):
    """While the first one does a stage that cannot be split, the others get ready; with an order nothing comes before it."""
    done: list[str] = []
    here, there = Pipe()
    monkeypatch.setattr(replicas, "orders", lambda: there)
    monkeypatch.setattr(worker, "preload", lambda section: (done.append("preload"), here.close()))
    monkeypatch.setattr(worker, "load_resolved_config", lambda run_dir: Config())

    def run(ctx: Context) -> None:
        done.append("judge")
        here.close()

    monkeypatch.setattr(worker, "load", lambda name: replace(load(name), run=run))
    if waiting:
        here.send(Order(Ref("judge", 1), 0, 1))
    with pytest.raises(BrokenPipeError) if waiting else nullcontext():  # its worker is gone when it answers
        assert worker.serve(Work(tmp_path, (Ref("judge", 1),), replica=True), Slot()) == EXIT_DONE
    assert done == (["judge"] if waiting else ["preload"])

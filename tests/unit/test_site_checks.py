"""What a submission refuses because jobs could not start with it."""

import dataclasses
from pathlib import Path

import pytest

from nemo_srlm.config.cluster import ClusterSection, JobSection
from nemo_srlm.config.schema import Config
from nemo_srlm.core.stage import Ref
from nemo_srlm.errors import UserError
from nemo_srlm.launch.slurm.jobs import Job
from nemo_srlm.launch.slurm.site_checks import notes, problems, refuse_problems

JOBS = [
    Job("iter0-sft", "work", (Ref("sft", 0),), "train", (), 1, (), ()),
    Job("iter1-judge", "work", (Ref("judge", 1),), "generate", (), 1, (), ()),
    Job("supervise", "supervise", (), "cpu", (), 1, (), ()),
]


def site(tmp_path: Path) -> Config:
    """A config with everything in place: two images, a mounted interpreter and mounted inputs."""
    for name in ("train.sqsh", "vllm.sqsh", "data/trees.jsonl", "light/bin/python"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    cfg = Config(
        cluster=ClusterSection(mounts=[f"{tmp_path}/data:{tmp_path}/data:ro"], python="python3", partition="p")
    )
    cfg.cluster.train.image, cfg.cluster.generate.image = f"{tmp_path}/train.sqsh", f"{tmp_path}/vllm.sqsh"
    cfg.cluster.generate.mounts, cfg.cluster.generate.python = [f"{tmp_path}/light:/light"], "/light/bin/python"
    cfg.seed.files = [f"{tmp_path}/data/trees.jsonl"]
    return cfg


def found(cfg: Config, tmp_path: Path) -> list[str]:
    return [str(problem) for problem in problems(cfg, tmp_path / "runs/r", JOBS)]


def test_a_site_with_everything_in_place_is_accepted(tmp_path: Path):
    assert found(site(tmp_path), tmp_path) == []
    refuse_problems(site(tmp_path), tmp_path / "runs/r", JOBS)


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        ("train.sqsh", "cluster.train.image: {}/train.sqsh: no such file"),
        ("vllm.sqsh", "cluster.generate.image: {}/vllm.sqsh: no such file"),
        ("light/bin/python", "cluster.generate.python: {}/light/bin/python: no such file"),
    ],
)
def test_a_file_that_is_not_there_is_named_with_its_setting(tmp_path: Path, gone: str, said: str):
    cfg = site(tmp_path)
    (tmp_path / gone).unlink()
    (problem,) = found(cfg, tmp_path)
    assert problem.startswith(said.format(tmp_path))
    assert "cluster.check_paths=false" in problem
    cfg.cluster.check_paths = False
    assert found(cfg, tmp_path) == []


def test_an_input_outside_every_mount_is_named_and_all_problems_come_at_once(tmp_path: Path):
    cfg = site(tmp_path)
    cfg.cluster.mounts = [f"{tmp_path}/nowhere:/data"]
    with pytest.raises(UserError) as raised:
        refuse_problems(cfg, tmp_path / "runs/r", JOBS)
    text = str(raised.value)
    assert f"seed.files: {tmp_path}/data/trees.jsonl lies outside every mount" in text
    assert f"cluster.train.mounts: {tmp_path}/nowhere: no such file or folder" in text


def test_a_relative_input_is_looked_for_where_the_jobs_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    cfg = site(tmp_path)
    (tmp_path / "checkout").mkdir()
    monkeypatch.chdir(tmp_path / "checkout")
    monkeypatch.setattr("nemo_srlm.launch.slurm.site_checks.job_directory", lambda: tmp_path / "checkout")
    cfg.seed.files = ["../data/trees.jsonl"]
    assert found(cfg, tmp_path) == []
    cfg.cluster.mounts = []
    (problem,) = found(cfg, tmp_path)
    assert problem.startswith(f"seed.files: {tmp_path}/data/trees.jsonl lies outside every mount")


def test_without_containers_only_the_interpreter_is_looked_for(tmp_path: Path):
    cfg = Config(cluster=ClusterSection(python=str(tmp_path / "python")))
    cfg.seed.files = [str(tmp_path)]
    assert [problem.partition(":")[0] for problem in found(cfg, tmp_path)] == ["cluster.python"]


def test_names_in_a_registry_and_on_path_cannot_be_looked_for(tmp_path: Path):
    cfg = Config(cluster=ClusterSection(image="nvcr.io#nvidia/pytorch:25.12-py3", python="python3"))
    assert found(cfg, tmp_path) == []


def test_a_training_with_more_processes_than_gpus_on_a_node_is_refused(tmp_path: Path):
    """Nodes of four GPUs and the shipped eight processes: NCCL would refuse two processes on one GPU, in the job."""
    cfg = site(tmp_path)
    cfg.cluster.check_paths = False
    cfg.parallel.processes, cfg.cluster.gpus_per_node = 8, 4
    (problem,) = found(cfg, tmp_path)
    assert problem.startswith("parallel.processes: 8 on a node, of which a job of cluster.train gets 4 GPUs; expected")
    assert "parallel.processes=4" in problem
    assert problems(cfg, tmp_path / "runs/r", JOBS[1:]) == [], "nothing is trained"
    for change in (
        {"gpus_per_node": 8},
        {"gpus_per_node": 0},
        {"train": JobSection(gpus=8)},
        {"train": JobSection(gpus=0)},
    ):
        other = dataclasses.replace(cfg, cluster=dataclasses.replace(cfg.cluster, **change))  # type: ignore[arg-type]
        assert found(other, tmp_path) == []


def test_a_kind_that_leaves_its_cpus_to_the_site_is_named(tmp_path: Path):
    cfg = site(tmp_path)
    (note,) = notes(cfg, JOBS)
    assert note.startswith("cluster.generate, cluster.train: neither cpus nor exclusive is set")
    cfg.cluster.train.exclusive, cfg.cluster.generate.cpus = True, 8
    assert notes(cfg, JOBS) == []
    cfg.cluster.generate.cpus, cfg.cluster.flags = 0, ["--cpus-per-gpu=8"]
    assert notes(cfg, JOBS) == []


def test_jobs_that_ask_for_no_gpu_are_named_without_a_profile_and_where_settings_need_one(tmp_path: Path):
    cfg = site(tmp_path)
    cfg.cluster.train.cpus = cfg.cluster.generate.cpus = 8
    assert notes(cfg, JOBS) == [], "a partition without GPUs was chosen"
    cfg.cluster.partition = ""
    (note,) = notes(cfg, JOBS)
    assert note.startswith(
        "cluster.generate, cluster.train: the jobs ask for no GPU, as cluster.gpus_per_node is 0: they compute"
    )
    assert "cluster=dgx_h100" in note
    cfg.api.stages = ["judge"]
    assert notes(cfg, JOBS)[0].startswith("cluster.train: ")
    cfg.cluster.partition, cfg.precision.fp8, cfg.precision.cross_entropy = "p", "hybrid", "te"
    (note,) = notes(cfg, JOBS)
    assert "is 0: precision.fp8=hybrid, precision.cross_entropy=te need one; for GPUs set" in note
    assert notes(cfg, JOBS[1:]) == [], "nothing is trained"
    for change in ({"flags": ["--gpus-per-node=8"]}, {"gpus_per_node": 8}, {"train": JobSection(gpus=4, cpus=8)}):
        other = dataclasses.replace(cfg, cluster=dataclasses.replace(cfg.cluster, **change))  # type: ignore[arg-type]
        assert notes(other, JOBS) == []

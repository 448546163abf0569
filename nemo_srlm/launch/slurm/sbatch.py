"""One job as Slurm gets it: sbatch's arguments, what stage.sh sources (job.env) and what the step reads (job.json)."""

import dataclasses
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from nemo_srlm.config.cluster import JobSection, RequestSection
from nemo_srlm.config.fields import identity
from nemo_srlm.config.schema import Config
from nemo_srlm.config.shipped import SLURM, job_directory
from nemo_srlm.core.files import read_json
from nemo_srlm.core.manifest import fingerprint
from nemo_srlm.core.stage import Kind, Ref
from nemo_srlm.generate.replicas import num_replicas
from nemo_srlm.launch.slurm.jobs import Job, comment, directory, title
from nemo_srlm.launch.slurm.lease import EXPIRES
from nemo_srlm.stages import load

SETTINGS = "job.json"  # in a job's folder
PASSED = "passed"  # in the folder of a check of nodes: the fingerprint of what was in order
WORKING = ("work", "check")  # roles that ask for what the kind of stage asks for
# Seconds. The supervisor is submitted first, and waits for the others once these are submitted. Should the submission die
# before that, it begins after this time and goes on.
BEFORE_SUPERVISION = 900


@dataclass(frozen=True)
class JobSettings:
    """What the step inside the job reads (job.json), as it was at submission."""

    run_dir: str
    refs: list[str]
    kind: Kind
    num_shards: int
    config: str  # config_digest
    nodes: int
    processes: int  # training ranks per node
    threads: int
    hang: dict[str, int]  # phase -> seconds without progress that end an attempt, 0 = none
    expandable_segments: bool = True  # jobs that an older version submitted do not say
    cache: str = ""  # folder on the node
    gpus: int = 0  # per node
    checked: str = ""  # of a check: what it found in order, for `passed`

    @property
    def path(self) -> Path:
        return Path(self.run_dir)

    @property
    def stages(self) -> tuple[Ref, ...]:
        return tuple(map(Ref.parse, self.refs))

    @classmethod
    def read(cls, folder: Path) -> "JobSettings":
        return cls(**read_json(folder / SETTINGS))


def config_digest(cfg: Config) -> str:
    """Fingerprint of all identity settings: a queued job refuses to run when those of the resolved config have changed."""
    return fingerprint(identity(cfg))


def section(cfg: Config, job: Job) -> JobSection:
    return {
        "train": cfg.cluster.train, "generate": cfg.cluster.generate,
        "convert": cfg.cluster.convert, "cpu": cfg.cluster.cpu,
    }[job.kind]  # fmt: skip


def num_nodes(cfg: Config, job: Job) -> int:
    return cfg.parallel.nodes if job.kind == "train" and job.role == "work" else 1


def num_gpus(cfg: Config, job: Job) -> int:
    """GPUs per node."""
    asked = section(cfg, job).gpus
    if job.role not in WORKING:
        return 0
    if asked >= 0:
        return asked
    if cfg.cluster.gpus_per_node == 0:
        return 0
    engines = max(num_replicas(load(ref.stage), cfg) for ref in job.refs) if job.kind == "generate" else 0
    return {"train": cfg.cluster.gpus_per_node, "generate": engines * cfg.generate.tensor_parallel}.get(job.kind, 0)


def time_limit(cfg: Config, job: Job) -> str:
    return {"work": section(cfg, job).time, "check": "00:20:00"}.get(job.role, "01:00:00")


def arguments(cfg: Config, run_dir: Path, job: Job, dependencies: list[str], code: Path | None = None) -> list[str]:
    """What follows `sbatch`: flags, script, the script's arguments. `dependencies`: ids that are known to exist.

    `code`: the folder that holds the package which the supervisor runs.
    """
    site, own = cfg.cluster, section(cfg, job)
    folder = directory(run_dir.resolve(), job.key)
    out = [
        f"--job-name={title(run_dir, job.key)}", f"--comment={comment(run_dir, job)}",
        f"--output={folder}/log-{'%A_%a' if job.shards else '%j'}.txt",
        "--open-mode=append", "--requeue", f"--nodes={num_nodes(cfg, job)}", "--ntasks-per-node=1",
        f"--chdir={job_directory()}",
    ]  # fmt: skip
    out += [f"--time={time_limit(cfg, job)}"]
    out += [f"--signal=B:USR1@{site.warning}"] if job.role == "work" else []
    if job.role in WORKING:
        gpus = num_gpus(cfg, job)
        out += [f"--gres=gpu:{site.gpu_type + ':' if site.gpu_type else ''}{gpus}"] if gpus else []
        out += [f"--cpus-per-task={own.cpus}"] if own.cpus else []
        out += [f"--mem={own.memory}"] if own.memory else []
        out += ["--exclusive"] if own.exclusive else []
    for field in dataclasses.fields(RequestSection):  # named as sbatch's flags
        if value := getattr(own, field.name) or getattr(site, field.name):
            out += [f"--{field.name.replace('_', '-')}={value}"]
    out += [f"--exclude={','.join(site.exclude)}"] if site.exclude else []
    if job.shards:
        out += [f"--array={job.array}{f'%{site.max_tasks}' if site.max_tasks else ''}"]
    if dependencies:
        out += [f"--dependency=afterok:{':'.join(dependencies)}", "--kill-on-invalid-dep=yes"]
    out += [*site.flags, *own.flags]
    if job.role == "supervise":  # not through the environment: not every site gives jobs that of sbatch
        own_words = ["--code", str(code), "--python", sys.executable, "--supervise", str(run_dir.resolve())]
        return [*out, f"--begin=now+{BEFORE_SUPERVISION}", str(SLURM / "iteration.sh"), *own_words]
    return [*out, str(SLURM / "stage.sh"), str(folder), job.role, str(job.offset)]


def python(cfg: Config, job: Job) -> str:
    return section(cfg, job).python or cfg.cluster.python or sys.executable


def nodes_digest(cfg: Config, run_dir: Path, job: Job) -> str:
    """A fingerprint of what the check of a kind's nodes is about."""
    site, own = cfg.cluster, section(cfg, job)
    mounted = [word for words in container(cfg, run_dir, job, Path()) for word in words]
    places = [own.partition or site.partition, own.constraint or site.constraint]
    return fingerprint({
        "python": python(cfg, job), "container": mounted, "places": places, "gpus": num_gpus(cfg, job),
        "setup": [*site.modules, *own.modules, *site.setup], "inputs": identity(cfg),
    })  # fmt: skip


def settings(cfg: Config, run_dir: Path, job: Job) -> JobSettings:
    hang = {"setup": cfg.cluster.hang.setup, "work": cfg.cluster.hang.work, "save": cfg.cluster.hang.save}
    return JobSettings(
        str(run_dir.resolve()), [str(ref) for ref in job.refs], job.kind, job.num_shards, config_digest(cfg),
        num_nodes(cfg, job), cfg.parallel.processes, cfg.parallel.threads, hang,
        cfg.parallel.expandable_segments, cfg.cluster.cache, num_gpus(cfg, job),
        nodes_digest(cfg, run_dir, job) if job.role == "check" else "",
    )  # fmt: skip


def container(cfg: Config, run_dir: Path, job: Job, code: Path) -> tuple[list[str], list[str]]:
    """How the job's image is started: flags of srun, and what stands before the interpreter. Both empty without an image.

    It starts in `code`, which holds the package.
    """
    site, own = cfg.cluster, section(cfg, job)
    image = own.image or site.image
    if not image or image == "none":
        return [], []
    always = [f"{path}:{path}" for path in (job_directory(), run_dir.resolve())]
    mounts = ",".join([*site.mounts, *own.mounts, *always])
    if site.container == "apptainer":  # it starts in the current directory, the job's
        return [], ["apptainer", "exec", *(["--nv"] if num_gpus(cfg, job) else []), "--bind", mounts, image]
    return [f"--container-image={image}", f"--container-mounts={mounts}", f"--container-workdir={code}"], []


def shell(cfg: Config, run_dir: Path, job: Job, code: Path) -> str:
    """What stage.sh sources (job.env): plain assignments and functions, every value quoted.

    `prepare` runs the site's modules and setup lines. The line that runs is in $at, and is there still when it fails.
    """
    site, own = cfg.cluster, section(cfg, job)
    srun, before = container(cfg, run_dir, job, code)
    prepare = [f"module load {shlex.quote(m)}" for m in (*site.modules, *own.modules)] + list(site.setup)
    if site.interface and job.kind == "train":
        name = shlex.quote(site.interface)
        prepare += [f"export NCCL_SOCKET_IFNAME={name} GLOO_SOCKET_IFNAME={name}"]
    if srun or before:  # packages of the user's home directory belong to another Python than the image's
        prepare += ["export PYTHONNOUSERSITE=1"]
    lines = [
        "# written at submit; read by slurm/stage.sh",
        f"ROOT={shlex.quote(str(code))}",
        f"PYTHON=({shlex.join([*before, python(cfg, job)])})",
        f"MAX_RESTARTS={site.max_restarts}",
        f"RETRIES={site.retries}",
        f"LEASE={EXPIRES}",
        f"OTHER_NODES={site.other_nodes}",
        f"EXCLUDED={shlex.quote(','.join(site.exclude))}",
        f"KIND={job.kind}",
        f"ARRAY={1 if job.shards else 0}",
        f"CONTAINER=({shlex.join(srun)})",
        "prepare() {",
        *(f"    at={shlex.quote(line)}\n    {line}\n    ended=$?; [ $ended = 0 ] || return $ended" for line in prepare),
        "    at=",
        "}",
    ]
    return "\n".join(lines) + "\n"

"""The config section `cluster`: a Slurm site and what its jobs ask for. All of it is execution, nothing enters a fingerprint."""

from dataclasses import dataclass

from nemo_srlm.config.fields import choice, number, section, setting
from nemo_srlm.errors import ConfigError


@dataclass
class RequestSection:
    """What every site may want to know of a job. "" = not asked; in a kind of job (`cluster.train`): the site's value."""

    partition: str = setting("")
    account: str = setting("")
    qos: str = setting("")
    reservation: str = setting("")
    constraint: str = setting("")
    licenses: str = setting("", "as in --licenses=NAME:COUNT,...")
    nice: str = setting("", "lower priority by so much", pattern="(-?[0-9]+)?", allowed='a whole number, or ""')
    mail_user: str = setting("", "who gets mail")
    mail_type: str = setting("", "about what, e.g. FAIL,TIME_LIMIT")


@dataclass
class JobSection(RequestSection):
    """What the jobs of one kind of stage ask for, in addition to what every job asks for. "" and 0: not asked."""

    time: str = setting(
        "24:00:00", "Slurm's time limit; a stage that needs longer saves, is requeued and resumes",
        pattern="[0-9]+(:[0-9]+){0,2}|[0-9]+-[0-9]+(:[0-9]+){0,2}", allowed="M, M:S, H:M:S, D-H, D-H:M or D-H:M:S (M minutes)",
    )  # fmt: skip
    cpus: int = number(0, "per task", at_least=0)
    memory: str = setting(
        "", "per node, e.g. 64G; 0 = all of it",
        pattern="([0-9]+[KMGTkmgt]?)?", allowed='a whole number, with K, M, G or T behind it or none (megabytes); or ""',
    )  # fmt: skip
    gpus: int = number(
        -1,
        "per node; -1 = as needed (train: gpus_per_node, generate: replicas x tensor_parallel, else none)",
        at_least=-1,
    )
    exclusive: bool = setting(False, "whole nodes")
    modules: list[str] = setting([], "environment modules, after cluster.modules")
    python: str = setting("", 'the interpreter of these jobs; "" = cluster.python')
    image: str = setting("", 'container image; "" = cluster.image; "none" = no container')
    mounts: list[str] = setting([], "FROM:TO, mounted in the container after cluster.mounts")
    flags: list[str] = setting([], "more sbatch flags, after cluster.flags")


@dataclass
class HangSection:
    """Seconds without progress after which an attempt is ended with a stack dump, per phase. 0 = never."""

    setup: int = number(1800, "until the first progress of a stage: imports, loading weights, compiling", at_least=0)
    work: int = number(1800, "between two progress updates", at_least=0)
    save: int = number(
        3600, "after the last item or step, and while a trainer saves or an export is verified", at_least=0
    )


@dataclass
class ClusterSection(RequestSection):
    """A Slurm site. The files of configs/cluster/ hold deltas: `cluster=dgx_h100`."""

    exclude: list[str] = setting([], "nodes never to use")
    gpus_per_node: int = number(0, at_least=0)
    gpu_type: str = setting("", "as in --gres=gpu:TYPE:N")
    flags: list[str] = setting(
        [], """more sbatch flags for every job, quoted where they hold `=`: 'cluster.flags=["--wckey=x"]'"""
    )
    modules: list[str] = setting([], "environment modules of every job")
    setup: list[str] = setting(
        [],
        "shell commands before every job (exports, ulimit, conda activate), a whole one each; one that fails ends the job",
        free=True,
    )
    python: str = setting("", 'the interpreter of the jobs; "" = the one that submits')
    container: str = choice(
        "pyxis", "apptainer", help="what starts images: srun's flags of pyxis (with enroot), or apptainer exec"
    )
    image: str = setting("", "container image of every job: what pyxis or Apptainer takes, a file or a registry's name")
    mounts: list[str] = setting(
        [], "FROM:TO, mounted in every container; the checkout and the run directory always are"
    )
    check_paths: bool = setting(
        True,
        "refuse to begin when an image, mount, interpreter or input is not on this machine, or an input is in no mount",
    )
    check_nodes: bool = setting(
        True, "a short job for each kind of stage checks its nodes first: packages, paths, GPUs; the stages wait for it"
    )
    snapshot: bool = setting(
        True,
        "jobs run a copy of the code as it was at submission, in the run directory; false = the checkout as it is then",
    )
    interface: str = setting(
        "", 'NCCL_SOCKET_IFNAME and GLOO_SOCKET_IFNAME of training; "" = what the site\'s modules or nodes set'
    )
    cache: str = setting(
        "/tmp", 'folder on the node for what Triton, vLLM and torch compile; "" = their own, in the home directory'
    )
    fuse: bool = setting(False, "neighbouring unsharded stages share a job and an engine: fewer jobs, less in parallel")
    max_tasks: int = number(0, "elements of an array that run at the same time; 0 = any number", at_least=0)
    max_jobs: int = number(
        0, "jobs and array tasks of yours that the site accepts at a time; 0 = what Slurm says, or refuses", at_least=0
    )
    warning: int = number(
        300, "seconds before the time limit at which a job is told to save (Slurm may be 60 s early)", at_least=0
    )
    max_restarts: int = number(20, "requeues of one job", at_least=0)
    retries: int = number(1, "further attempts, in the same job, after a crash or a hang", at_least=0)
    other_nodes: int = number(
        1, "requeues of a job that keeps failing where it runs, each without the node that failed first", at_least=0
    )
    max_replans: int = number(
        3, "times in a row, without progress in between, that the supervisor submits again what is left", at_least=0
    )
    hang: HangSection = section(HangSection)
    train: JobSection = section(JobSection)
    generate: JobSection = section(JobSection)
    convert: JobSection = section(lambda: JobSection(time="04:00:00"))
    cpu: JobSection = section(lambda: JobSection(time="04:00:00"))


# sbatch flags that a submission sets itself -> what sets them. Given again they would hide, move or break the jobs.
OWN_FLAGS = {
    "--job-name -J": "the run and the stage", "--comment": "what submit, status and cancel know a job by",
    "--output -o": "`nemo-srlm logs`", "--error -e": "`nemo-srlm logs`, which shows both streams in one file",
    "--open-mode": "a log that every attempt appends to", "--chdir -D": "the checkout",
    "--nodes -N": "parallel.nodes", "--ntasks -n": "one task per node", "--ntasks-per-node": "one task per node",
    "--array -a": "the stage's shards and cluster.max_tasks", "--dependency -d": "the stages that a stage reads",
    "--kill-on-invalid-dep": "a failure cancels what depends on it", "--signal": "cluster.warning",
    "--time -t": "cluster.KIND.time", "--gres": "cluster.KIND.gpus and cluster.gpu_type",
    "--cpus-per-task -c": "cluster.KIND.cpus", "--mem": "cluster.KIND.memory", "--exclusive": "cluster.KIND.exclusive",
    "--exclude -x": "cluster.exclude", "--partition -p": "cluster.partition", "--account -A": "cluster.account",
    "--qos -q": "cluster.qos", "--reservation": "cluster.reservation", "--constraint -C": "cluster.constraint",
    "--licenses -L": "cluster.licenses", "--nice": "cluster.nice", "--mail-user": "cluster.mail_user",
    "--mail-type": "cluster.mail_type", "--export": "the environment that submits", "--wrap": "slurm/stage.sh",
    "--parsable": "the submission", "--test-only": "`nemo-srlm plan`",
    "--clusters -M": "export SLURM_CLUSTERS=NAME, which squeue, scancel and sacct follow, too",
}  # fmt: skip
_SET_BY = {name: words for names, words in OWN_FLAGS.items() for name in names.split()}


def check_flags(cluster: ClusterSection) -> None:
    """Raises ConfigError for a flag that a submission sets itself, and for what is no flag."""
    kinds = {"train": cluster.train, "generate": cluster.generate, "convert": cluster.convert, "cpu": cluster.cpu}
    places = {"cluster.flags": cluster.flags} | {f"cluster.{kind}.flags": own.flags for kind, own in kinds.items()}
    for key, flags in places.items():
        for flag in flags:
            name = flag.split("=")[0].split()[0] if flag.strip() else ""
            name = name if name.startswith("--") else name[:2]
            if not name.startswith("-"):
                raise ConfigError(
                    key, repr(flag), "one sbatch flag, with its value behind `=`", f"'{key}=[\"--wckey=x\"]'"
                )
            # sbatch takes the beginning of a long flag for the flag
            if taken := [
                words for own, words in _SET_BY.items() if own == name or (name[:2] == "--" and own.startswith(name))
            ]:
                raise ConfigError(key, f"{name} is set by every submission", "another flag", f"see instead: {taken[0]}")

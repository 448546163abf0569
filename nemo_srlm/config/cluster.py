"""The config section `cluster`: a Slurm site and what its jobs ask for. All of it is execution, nothing enters a fingerprint."""

from dataclasses import dataclass

from nemo_srlm.config.fields import choice, number, section, setting


@dataclass
class JobSection:
    """What the jobs of one kind of stage ask for, in addition to what every job asks for. "" and 0: not asked."""

    time: str = setting(
        "24:00:00", "Slurm's time limit; a stage that needs longer saves, is requeued and resumes",
        pattern="[0-9]+(:[0-9]+){0,2}|[0-9]+-[0-9]+(:[0-9]+){0,2}", allowed="M, M:S, H:M:S, D-H, D-H:M or D-H:M:S (M minutes)",
    )  # fmt: skip
    partition: str = setting("", '"" = cluster.partition')
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
class ClusterSection:
    """A Slurm site. The files of configs/cluster/ hold deltas: `cluster=dgx_h100`."""

    partition: str = setting("")
    account: str = setting("")
    qos: str = setting("")
    constraint: str = setting("")
    exclude: list[str] = setting([], "nodes never to use")
    gpus_per_node: int = number(0, at_least=0)
    gpu_type: str = setting("", "as in --gres=gpu:TYPE:N")
    flags: list[str] = setting([], "more sbatch flags for every job")
    modules: list[str] = setting([], "environment modules of every job")
    setup: list[str] = setting(
        [],
        "shell commands before every job (exports, ulimit, conda activate), a whole one each; one that fails ends the job",
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
        True, "refuse to submit when an image, mount or interpreter is not on this machine, or an input is in no mount"
    )
    interface: str = setting("", 'NCCL_SOCKET_IFNAME and GLOO_SOCKET_IFNAME of training; "" = not set')
    fuse: bool = setting(False, "neighbouring unsharded stages share a job and an engine: fewer jobs, less in parallel")
    max_tasks: int = number(0, "elements of an array that run at the same time; 0 = any number", at_least=0)
    warning: int = number(
        300, "seconds before the time limit at which a job is told to save (Slurm may be 60 s early)", at_least=0
    )
    max_restarts: int = number(20, "requeues of one job", at_least=0)
    retries: int = number(1, "further attempts, in the same job, after a crash or a hang", at_least=0)
    max_replans: int = number(3, "times that the supervisor submits again what a node failure left undone", at_least=0)
    hang: HangSection = section(HangSection)
    train: JobSection = section(JobSection)
    generate: JobSection = section(JobSection)
    convert: JobSection = section(lambda: JobSection(time="04:00:00"))
    cpu: JobSection = section(lambda: JobSection(time="04:00:00"))

"""The config section `cluster`: how a run meets a Slurm site. All of it is execution: none of it enters a fingerprint."""

from dataclasses import dataclass, field


@dataclass
class JobSection:
    """What the jobs of one kind of stage ask for, beside what is asked for all. "" and 0 = not asked."""

    time: str = "24:00:00"  # Slurm's time limit; a stage that needs longer saves, is requeued and resumes
    partition: str = ""  # "" = cluster.partition
    cpus: int = 0  # per task
    memory: str = ""  # per node, e.g. 64G; 0 = all of it
    gpus: int = -1  # per node; -1 = as needed (train: gpus_per_node, generate: replicas x tensor_parallel, else none)
    exclusive: bool = False
    modules: list[str] = field(default_factory=list)  # environment modules, after cluster.modules
    image: str = ""  # pyxis --container-image; "" = cluster.image; "none" = no container
    mounts: list[str] = field(default_factory=list)  # pyxis --container-mounts, after cluster.mounts
    flags: list[str] = field(default_factory=list)  # more sbatch flags, after cluster.flags


@dataclass
class HangSection:
    """Seconds without progress after which an attempt is ended with a stack dump, per phase. 0 = never."""

    setup: int = 1800  # until the first progress of a stage: imports, loading weights, compiling
    work: int = 1800  # between two progress updates
    save: int = 3600  # after the last item or step, and while the trainer reports phase=save


@dataclass
class ClusterSection:
    """A site. Files of configs/cluster/ hold deltas: `cluster=dgx_h100`."""

    partition: str = ""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    exclude: list[str] = field(default_factory=list)  # nodes never to use
    gpus_per_node: int = 0
    gpu_type: str = ""  # as in --gres=gpu:TYPE:N
    flags: list[str] = field(default_factory=list)  # more sbatch flags for every job
    modules: list[str] = field(default_factory=list)
    setup: list[str] = field(default_factory=list)  # shell lines before every attempt (exports, ulimit)
    python: str = ""  # the interpreter of the jobs; "" = the one that submits
    image: str = ""  # pyxis image of every job
    mounts: list[str] = field(default_factory=list)  # the checkout and the run directory are mounted anyhow
    interface: str = ""  # NCCL_SOCKET_IFNAME and GLOO_SOCKET_IFNAME of training; "" = left alone
    fuse: bool = False  # neighbouring unsharded stages share a job (and an engine); fewer queues, less in parallel
    max_tasks: int = 0  # elements of an array that run at the same time; 0 = any number
    warning: int = 300  # seconds before the time limit at which a job is told to save (Slurm may be 60 s early)
    max_restarts: int = 20  # requeues of one job
    retries: int = 1  # further attempts, in the same job, after a crash or a hang
    max_replans: int = 3  # times that the supervisor submits again what a node failure left
    hang: HangSection = field(default_factory=HangSection)
    train: JobSection = field(default_factory=JobSection)
    generate: JobSection = field(default_factory=JobSection)
    convert: JobSection = field(default_factory=lambda: JobSection(time="04:00:00"))
    cpu: JobSection = field(default_factory=lambda: JobSection(time="04:00:00"))

"""The GPUs that stages need on this machine: asked before a local run starts, so that it does not fail in a worker hours in."""

from collections.abc import Iterable

from nemo_srlm.config.schema import Config
from nemo_srlm.core.stage import Ref
from nemo_srlm.errors import ConfigError
from nemo_srlm.generate.replicas import num_replicas, on_engine
from nemo_srlm.launch.plan import step_of
from nemo_srlm.stages import load


def gpus_of_shard(ref: Ref, cfg: Config) -> int:
    """GPUs of one shard of a generating stage: of all its engines. 0 where an endpoint generates."""
    stage = load(ref.stage)
    return num_replicas(stage, cfg) * cfg.generate.tensor_parallel if on_engine(stage, cfg) else 0


def check_gpus(cfg: Config, refs: Iterable[Ref], here: int) -> None:
    """Raises ConfigError for the first stage that needs more than the `here` GPUs of this machine; on one without, none does."""
    for ref in refs if here else ():
        step = step_of(cfg, ref)
        if step.kind == "train" and cfg.parallel.processes > here:
            raise ConfigError(
                "parallel.processes", f"{cfg.parallel.processes}, and {ref} trains on this machine's {here} GPUs",
                "a GPU for every process", f"set parallel.processes={here} and a layout for it",
            )  # fmt: skip
        if step.kind == "generate" and (wanted := step.num_shards * gpus_of_shard(ref, cfg)) > here:
            raise ConfigError(
                "generate.replicas", f"{wanted} GPUs for the engines of {ref}, {here} here",
                "at most the GPUs of this machine",
                "lower generate.replicas, generate.tensor_parallel or the stage's shards",
            )  # fmt: skip

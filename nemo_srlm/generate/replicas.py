"""Replicas: several engines that share a shard of a stage. How many, on which GPUs, and which items each of them does.

With R replicas, shard k of n is done by R processes with the shards k, k + n, ... k + (R - 1) n of n x R. An item belongs
to a shard by its position, so together they do exactly the items of shard k of n.
"""

import itertools
import os
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from nemo_srlm.config.schema import Config
from nemo_srlm.core.stage import Stage
from nemo_srlm.errors import ConfigError


def on_engine(stage: Stage, cfg: Config) -> bool:
    """Whether the stage generates by an engine here, and not by an endpoint."""
    return stage.kind == "generate" and stage.name not in cfg.api.stages


def num_replicas(stage: Stage, cfg: Config) -> int:
    """Engines per shard of the stage: 1 where it cannot be sharded, or where an endpoint generates."""
    return cfg.generate.replicas if on_engine(stage, cfg) and stage.can_shard else 1


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, by CUDA's names; [] on a machine without."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        names = [name.strip() for name in named.split(",") if name.strip()]
        # CUDA's list ends at the first name that is none; -1 and NoDevFiles are what hides all GPUs
        return list(itertools.takewhile(lambda name: name != "NoDevFiles" and not name.startswith("-"), names))
    return [str(i) for i in range(len(list(Path("/dev").glob("nvidia[0-9]*"))))]


def usable_gpus() -> list[str]:
    """`visible_gpus`, of which the CPU build of torch uses none: a laptop with a GPU runs the demo on its cores."""
    return [] if torch_is_for_cpus() else visible_gpus()


def torch_is_for_cpus() -> bool:
    """By its version, since importing it takes seconds."""
    try:
        return metadata.version("torch").endswith("+cpu")
    except metadata.PackageNotFoundError:
        return False


def gpus_of(index: int, num: int, each: int, gpus: Sequence[str]) -> dict[str, str]:
    """Environment that gives engine (or shard) `index` of `num` its `each` GPUs of `gpus`; {} on a machine without GPUs.

    Raises ConfigError when there are too few.
    """
    if not gpus:
        return {}
    if num * each > len(gpus):
        raise ConfigError(
            "generate.replicas", f"{num} engines (or shards) side by side on {each} GPUs each, {len(gpus)} GPUs here",
            f"{num * each} GPUs", "lower generate.replicas, generate.tensor_parallel or the stage's shards",
        )  # fmt: skip
    return {"CUDA_VISIBLE_DEVICES": ",".join(gpus[index * each : (index + 1) * each])}


def shards_of(shard: int, num_shards: int, replicas: int) -> list[tuple[int, int]]:
    """(shard, number of shards) per replica. The first keeps the shard's own number: its progress is the one shown."""
    return [(shard + r * num_shards, num_shards * replicas) for r in range(replicas)]

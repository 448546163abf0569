"""Builds every rank's model of a parallel layout without GPUs: on meta tensors, with a fake process group, and checks it.

    python -m tools.meta_layouts                                  the 70B configs, all ranks
    python -m tools.meta_layouts --first-replica llama2_70b       one data-parallel replica (the others are equal)

Checked: the ranks' checkpoint shards (Megatron's own sharding) tile every tensor of the model exactly once; each rank
has as many parameters as `nemo-srlm estimate` says; all ranks together have as many as the architecture. Without
Transformer Engine the layers are Megatron's local ones: norms then differ in name and shape, matrices do not.
"""

import argparse
import json
import math
import sys
import time
from typing import Any

from nemo_srlm.config.compose import compose
from nemo_srlm.config.schema import Config
from nemo_srlm.train import estimate
from nemo_srlm.train.layout import check_batches, check_layout, world_size
from nemo_srlm.train.megatron.quiet import quiet

Shards = dict[
    str, dict[tuple[int, ...], tuple[tuple[int, ...], tuple[int, ...]]]
]  # key -> offset -> global, local shape


def build(cfg: Config, rank: int, dropout: float) -> tuple[int, int, list[Any]]:
    """(pipeline stage, number of parameters, sharded tensors) of one rank."""
    import torch
    import torch.distributed as dist
    from megatron.core import parallel_state
    from megatron.core.dist_checkpointing.dict_utils import nested_values
    from megatron.core.dist_checkpointing.mapping import ShardedTensor, apply_factories
    from torch.testing._internal.distributed.fake_pg import FakeStore

    from nemo_srlm.train.megatron import accelerator, checkpoint, setup
    from nemo_srlm.train.megatron.model import build_model

    p = cfg.parallel
    accelerator.prepare(1)
    dist.init_process_group("fake", rank=rank, world_size=world_size(p), store=FakeStore())
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=p.tensor,
        pipeline_model_parallel_size=p.pipeline,
        virtual_pipeline_model_parallel_size=p.virtual_pipeline if p.virtual_pipeline > 1 else None,
        context_parallel_size=p.context,
        create_gloo_process_groups=False,
    )
    setup.seed_everything(0, 0)
    with torch.device("meta"):
        chunks = build_model(cfg.model, p, cfg.precision, dropout)
    state = checkpoint.model_state(chunks)
    apply_factories(state)
    shards = [value for value in nested_values(state) if isinstance(value, ShardedTensor)]
    count = sum(parameter.numel() for chunk in chunks for parameter in chunk.parameters())
    stage = parallel_state.get_pipeline_model_parallel_rank()
    setup.shutdown()
    return stage, count, shards


def check(cfg: Config, name: str, first_replica: bool) -> dict[str, Any]:
    """Builds the ranks of one config for one training stage. Raises ValueError if a shard is missing or wrong."""
    check_layout(cfg.model, cfg.parallel)
    section = getattr(cfg, name)
    check_batches(name, section, cfg.parallel)
    p = cfg.parallel
    replicas = world_size(p) // (p.tensor * p.context * p.pipeline)
    held: Shards = {}
    copies: dict[tuple[str, tuple[int, ...]], int] = {}
    ranks = 0
    for rank in range(world_size(p)):
        # Megatron's order of ranks: tensor, context, data, pipeline
        if first_replica and rank // p.tensor % (p.context * replicas):
            continue
        ranks += 1
        stage, count, shards = build(cfg, rank, section.dropout)
        wanted = estimate.stage_parameters(cfg.model, p, stage)
        if count != wanted:
            raise ValueError(f"rank {rank} (stage {stage}) has {count} parameters, expected {wanted}")
        for shard in shards:
            known = held.setdefault(shard.key, {})
            shapes = (tuple(shard.global_shape), tuple(shard.local_shape))
            if known.setdefault(tuple(shard.global_offset), shapes) != shapes:
                raise ValueError(f"{shard.key} at {shard.global_offset}: {shapes}, on another rank {known}")
            place = (shard.key, tuple(shard.global_offset))
            copies[place] = copies.get(place, 0) + 1
    total = 0
    for key, parts in held.items():
        (whole,) = {shapes[0] for shapes in parts.values()}
        if sum(math.prod(local) for _, local in parts.values()) != math.prod(whole):
            raise ValueError(f"{key}: the shards do not tile {whole}")
        total += math.prod(whole)
    if total != estimate.total_parameters(cfg.model):
        raise ValueError(f"{total} parameters in all, expected {estimate.total_parameters(cfg.model)}")
    return {"ranks": ranks, "of": world_size(p), "parameters": total, "tensors": len(held), "shards": len(copies)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="*", default=["llama2_70b", "llama2_70b_fp8", "llama3_70b"])
    parser.add_argument("--stages", nargs="*", default=["sft", "dpo"])
    parser.add_argument("--first-replica", action="store_true")
    args = parser.parse_args()
    quiet()
    for config in args.configs:
        for stage in args.stages:
            started = time.process_time()
            found = check(compose(config), stage, args.first_replica)
            seconds = round(time.process_time() - started, 1)
            print(json.dumps({"config": config, "stage": stage, **found, "cpu_seconds": seconds}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

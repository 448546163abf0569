"""The rules of a parallel layout and its batches, checked before anything heavy is imported. Imports no torch."""

from nemo_srlm.config.fp8 import recipes_of
from nemo_srlm.config.training import ModelSection, ParallelSection, PrecisionSection, TrainSection, check_heads
from nemo_srlm.errors import ConfigError
from nemo_srlm.train.packing import round_up


def world_size(parallel: ParallelSection) -> int:
    return parallel.nodes * parallel.processes


def data_parallel_size(parallel: ParallelSection) -> int:
    """Data-parallel replicas: processes / (tensor x pipeline x context). Call `check_layout` first."""
    return world_size(parallel) // (parallel.tensor * parallel.pipeline * parallel.context)


def padded_vocab_size(model: ModelSection, tensor: int) -> int:
    """Rows of the embedding table: `vocab_size` padded to a multiple of `vocab_multiple` x tensor-parallel size."""
    return round_up(model.vocab_size, model.vocab_multiple * tensor)


def check_layout(model: ModelSection, parallel: ParallelSection) -> None:
    """Raises ConfigError for an impossible layout, naming the rule that it breaks."""

    def rule(ok: bool, field: str, found: str, expected: str, remedy: str = "") -> None:
        if not ok:
            raise ConfigError(f"parallel.{field}", found, expected, remedy)

    p, m = parallel, model
    block = p.tensor * p.pipeline * p.context
    rule(
        world_size(p) % block == 0, "processes",
        f"{p.nodes} x {p.processes} processes for tensor {p.tensor} x pipeline {p.pipeline} x context {p.context} = {block}",
        "a multiple of that product", "change parallel.processes or the layout",
    )  # fmt: skip
    check_heads(m)
    for name in ("num_attention_heads", "num_query_groups", "ffn_hidden_size", "hidden_size"):
        value = getattr(m, name)
        rule(value % p.tensor == 0, "tensor", f"{p.tensor}", f"a divisor of model.{name} {value}")
    chunks = p.pipeline * p.virtual_pipeline
    rule(
        m.num_layers % chunks == 0, "pipeline",
        f"pipeline {p.pipeline} x virtual_pipeline {p.virtual_pipeline} = {chunks}",
        f"a divisor of model.num_layers {m.num_layers}",
    )  # fmt: skip
    rule(
        p.virtual_pipeline == 1 or p.pipeline > 1, "virtual_pipeline", f"{p.virtual_pipeline} with pipeline 1",
        "pipeline of at least 2", "set parallel.virtual_pipeline=1",
    )  # fmt: skip
    rule(
        not p.sequence or p.tensor > 1, "sequence", "true with tensor 1", "tensor parallelism of at least 2",
        "set parallel.sequence=false",
    )  # fmt: skip


def check_batches(name: str, section: TrainSection, parallel: ParallelSection) -> None:
    """Raises ConfigError unless the global batch divides over replicas, micro-batches and pipeline stages.

    Rows that are filled to a budget are at most as many as there are examples, so the rules of micro_batch 1 are theirs.
    """
    replicas = data_parallel_size(parallel)
    if section.max_tokens_per_row and section.micro_batch > 1:
        raise ConfigError(
            f"{name}.max_tokens_per_row", f"{section.max_tokens_per_row} with micro_batch {section.micro_batch}",
            "micro_batch 1: the tokens decide how many examples a row holds",
            f"set {name}.micro_batch=1, or {name}.max_tokens_per_row=0",
        )  # fmt: skip
    if section.max_tokens_per_row and not (section.packing or parallel.context > 1):
        raise ConfigError(
            f"{name}.max_tokens_per_row", f"{section.max_tokens_per_row} with packing false", "packing",
            f"set {name}.packing=true, or {name}.max_tokens_per_row=0",
        )  # fmt: skip
    if section.global_batch % (replicas * section.micro_batch):
        raise ConfigError(
            f"{name}.global_batch", f"{section.global_batch}",
            f"a multiple of replicas {replicas} x micro_batch {section.micro_batch}", f"change {name}.micro_batch",
        )  # fmt: skip
    num_micro = section.global_batch // (replicas * section.micro_batch)
    if parallel.virtual_pipeline > 1 and num_micro % parallel.pipeline:
        raise ConfigError(
            f"{name}.micro_batch", f"{num_micro} micro-batches a step",
            f"a multiple of parallel.pipeline {parallel.pipeline} (the interleaved schedule)",
        )  # fmt: skip


def check_kernels(parallel: ParallelSection, precision: PrecisionSection, *, transformer_engine: bool) -> None:
    """Raises ConfigError for kernels of Transformer Engine that are asked for where it does not compute."""
    asked = (
        ("parallel.tp_comm_overlap", parallel.tp_comm_overlap, "false"),
        ("precision.cross_entropy", precision.cross_entropy == "te", "unfused"),
        ("precision.cuda_graphs", precision.cuda_graphs != "none", "none"),
    )
    for key, wanted, other in asked:
        if wanted and not transformer_engine:
            raise ConfigError(
                key, "Transformer Engine's kernel, on a machine without it or without a GPU", "a GPU with Transformer Engine",
                f"set {key}={other}",
            )  # fmt: skip


def check_shared_prefix(*, packed: bool, transformer_engine: bool) -> None:
    """Raises ConfigError for dpo.shared_prefix without packs, or where Transformer Engine computes the attention."""
    if transformer_engine:
        raise ConfigError(
            "dpo.shared_prefix", "true on a GPU, where Transformer Engine's fused attention has no mask for such rows",
            "training on a CPU", "set dpo.shared_prefix=false",
        )  # fmt: skip
    if not packed:
        raise ConfigError(
            "dpo.shared_prefix", "true with dpo.packing=false", "dpo.packing=true: prompt and responses share a row",
            "set dpo.packing=true, or dpo.shared_prefix=false",
        )  # fmt: skip


def check_precision(
    precision: PrecisionSection, *, transformer_engine: bool, capability: tuple[int, int] | None
) -> None:
    """Raises ConfigError for FP8 that this machine cannot compute in. What contradicts itself: config.fp8.check_fp8.

    `capability`: the GPU's compute capability, None without a GPU.
    """
    if precision.fp8 == "none":
        return
    here = () if capability is None else recipes_of(capability)
    if not (transformer_engine and here):
        missing = (
            "no GPU" if capability is None else "a GPU without FP8" if transformer_engine else "no Transformer Engine"
        )
        raise ConfigError("precision.fp8", f"{precision.fp8} on a machine with {missing}",
                          "an H100 class GPU with Transformer Engine", "set precision.fp8=none")  # fmt: skip
    if precision.fp8_recipe not in here:
        version = ".".join(map(str, capability or ()))
        raise ConfigError(
            "precision.fp8_recipe", f"{precision.fp8_recipe} on a GPU of compute capability {version}",
            f"{' or '.join(here)}, which this GPU computes", f"set precision.fp8_recipe={here[-1]}",
        )  # fmt: skip

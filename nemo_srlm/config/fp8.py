"""FP8 settings that contradict each other, the layout or the model, refused on any machine; and what each recipe needs."""

from nemo_srlm.config.training import ModelSection, ParallelSection, PrecisionSection
from nemo_srlm.errors import ConfigError


def fp8_multiple(parallel: ParallelSection, precision: PrecisionSection) -> int:
    """What an FP8 matrix product needs the number of a rank's positions to be a multiple of; 1 without FP8."""
    if precision.fp8 == "none":
        return 1
    if precision.fp8_recipe != "mxfp8":
        return 16
    # it scales blocks of 32 along both dimensions; Transformer Engine's user buffers exchange the scales of 128 rows together
    return 128 if parallel.tp_comm_overlap else 32


def recipes_of(capability: tuple[int, int]) -> tuple[str, ...]:
    """The FP8 recipes that Transformer Engine computes on a GPU of this compute capability."""
    found: tuple[str, ...] = ("delayed", "tensorwise") if capability >= (8, 9) else ()
    found += ("blockwise",) if capability >= (9, 0) else ()
    return found + (("mxfp8",) if (10, 0) <= capability < (12, 0) else ())


def check_fp8(
    model: ModelSection, parallel: ParallelSection, precision: PrecisionSection, imported_policy: bool = False
) -> None:  # fmt: skip
    """Raises ConfigError for FP8 settings that contradict each other or the layout, on any machine.

    imported_policy: whether DPO begins with weights that no training of the run has made.
    """
    if precision.fp8 == "none":
        if precision.fp8_param_gather:
            raise ConfigError(
                "precision.fp8_param_gather", "true without FP8", "precision.fp8=hybrid or e4m3",
                "set precision.fp8, or precision.fp8_param_gather=false",
            )  # fmt: skip
        return
    if precision.fp8_param_gather:
        _check_fp8_weights(parallel, precision)
    _check_widths(model, parallel, precision)
    if parallel.tp_comm_overlap and precision.fp8_recipe == "blockwise":
        raise ConfigError(
            "parallel.tp_comm_overlap", "true with precision.fp8_recipe blockwise",
            "another recipe: Transformer Engine's user buffers exchange no activations that are scaled in blocks",
            "set parallel.tp_comm_overlap=false, or another precision.fp8_recipe",
        )  # fmt: skip
    kept, stage = precision.fp8_bf16_layers, max(1, model.num_layers // parallel.pipeline)  # 0: refused as a layout
    if precision.dtype != "bf16":
        raise ConfigError("precision.dtype", f"{precision.dtype} with fp8 {precision.fp8}", "bf16")
    if precision.fp8_recipe == "delayed" and kept:
        raise ConfigError(
            "precision.fp8_bf16_layers", f"{kept} with fp8_recipe delayed",
            "0: Megatron's delayed scaling cannot keep first and last layers in bf16",
            "set precision.fp8_bf16_layers=0 or another precision.fp8_recipe",
        )  # fmt: skip
    if precision.fp8_recipe == "delayed" and imported_policy:
        raise ConfigError(
            "precision.fp8_recipe", "delayed with run.start=instruct and eft.source=none",
            "another recipe: scales are learnt in training alone, so the reference of an imported model has none (all are 1)",
            "set precision.fp8_recipe=tensorwise",
        )  # fmt: skip
    if kept > stage:
        raise ConfigError(
            "precision.fp8_bf16_layers", f"{kept} with {stage} layers per pipeline stage",
            f"at most {stage}: Megatron keeps layers of the first and the last stage", "lower it or parallel.pipeline",
        )  # fmt: skip


def _check_fp8_weights(parallel: ParallelSection, precision: PrecisionSection) -> None:
    """What weights in FP8 alone need: an optimizer that has the exact ones, and a recipe whose weights can be exchanged."""
    if not parallel.distributed_optimizer:
        raise ConfigError(
            "precision.fp8_param_gather", "true with parallel.distributed_optimizer=false",
            "the distributed optimizer: Megatron's other one has no exact weights beside FP8 ones",
            "set parallel.distributed_optimizer=true, or precision.fp8_param_gather=false",
        )  # fmt: skip
    if precision.fp8_recipe == "mxfp8":
        raise ConfigError(
            "precision.fp8_param_gather", "true with precision.fp8_recipe mxfp8",
            "delayed, tensorwise or blockwise: Megatron gathers MXFP8 weights in bf16, so nothing is saved",
            "set another precision.fp8_recipe, or precision.fp8_param_gather=false",
        )  # fmt: skip


def _check_widths(model: ModelSection, parallel: ParallelSection, precision: PrecisionSection) -> None:
    """Both sides of every matrix of a layer, as a tensor-parallel rank has it: cuBLAS's FP8 products take multiples of 16."""
    needed = 32 if precision.fp8_recipe == "mxfp8" else 16
    shared = parallel.tensor
    if any(n % shared for n in (model.ffn_hidden_size, model.num_attention_heads, model.num_query_groups)):
        return  # no layout at all: train.layout says so
    widths = (
        ("model.hidden_size", model.hidden_size),
        ("model.ffn_hidden_size", model.ffn_hidden_size // shared),
        ("model.num_attention_heads", model.query_size // shared),
        ("model.num_query_groups", (model.query_size + 2 * model.kv_size) // shared),
    )
    for key, width in widths:
        if width % needed:
            lower = ", or lower parallel.tensor" if shared > 1 and key != "model.hidden_size" else ""
            raise ConfigError(
                key, f"a matrix of {width} per rank with fp8 {precision.fp8}, fp8_recipe {precision.fp8_recipe}, tensor {shared}",
                f"a multiple of {needed}", f"set precision.fp8=none{lower}",
            )  # fmt: skip

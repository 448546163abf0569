"""Transformer Engine's user buffers: what it exchanges tensor-parallel activations through while it multiplies."""

from nemo_srlm.config.training import ModelSection, ParallelSection, PrecisionSection


def start(model: ModelSection, parallel: ParallelSection, precision: PrecisionSection, row: int) -> None:
    """Allocates the buffers for rows of `row` positions. Call it after `setup.initialize`, before the first forward pass."""
    from transformer_engine.pytorch.module import base

    mode = base.UserBufferQuantizationMode
    modes = [mode.FP8] if precision.fp8 != "none" else [mode.NONE]
    if precision.fp8 != "none" and precision.fp8_bf16_layers:
        modes.append(mode.NONE)
    base.initialize_ub(
        shape=[row // parallel.context, model.hidden_size], tp_size=parallel.tensor, quantization_modes=modes,
        bootstrap_backend="nccl",
    )  # fmt: skip

"""Silences warnings of NeMo, Megatron and torch that a user can do nothing about, so that a worker's log is readable."""

import logging
import warnings

_HARMLESS = (
    r"(?s).*(Apex|apex|Transformer Engine|OneLogger|one_logger|ModelOpt).*",
    r"(?s).*validated against ConfigStore schema.*",
    r"(?s).*full scope is deprecated.*",  # Megatron's own default
    r"(?s).*grad attribute of a Tensor that is not a leaf.*",  # Megatron looks at shards of parameters
    r"(?s).*torch\.distributed\.(_all_gather_base|_reduce_scatter_base|all_gather_into_tensor).*",
)


def quiet() -> None:
    """Call before importing nemo or megatron."""
    for message in _HARMLESS:
        warnings.filterwarnings("ignore", message=message)
    for category in (FutureWarning, DeprecationWarning):
        warnings.filterwarnings("ignore", category=category)
    for name in ("nv_one_logger", "megatron", "torch.distributed", "torchao", "numexpr"):
        logging.getLogger(name).setLevel(logging.ERROR)

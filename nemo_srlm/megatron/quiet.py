"""Owns what NeMo, Megatron and torch may print into a worker's log: warnings that name nothing a user can mend."""

import logging
import os
import warnings


def quiet() -> None:
    """Call before importing nemo or megatron."""
    os.environ.setdefault("NEMO_TESTING", "1")  # hydra_runner: no command-line arguments file
    os.environ.setdefault("ONE_LOGGER_JOB_CATEGORY", "test")
    for message in (".*(Apex|apex|Transformer Engine|OneLogger|one_logger).*", ".*ModelOpt.*", ".*torch_dist.*"):
        warnings.filterwarnings("ignore", message=message)
    for category in (FutureWarning, DeprecationWarning):
        warnings.filterwarnings("ignore", category=category)
    for name in ("nv_one_logger", "megatron", "torch.distributed", "torchao", "numexpr"):
        logging.getLogger(name).setLevel(logging.ERROR)

"""The record of a model family: everything that the conversion must know of it."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_srlm.config.training import ModelSection
from nemo_srlm.convert.mapping import MegatronTensor


@dataclass(frozen=True)
class Family:
    """A model family. What training needs of it (head size, RoPE, ...) goes through the ModelSection that it reads."""

    name: str  # `model_type` in config.json, `model.family` in the project's config
    architecture: str  # the class in transformers, under `architectures` in config.json
    # config.json, and its path for messages -> architecture. Raises CheckpointError for options that are not supported.
    read_config: Callable[[dict[str, Any], Path], ModelSection]
    # the fields of config.json that follow from the architecture
    write_config: Callable[[ModelSection], dict[str, Any]]
    # every parameter of the model once, in the order of the layers
    megatron_tensors: Callable[[ModelSection], Iterator[MegatronTensor]]
    # names of HF tensors that follow from the config: an import counts and skips them
    ignored_hf_tensors: re.Pattern[str]

"""What several generators damage a copy of: an HF model directory, its checkpoint, and the directory of a finished run."""

import os
import shutil
from pathlib import Path

NAME = "BAD_INPUTS_STORE"


def store() -> Path:
    return Path(os.environ[NAME])


def copy(name: str) -> Path:
    """A copy in the working directory."""
    shutil.copytree(store() / name, name, symlinks=True)
    return Path(name)


def prepare(place: Path) -> None:
    """Makes all of them, once."""
    from nemo_srlm.convert.import_hf import import_hf
    from tests import synthetic_run
    from tests.unit import chat_families, tiny_llama

    os.environ[NAME] = str(place)
    tiny_llama.make(place / "hf", tiny_llama.SHAPES["gqa"], shards=2)
    tiny_llama.make(place / "whole", tiny_llama.SHAPES["gqa"])
    for name in ("hf", "whole"):
        chat_families.FAMILIES["llama_2_chat"].make(place / name)
    for name, family in chat_families.FAMILIES.items():
        family.make(place / "families" / name)
    import_hf(place / "hf", place / "mg")
    synthetic_run.build(place, "run")

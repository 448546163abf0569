"""The packages that stages need where they run: asked before a local run starts, so that it does not fail in a worker hours in.

Jobs on Slurm have environments of their own; there a worker says what it misses (errors.of_missing_package).
"""

import sys
from collections.abc import Iterable
from importlib.util import find_spec

from nemo_srlm.config.schema import Config
from nemo_srlm.core.stage import Ref
from nemo_srlm.errors import INSTALL, InstallError
from nemo_srlm.stages import load

TRAINING = ("torch", "megatron", "nemo", "tokenizers", "transformers")
NEEDS = {"train": TRAINING, "convert": TRAINING, "generate": ("torch", "vllm", "tokenizers", "transformers"), "cpu": ()}
TINY_WORLD = ("sentencepiece", "tokenizers")  # it trains its tokenizer
DISTRIBUTIONS = {
    "megatron": "megatron-core",
    "nemo": "nemo-toolkit[core]",
}  # where the name is another than the module's


def needed(cfg: Config, refs: Iterable[Ref]) -> dict[str, list[Ref]]:
    """Module -> the stages that import it. A stage that asks an endpoint needs no engine."""
    out: dict[str, list[Ref]] = {}
    for ref in refs:
        modules = () if ref.stage in cfg.api.stages else NEEDS[load(ref.stage).kind]
        for name in (*modules, *(TINY_WORLD if ref.stage == "world" else ())):
            out.setdefault(name, []).append(ref)
    return out


def check_packages(cfg: Config, refs: Iterable[Ref]) -> None:
    """Raises InstallError that names all packages that these stages would miss here."""
    absent = {name: stages for name, stages in needed(cfg, refs).items() if find_spec(name) is None}
    if absent:
        names = ", ".join(DISTRIBUTIONS.get(name, name) for name in absent)
        first = next(iter(absent.values()))[0]
        raise InstallError(
            sys.executable, f"{names}: not installed", f"what the stages from {first} on import", INSTALL
        )

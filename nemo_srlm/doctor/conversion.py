"""Checks of what is done with a trained model: export, import, logits, vLLM. All on the model of the check `sft`."""

import shutil
from pathlib import Path

from nemo_srlm.convert.import_hf import import_hf
from nemo_srlm.convert.verify import round_trip, verify
from nemo_srlm.core.files import read_json
from nemo_srlm.doctor.check import Failed, Figures, Place
from nemo_srlm.doctor.training import MODEL, run_stages, stage_directory
from nemo_srlm.errors import CheckpointError
from nemo_srlm.train.checkpoint_dir import latest


def _trained(place: Place) -> Path:
    found = latest(stage_directory(place, "bf16", "sft") / "checkpoint")
    if found is None:
        raise Failed("the check `sft` left no checkpoint")
    return found


def _exported(place: Place) -> Path:
    return stage_directory(place, "bf16", "export") / "hf"


def export(place: Place) -> Figures:
    """The stage `export`, which compares every tensor."""
    run_stages(place, "bf16", ("export",))
    card = read_json(_exported(place).with_name("hf.verification.json"))
    return {"tensors": card["round_trip"]["hf_tensors"], "dtype": card["round_trip"]["dtype"]}


def import_(place: Place) -> Figures:
    """The exported model again as a Megatron checkpoint."""
    target = place.directory / "imported"
    shutil.rmtree(target, ignore_errors=True)
    done = import_hf(_exported(place), target, expected=MODEL, overwrite=True)
    if different := round_trip(_exported(place), target, MODEL)["different"]:
        raise Failed(f"{len(different)} tensors differ: {different[:3]}")
    return {"parameters": done.num_parameters}


def logits(place: Place) -> Figures:
    return {"largest difference": _verified(place, "logits")["logits"]["max_abs"]}


def vllm(place: Place) -> Figures:
    """On two GPUs where there are as many: the engine of a large model is a process for each, which exchange activations."""
    gpus = min(2, len(place.machine.gpus)) or 1
    found = _verified(place, "vllm", gpus)["vllm"]
    shown: Figures = {name: value for name, value in found.items() if isinstance(value, int | float | str)}
    return shown | ({"GPUs": gpus} if place.machine.gpus else {})


def _verified(place: Place, level: str, vllm_gpus: int = 1) -> dict[str, dict[str, float]]:
    try:
        return verify(_exported(place), _trained(place), level=level, vllm_gpus=vllm_gpus)
    except CheckpointError as error:
        raise Failed(str(error)) from error

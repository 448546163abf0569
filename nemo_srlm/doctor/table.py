"""The checks of `nemo-srlm doctor`, in the order in which they run."""

from nemo_srlm.doctor import conversion, layer, system, training
from nemo_srlm.doctor.check import Check
from nemo_srlm.doctor.inventory import Machine


def _no_gpu(machine: Machine) -> str:
    """A laptop with a GPU, or a node on which the environment for CPUs was installed by mistake, is told so."""
    if machine.unused:
        return "the installed torch is a build for CPUs and uses no GPU (with `make venv-gpu` it would)"
    return "" if machine.gpus else "no NVIDIA GPU"


def _no_device(machine: Machine) -> str:
    """A GPU whose driver does not answer is a finding, not a machine without a GPU."""
    return "" if machine.devices else _no_gpu(machine)


def _no_transformer_engine(machine: Machine) -> str:
    absent = "" if machine.transformer_engine else _no_gpu(machine)
    return f"{absent}; Transformer Engine is not installed" if absent else ""


def _no_training(machine: Machine) -> str:
    """A login node with the GPU environment."""
    absent = _no_gpu(machine) if machine.transformer_engine else ""
    return f"{absent}; Transformer Engine, which is installed, trains on no CPU" if absent else ""


def _no_fp8(machine: Machine) -> str:
    return _no_gpu(machine) or ("" if machine.fp8_recipes else "the GPU has no FP8 (needs compute capability 8.9)")


def _no_neighbour(machine: Machine) -> str:
    return _no_gpu(machine) or ("" if machine.processes > 1 else "one GPU")


def _no_vllm(machine: Machine) -> str:
    return "" if machine.vllm else "vLLM is not installed"


TRAINED = ("sft",)
CHECKS = (
    Check("files", "locks, atomic renames and flushes where runs are written", system.files, 300),
    Check("gpu", "nvidia-smi and torch see the GPUs; bf16 products", system.gpu, 120, _no_device),
    Check("engine", "Transformer Engine can be imported", system.transformer_engine, 300, _no_transformer_engine),
    Check("collective", "all-reduce of all training processes", system.collective, 180),
    Check("sft", "bf16: pretraining and SFT by the launcher", training.sft, 900, _no_training),
    Check("dpo", "bf16: DPO, from ln 2", training.dpo, 600, _no_training, TRAINED),
    Check("layout", "bf16: SFT on tensor- and pipeline-parallel GPUs follows that on replicas", training.layout, 600,
          _no_neighbour, TRAINED),
    Check("fp8", "each FP8 recipe of this GPU follows bf16; DPO from ln 2", training.fp8, 1200, _no_fp8, TRAINED),
    Check("export", "Megatron -> HF, bit for bit", conversion.export, 300, after=TRAINED),
    Check("import", "HF -> Megatron, bit for bit", conversion.import_, 300, after=("export",)),
    Check("resume", "killed with -9 and resumed: the same weights and losses", training.resume, 900,
          after=("sft", "export"), quick=False),
    Check("logits", "logits of Megatron and transformers are equal", conversion.logits, 300, after=("export",)),
    Check("vllm", "greedy tokens of vLLM are those of transformers", conversion.vllm, 600, _no_vllm, ("export",), False),
    Check("layer", "a layer of Llama 2 70B: tokens/s and MFU", layer.check, 600, _no_gpu, quick=False),
)  # fmt: skip

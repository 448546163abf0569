"""Checks of training with Transformer Engine on a machine that has it installed but no GPU: no forward pass, all the rest.

    python -m tools.te_checks             every check, a line of JSON each; exit code 1 if one fails
    python -m tools.te_checks names       one of: names, recipes, weights, optimizer

names      names, shapes and sharded keys of the layers under several layouts are those of the conversion table
recipes    the four FP8 recipes x two formats build, and become the recipes of Transformer Engine that they name
weights    HF -> import -> load -> save -> export is bit-equal, in bf16 and with FP8 layers
optimizer  the state of FusedAdam is restored bit for bit, distributed or not

Transformer Engine asks for a GPU when its modules are built; here that question is answered with yes, and everything is
put on the CPU, as on any machine without a GPU (train/megatron/accelerator.py). How to build it: docs/measurements.md.
"""

import argparse
import contextlib
import dataclasses
import importlib.util
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch  # before Transformer Engine, which needs its libraries

from nemo_srlm.config.training import ModelSection, ParallelSection, PrecisionSection, TrainSection
from nemo_srlm.convert.families import table
from nemo_srlm.train.megatron.quiet import quiet

MODEL = ModelSection(
    num_layers=4, hidden_size=64, ffn_hidden_size=128, num_attention_heads=4, num_query_groups=2, vocab_size=128,
    max_length=64,
)  # fmt: skip
LAYOUTS = (
    ParallelSection(processes=1), ParallelSection(processes=2, tensor=2), ParallelSection(processes=2, pipeline=2),
    ParallelSection(processes=4, tensor=2, pipeline=2, virtual_pipeline=2, sequence=True),
)  # fmt: skip
FAMILIES = ("llama", "qwen2", "qwen3")  # mistral's tensors are llama's
Places = dict[str, set[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]]
RECIPES, FORMATS = ("delayed", "tensorwise", "blockwise", "mxfp8"), ("hybrid", "e4m3")
TRAIN = TrainSection(lr=1e-3, global_batch=8, max_length=64)


def precision_of(fp8: str = "none", recipe: str = "delayed") -> PrecisionSection:
    return PrecisionSection(dtype="bf16", fp8=fp8, fp8_recipe=recipe, fp8_bf16_layers=0 if recipe == "delayed" else 1)


@contextlib.contextmanager
def pretended_gpu() -> Iterator[None]:
    """While modules are built: the answers of an H100, though every tensor lies on the CPU."""
    from nemo_srlm.train.megatron import accelerator

    accelerator.prepare(1)
    with (
        mock.patch.object(torch.cuda, "is_available", return_value=True),
        mock.patch.object(torch.cuda, "get_device_capability", return_value=(9, 0)),
        mock.patch.object(torch.cuda, "get_device_properties", return_value=mock.Mock(multi_processor_count=132)),
    ):
        yield


@contextlib.contextmanager
def group(parallel: ParallelSection, rank: int = 0) -> Iterator[None]:
    """Megatron's parallel state of one rank. Several ranks are a fake group: nothing is sent."""
    import torch.distributed as dist
    from megatron.core import parallel_state
    from torch.testing._internal.distributed.fake_pg import FakeStore

    from nemo_srlm.train.megatron import accelerator, setup

    accelerator.prepare(1)
    if parallel.processes == 1:
        dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    else:
        dist.init_process_group("fake", rank=rank, world_size=parallel.processes, store=FakeStore())
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=parallel.tensor, pipeline_model_parallel_size=parallel.pipeline,
        virtual_pipeline_model_parallel_size=parallel.virtual_pipeline if parallel.virtual_pipeline > 1 else None,
        create_gloo_process_groups=False,
    )  # fmt: skip
    setup.seed_everything(0, 0)
    try:
        yield
    finally:
        setup.shutdown()


def build(parallel: ParallelSection, precision: PrecisionSection, model: ModelSection = MODEL) -> list[Any]:
    from nemo_srlm.train.megatron.model import build_model

    with pretended_gpu():
        return build_model(model, parallel, precision)


def shards(chunks: list[Any]) -> Places:
    """Sharded key -> (global shape, offset, local shape) of the parameters that a rank holds."""
    from megatron.core.dist_checkpointing.dict_utils import nested_values
    from megatron.core.dist_checkpointing.mapping import ShardedTensor, apply_factories

    from nemo_srlm.train.megatron import checkpoint

    state = checkpoint.model_state(chunks)
    apply_factories(state)
    found: Places = {}
    for value in nested_values(state):
        if isinstance(value, ShardedTensor):
            place = tuple(value.global_shape), tuple(value.global_offset), tuple(value.local_shape)
            found.setdefault(value.key, set()).add(place)
    return found


def names() -> dict[str, Any]:
    counts = {}
    for family, parallel in itertools.product(FAMILIES, LAYOUTS):
        model = dataclasses.replace(MODEL, family=family)
        held: Places = {}
        for rank in range(parallel.processes):
            with group(parallel, rank):
                for key, places in shards(build(parallel, precision_of(), model)).items():
                    held.setdefault(key, set()).update(places)
        _same_as_table(held, model, f"{family}, {parallel}")
        counts[family] = len(held)
    return {"keys": counts, "layouts": len(LAYOUTS)}


def _same_as_table(held: Places, model: ModelSection, where: str) -> None:
    expected = {(t.key, t.layer): t.shape for t in table.megatron_tensors(model)}
    keys = {key for key, _ in expected}
    if held.keys() != keys:
        raise ValueError(f"{where}: keys {sorted(held.keys() ^ keys)} are in one of model and table alone")
    for (key, layer), shape in expected.items():
        whole = {global_shape for global_shape, _, _ in held[key]}
        if whole != {(model.num_layers, *shape) if layer is not None else shape}:
            raise ValueError(f"{where}: {key} has the shape {whole}, in the table {shape}")


def recipes() -> dict[str, Any]:
    from megatron.core.fp8_utils import get_fp8_recipe

    found = {}
    with group(LAYOUTS[0]):
        for recipe, fp8 in itertools.product(RECIPES, FORMATS):
            (chunk,) = build(LAYOUTS[0], precision_of(fp8, recipe))
            made = get_fp8_recipe(chunk.config)
            if made.fp8_format.name.lower() != fp8:
                raise ValueError(f"{recipe} {fp8} becomes {made}")
            found[f"{recipe} {fp8}"] = type(made).__name__
    return found


def weights() -> dict[str, Any]:
    """The final weights of a training as they are saved, without a step in between."""
    from nemo_srlm.convert.export_hf import export_hf
    from nemo_srlm.convert.import_hf import import_hf
    from nemo_srlm.train.megatron import checkpoint
    from tests.unit import tiny_llama

    equal = {}
    fp8 = {"delayed": precision_of("hybrid"), "tensorwise": precision_of("hybrid", "tensorwise")}
    cases = [("llama", name, precision) for name, precision in fp8.items()]
    for family, name, precision in [*((family, "bf16", precision_of()) for family in FAMILIES), *cases]:
        model = dataclasses.replace(MODEL, family=family)
        with tempfile.TemporaryDirectory() as temporary, group(LAYOUTS[0]):
            root = Path(temporary)
            source = tiny_llama.make(root / "hf", model, "bf16")
            import_hf(root / "hf", root / "imported", expected=model)
            chunks = build(LAYOUTS[0], precision, model)
            checkpoint.load_model(root / "imported", chunks)
            (root / "checkpoint").mkdir()
            checkpoint.save_model(root / "checkpoint", chunks, None)
            export_hf(root / "checkpoint" / "final", root / "out", model)
            if not tiny_llama.equal_bits(source, tiny_llama.read(root / "out")):
                raise ValueError(f"{family}, {name}: the exported tensors are not the imported ones")
            equal[f"{family} {name}"] = len(source)
    return {"equal tensors": equal}


def optimizer() -> dict[str, Any]:
    """Random moments and a step count in FusedAdam, saved, and restored into a new optimizer."""
    from nemo_srlm.train.megatron import checkpoint, optim

    found = {}
    for distributed in (True, False):
        parallel = dataclasses.replace(LAYOUTS[0], distributed_optimizer=distributed)

        def new(parallel: ParallelSection = parallel) -> tuple[list[Any], Any]:
            wrapped = optim.wrap(build(parallel, precision_of()), parallel, precision_of())
            return wrapped, optim.build_optimizer(wrapped, TRAIN, parallel, precision_of())

        with tempfile.TemporaryDirectory() as temporary, group(parallel):
            directory = Path(temporary)
            chunks, first = new()
            (inner,) = first.chained_optimizers
            kind = type(inner.optimizer).__name__
            generator = torch.Generator().manual_seed(1)
            for part in inner.optimizer.param_groups:
                part["step"] = 7
                for parameter in part["params"]:
                    inner.optimizer.state[parameter] = {
                        name: torch.rand(parameter.shape, generator=generator) for name in ("exp_avg", "exp_avg_sq")
                    }
            checkpoint.save_training(directory, 7, chunks, first, 2)
            chunks, second = new()
            if (step := checkpoint.load_training(directory, chunks, second)) != 7:
                raise ValueError(f"restored step {step}")
            _compare(inner.optimizer, second.chained_optimizers[0].optimizer)
            found["distributed" if distributed else "not distributed"] = kind
    return found


def _compare(saved: Any, restored: Any) -> None:
    for old, new in zip(saved.param_groups, restored.param_groups, strict=True):
        if old["step"] != new["step"]:
            raise ValueError(f"step {new['step']} restored, {old['step']} saved")
        for a, b in zip(old["params"], new["params"], strict=True):
            for name in ("exp_avg", "exp_avg_sq"):
                if not torch.equal(saved.state[a][name], restored.state[b][name]):
                    raise ValueError(f"{name} of a parameter of shape {tuple(a.shape)} is not the saved one")
            if not torch.equal(a, b):
                raise ValueError(f"a main parameter of shape {tuple(a.shape)} is not the saved one")


CHECKS: dict[str, Callable[[], dict[str, Any]]] = {
    "names": names, "recipes": recipes, "weights": weights, "optimizer": optimizer,
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checks", nargs="*", choices=[*CHECKS, []], metavar="CHECK")
    chosen = parser.parse_args().checks or list(CHECKS)
    if importlib.util.find_spec("transformer_engine") is None:
        print("Transformer Engine is not installed; docs/measurements.md says how to build it", file=sys.stderr)
        return 2
    quiet()
    import transformer_engine

    failed = 0
    for name in chosen:
        began = time.process_time()
        try:
            found = {"status": "ok", **CHECKS[name]()}
        except Exception as error:  # the next check runs all the same
            failed += 1
            found = {"status": "failed", "reason": f"{type(error).__name__}: {error}"}
        seconds = round(time.process_time() - began, 1)
        versions = {"torch": torch.__version__, "transformer_engine": transformer_engine.__version__}
        print(json.dumps({"check": name, **found, "cpu_seconds": seconds, **versions}), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

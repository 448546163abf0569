"""Every fault of a model directory, a checkpoint or the disk gives one clear error and nothing under the final name."""

import errno
import os
import resource
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from nemo_srlm.config.training import check_heads
from nemo_srlm.convert import atomic_directory, tensor_files
from nemo_srlm.convert.export_hf import export_hf
from nemo_srlm.convert.import_hf import import_hf
from nemo_srlm.errors import CheckpointError, UserError
from tests.unit import tiny_llama
from tests.unit.damage import HEAD, INDEX, Q, cut, edit_config, edit_index, edit_weights, overwrite, put, remove

MODEL = tiny_llama.SHAPES["gqa"]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """hf: one weight file; sharded: three with an index; mg: the import."""
    root = tmp_path_factory.mktemp("good")
    tiny_llama.make(root / "hf", MODEL)
    tiny_llama.make(root / "sharded", MODEL, shards=3)
    import_hf(root / "hf", root / "mg")
    return root


SECOND = "model-00002-of-00003.safetensors"
# change to a good directory -> text that the error must contain
BROKEN: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "no config": ("hf", remove("config.json"), "no config.json"),
    "config no JSON": ("hf", overwrite("config.json", b"{{"), "not JSON"),
    "config no object": ("hf", lambda d: (d / "config.json").write_text("[]"), "a JSON list"),
    "truncated": ("hf", cut("model.safetensors", 5000), "bytes; expected .* by its header; the file is truncated"),
    "truncated in the header": ("hf", cut("model.safetensors", 500), "header length .* truncated or corrupt"),
    "empty file": ("hf", cut("model.safetensors", 0), "0 bytes"),
    "header length is noise": ("hf", overwrite("model.safetensors", b"\xff" * 8), "header length of 18446744073709551615"),
    "header is noise": ("hf", overwrite("model.safetensors", b"\xfe" * 40, 8), "not JSON"),
    "header entry malformed": (
        "hf", lambda d: _patch(d / "model.safetensors", b'"data_offsets"', b'"data_offzets"'), "malformed header entry",
    ),
    "header metadata": (
        "hf", lambda d: _patch(d / "model.safetensors", b'{"format":"pt"}', b"3" + b" " * 14), "malformed __metadata__",
    ),
    "header sizes wrong": ("hf", lambda d: _patch(d / "model.safetensors", b"[256,64]", b"[256,65]"), "with shape"),
    "html instead of weights": ("hf", overwrite("model.safetensors", b"<!DOCTYPE html>"), "truncated or corrupt"),
    "missing shard": ("sharded", remove(SECOND), rf"names 1 of 3 files that are not there: \['{SECOND}'\]"),
    "index names an absent file": ("sharded", edit_index(lambda m: m.update({Q: "x.safetensors"})), "x.safetensors"),
    "index names a file elsewhere": ("sharded", edit_index(lambda m: m.update({Q: "../x.safetensors"})), "without a folder"),
    "index nested": ("sharded", lambda d: (d / INDEX).write_text("[" * 99_999), "not JSON"),
    "index names a tensor elsewhere": (
        "sharded", edit_index(lambda m: m.update({HEAD: SECOND})), f"does not name there: .*{HEAD}",
    ),
    "index forgets a tensor": ("sharded", edit_index(lambda m: m.pop(Q)), f"does not name there: .*{Q}"),
    "index malformed": ("sharded", lambda d: (d / INDEX).write_text('{"weights": 1}'), "no index of weights"),
    "no index": ("sharded", remove(INDEX), "3 safetensors file.* without"),
    "a single file beside an index": (
        "sharded", lambda d: (d / "model.safetensors").touch(), f"both model.safetensors and {INDEX}; expected one of them",
    ),
    "no weights": ("hf", remove("model.safetensors"), "no model weights"),
    "tensor missing": ("hf", edit_weights(lambda h: h.pop(Q)), f"1 tensor.* are absent: {Q}"),
    "tensor unknown": ("hf", edit_weights(lambda h: h.update(extra=torch.ones(2))), "does not know: extra"),
    "shape mismatch": (
        "hf", edit_weights(lambda h: h.update({Q: torch.ones(64, 32).bfloat16()})), r"q_proj.weight \[64, 32\] instead of",
    ),
    "one tensor of another dtype": ("hf", edit_weights(lambda h: h.update({Q: h[Q].float()})), "weights of type .*fp32"),
    "dtype against config": ("hf", edit_config(dtype="float16"), r"weights of type \['bf16'\].* all fp16"),
    "quantised dtype": ("hf", edit_weights(lambda h: h.update({Q: h[Q].to(torch.int8)})), "of type I8"),
    "too many layers in config": ("hf", edit_config(num_hidden_layers=5), "9 tensor.* absent"),
    "too few layers in config": ("hf", edit_config(num_hidden_layers=3), "9 tensor.* does not know"),
    "heads against weights": ("hf", edit_config(num_key_value_heads=4), r"shape\(s\) contradict config.json"),
    "tied with a head": ("hf", edit_config(tie_word_embeddings=True), "tie_word_embeddings"),
    "heads do not divide": ("hf", edit_config(num_attention_heads=7, head_dim=None), "head_dim"),
    "other head_dim": ("hf", edit_config(head_dim=32), r"shape\(s\) contradict config.json: .*q_proj.weight \[64, 64\]"),
    "head_dim no size": ("hf", edit_config(head_dim="16"), "head_dim = '16'; expected a positive integer"),
    "no size": ("hf", edit_config(hidden_size=None), "hidden_size = None"),
    "unknown architecture": ("hf", edit_config(model_type="mamba", architectures=["MambaForCausalLM"]),
                             "model_type 'mamba'.* model_type 'llama' with LlamaForCausalLM"),
    "a classifier": ("hf", edit_config(architectures=["LlamaForSequenceClassification"]), "LlamaForSequenceClassification"),
    "biases in config": ("hf", edit_config(attention_bias=True), "attention_bias is true; expected a llama without these biases"),
    "biases in weights": (
        "hf", edit_weights(lambda h: h.update({Q.replace("weight", "bias"): torch.ones(64).bfloat16()})), "1 biases",
    ),
    "other activation": ("hf", edit_config(hidden_act="gelu"), "hidden_act 'gelu'"),
    "rope with a text": ("hf", edit_config(rope_scaling={"rope_type": "linear", "factor": "x"}), "rope_scaling: .*'x'"),
    "rope of another kind": ("hf", edit_config(rope_scaling={"rope_type": "yarn", "factor": 2.0}), "'yarn'"),
    "quantised model": ("hf", edit_config(quantization_config={"bits": 4}), "quantised"),
    "NaN": ("hf", edit_weights(put(Q, float("nan"))), f"{Q}.* holds 1 NaN or infinite"),
    "Inf": ("hf", edit_weights(put(HEAD, float("inf"))), f"{HEAD} holds 1 NaN or infinite"),
    "minus Inf": ("hf", edit_weights(put("model.norm.weight", float("-inf"))), "model.norm.weight holds 1 NaN"),
}  # fmt: skip


def _patch(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new))


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_model_directory_is_refused_and_leaves_nothing(good: Path, tmp_path: Path, name: str):
    source, damage, message = BROKEN[name]
    shutil.copytree(good / source, tmp_path / "hf")
    damage(tmp_path / "hf")
    with pytest.raises(CheckpointError, match=message):
        import_hf(tmp_path / "hf", tmp_path / "mg")
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_a_model_other_than_the_configs_is_refused_with_the_fields(good: Path, tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"model.num_query_groups: 4 -> 2\n\s+model.rope_theta: 5.0 -> 10000.0"):
        import_hf(good / "hf", tmp_path / "mg", expected=replace(MODEL, num_query_groups=4, rope_theta=5.0))


class Payload:
    """Content of a malicious .bin file."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch executed",)


def test_a_bin_file_that_would_run_code_is_refused_unrun(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(good / "hf", tmp_path / "hf")
    (tmp_path / "hf" / "model.safetensors").unlink()
    torch.save({"x": Payload()}, tmp_path / "hf" / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"holds posix.system"):
        import_hf(tmp_path / "hf", tmp_path / "mg", allow_bin=True)
    assert not (tmp_path / "executed").exists()


def test_a_truncated_bin_file_is_refused(good: Path, tmp_path: Path):
    shutil.copytree(good / "hf", tmp_path / "hf")
    torch.save(load_file(tmp_path / "hf" / "model.safetensors"), tmp_path / "hf" / "pytorch_model.bin")
    (tmp_path / "hf" / "model.safetensors").unlink()
    os.truncate(tmp_path / "hf" / "pytorch_model.bin", 20_000)
    with pytest.raises(CheckpointError, match=r"no torch\.save archive"):
        import_hf(tmp_path / "hf", tmp_path / "mg", allow_bin=True)
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


# --- disk and names ------------------------------------------------------------------------------------------------


def convert(direction: str, good: Path, out: Path) -> None:
    if direction == "import":
        import_hf(good / "hf", out)
    else:
        export_hf(good / "mg", out, MODEL)


@pytest.mark.parametrize("direction", ["import", "export"])
def test_a_name_that_is_taken_is_refused(good: Path, tmp_path: Path, direction: str):
    (tmp_path / "out").mkdir()
    with pytest.raises(CheckpointError, match="exists already"):
        convert(direction, good, tmp_path / "out")


@pytest.mark.parametrize("direction", ["import", "export"])
def test_a_disk_without_room_is_refused_before_anything_is_written(
    good: Path, tmp_path: Path, direction: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(atomic_directory.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 1000))
    with pytest.raises(CheckpointError, match="GiB free on the disk"):
        convert(direction, good, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("direction", ["import", "export"])
def test_a_disk_that_fills_up_in_the_middle_leaves_nothing(good: Path, tmp_path: Path, direction: str):
    # a real error from the kernel: files may not exceed 100 kB (EFBIG, handled like a full disk)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(CheckpointError, match="cannot be written"):
            convert(direction, good, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("direction", ["import", "export"])
@pytest.mark.parametrize("damage", ["remove", "empty"])
def test_a_file_that_is_not_on_the_disk_is_never_reported_as_written(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, direction: str, damage: str
):
    """Whatever loses a file between its writing and the end: nothing appears under the name."""
    module = sys.modules[f"nemo_srlm.convert.{direction}_hf"]
    run = module.run_parallel

    def losing(*arguments: Any) -> Any:
        result = run(*arguments)
        written = next(path for path in (tmp_path / ".out.partial").iterdir() if path.stat().st_size > 10_000)
        written.unlink() if damage == "remove" else os.truncate(written, 0)
        return result

    monkeypatch.setattr(module, "run_parallel", losing)
    with pytest.raises(AssertionError, match="are to be reported"):
        convert(direction, good, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_no_space_left_is_named(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tensor_files.os, "pwrite", full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        convert("export", good, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_conversion_keeps_what_stood_under_the_name(good: Path, tmp_path: Path):
    convert("export", good, tmp_path / "out")
    shutil.copytree(good / "mg", tmp_path / "mg")
    os.truncate(tmp_path / "mg" / "__0_0.distcp", 60_000)
    with pytest.raises(CheckpointError):
        export_hf(tmp_path / "mg", tmp_path / "out", MODEL, overwrite=True)
    assert (tmp_path / "out" / "model.safetensors").exists()


@pytest.mark.parametrize("output", ["hf", ".", "hf/inside", "hf/../hf", "link"])
def test_an_output_never_replaces_its_input(good: Path, tmp_path: Path, output: str):
    shutil.copytree(good / "hf", tmp_path / "root" / "hf")
    (tmp_path / "root" / "link").symlink_to(tmp_path / "root" / "hf")
    before = (tmp_path / "root" / "hf" / "model.safetensors").read_bytes()
    with pytest.raises(CheckpointError, match="equals, contains or lies in the input"):
        import_hf(tmp_path / "root" / "hf", tmp_path / "root" / output, overwrite=True)
    assert (tmp_path / "root" / "hf" / "model.safetensors").read_bytes() == before
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize("processes", [0, -1])
def test_a_conversion_by_no_process_is_refused(good: Path, tmp_path: Path, processes: int):
    with pytest.raises(CheckpointError, match="expected at least 1"):
        export_hf(good / "mg", tmp_path / "out", MODEL, processes=processes)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("out", [".", "..", "../..", "link"])
def test_an_output_that_holds_the_working_directory_or_is_a_link_is_refused(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str
):
    (tmp_path / "a/b/c").mkdir(parents=True)
    (tmp_path / "a/kept").write_text("")
    (tmp_path / "a/b/c/link").symlink_to(tmp_path / "a")
    monkeypatch.chdir(tmp_path / "a/b/c")
    with pytest.raises(CheckpointError, match=r"working directory, or contains it|a link to"):
        import_hf(good / "hf", Path(out), overwrite=True)
    assert (tmp_path / "a/kept").exists()
    assert (tmp_path / "a/b/c").is_dir()


def test_key_value_heads_that_do_not_fit_are_named_as_their_file_names_them(good: Path, tmp_path: Path):
    shutil.copytree(good / "hf", tmp_path / "hf")
    edit_config(num_key_value_heads=3)(tmp_path / "hf")
    with pytest.raises(UserError, match=r"config\.json\.num_key_value_heads: 3; expected a divisor of 4 heads"):
        import_hf(tmp_path / "hf", tmp_path / "mg")
    with pytest.raises(UserError, match=r"model\.num_query_groups: 3; expected a divisor of 4 heads"):
        check_heads(replace(MODEL, num_query_groups=3))

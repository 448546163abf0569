"""Every fault of a Megatron checkpoint gives one clear error, no code from it runs, and nothing is under the final name."""

import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata

from nemo_srlm.config.training import ModelSection
from nemo_srlm.convert.export_hf import export_hf
from nemo_srlm.convert.import_hf import import_hf
from nemo_srlm.errors import CheckpointError
from tests.unit import tiny_llama
from tests.unit.damage import HEAD, Q, cut, edit_weights, put, remove

MODEL = tiny_llama.SHAPES["gqa"]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """hf: a model directory; mg: its import."""
    root = tmp_path_factory.mktemp("good")
    tiny_llama.make(root / "hf", MODEL)
    import_hf(root / "hf", root / "mg")
    return root


def without_key(directory: Path) -> None:
    with (directory / ".metadata").open("rb") as f:
        metadata = pickle.load(f)
    del metadata.state_dict_metadata["decoder.final_layernorm.weight"]
    with (directory / ".metadata").open("wb") as f:
        pickle.dump(metadata, f)


def with_code(directory: Path) -> None:
    (directory / ".metadata").write_bytes(pickle.dumps(_Code(directory / "executed")))


class _Code:
    """A pickle of this object makes the reader write a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.target),)


def other_file(name: str) -> Callable[[Path], None]:
    """The metadata says that the weights lie in the file `name`."""

    def change(directory: Path) -> None:
        metadata = pickle.loads((directory / ".metadata").read_bytes())
        for info in metadata.storage_data.values():
            info.relative_path = name
        (directory / ".metadata").write_bytes(pickle.dumps(metadata))

    return change


def boxes(**fields: tuple[int, ...]) -> Callable[[Path], None]:
    """The metadata says so of every chunk of the embeddings: its offsets or sizes; or `size`, of the whole tensor."""

    def change(directory: Path) -> None:
        metadata = pickle.loads((directory / ".metadata").read_bytes())
        stored = metadata.state_dict_metadata["embedding.word_embeddings.weight"]
        for name, value in fields.items():
            for record in [stored] if name == "size" else stored.chunks:
                setattr(record, name, torch.Size(value))
        (directory / ".metadata").write_bytes(pickle.dumps(metadata))

    return change


def twice(directory: Path) -> None:
    """The two halves of a weight, both said to be the first."""
    metadata = pickle.loads((directory / ".metadata").read_bytes())
    name = "embedding.word_embeddings.weight"
    stored = metadata.state_dict_metadata[name]
    rows, columns = stored.size
    old = [index for index in metadata.storage_data if index.fqn == name]
    info = metadata.storage_data[old[0]]
    for index in old:
        del metadata.storage_data[index]
    stored.chunks = []
    for number, first in enumerate((0, 1)):
        offsets = torch.Size([first, 0])
        stored.chunks.append(ChunkStorageMetadata(offsets, torch.Size([rows // 2, columns])))
        metadata.storage_data[replace(old[0], offset=offsets, index=number)] = info
    (directory / ".metadata").write_bytes(pickle.dumps(metadata))


def pipe(directory: Path) -> None:
    (directory / "__0_0.distcp").unlink()
    os.mkfifo(directory / "__0_0.distcp")


CHECKPOINTS: dict[str, tuple[Callable[[Path], None], ModelSection, str]] = {
    "not one": (shutil.rmtree, MODEL, "no metadata.json"),
    "metadata damaged": (cut(".metadata", 50), MODEL, "damaged metadata"),
    "metadata with code": (with_code, MODEL, "posix.mkdir, which is no part of a checkpoint"),
    "metadata with a memo of 32 GB": (
        lambda d: (d / ".metadata").write_bytes(b"\x80\x02]r\xff\xff\xff\x7f."),
        MODEL,
        "a memo of 2147483647 entries in 9 bytes",
    ),
    "metadata of no checkpoint": (
        lambda d: (d / ".metadata").write_bytes(pickle.dumps({"a": 1})),
        MODEL,
        "no metadata of a checkpoint",
    ),
    "file outside": (other_file("../mg/__0_0.distcp"), MODEL, "file names without a folder"),
    "file is a pipe": (pipe, MODEL, "a folder, pipe or device"),
    "chunk without sizes": (boxes(sizes=()), MODEL, "no metadata of a checkpoint"),
    "chunk of another rank": (boxes(sizes=(256, 64, 1)), MODEL, "no metadata of a checkpoint"),
    "chunk outside": (boxes(offsets=(256, 0)), MODEL, "no metadata of a checkpoint"),
    "chunk elsewhere": (boxes(offsets=(1, 0)), MODEL, r"at \[0, 0\], which is none of its \d+ chunk"),
    "chunks missing": (boxes(size=(2**50, 64)), MODEL, r"16384 values, or some twice; expected each"),
    "chunks that overlap": (twice, MODEL, "16384 values, or some twice"),
    "another backend": (lambda d: (d / "metadata.json").write_text('{"sharded_backend": "zarr"}'), MODEL, "zarr"),
    "file missing": (remove("__0_0.distcp"), MODEL, r"1 of 1 files that are not there: .'__0_0.distcp'"),
    "file truncated": (cut("__0_0.distcp", 60_000), MODEL, "archive"),
    "weight missing": (without_key, MODEL, "no weight decoder.final_layernorm.weight"),
    "more layers": (lambda d: None, replace(MODEL, num_layers=5), "no weight decoder.layers.4"),
    "fewer layers": (lambda d: None, replace(MODEL, num_layers=3), "of 4 layers; expected 3"),
    "other width": (lambda d: None, replace(MODEL, ffn_hidden_size=92), r"linear_fc1.weight of shape \[192, 64\]"),
    "larger vocabulary": (
        lambda d: None,
        replace(MODEL, vocab_size=300),
        r"of shape \[256, 64\]; expected \[300, 64\]",
    ),
    "tied": (
        lambda d: None,
        replace(MODEL, tie_embeddings=True),
        r"weight.s. that a llama has not: .'output_layer.weight'",
    ),
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_checkpoint_that_is_broken_or_another_models_is_refused(good: Path, tmp_path: Path, name: str):
    damage, model, message = CHECKPOINTS[name]
    shutil.copytree(good / "mg", tmp_path / "mg")
    damage(tmp_path / "mg")
    with pytest.raises(CheckpointError, match=message):
        export_hf(tmp_path / "mg", tmp_path / "back", model)
    assert not (tmp_path / "back").exists()
    assert not (tmp_path / ".back.partial").exists()
    assert not list(tmp_path.rglob("executed"))


def test_weights_that_training_blew_up_are_not_exported(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("nemo_srlm.convert.import_hf.check_finite", lambda *_: None)
    shutil.copytree(good / "hf", tmp_path / "hf")
    edit_weights(put(Q, float("nan")))(tmp_path / "hf")
    import_hf(tmp_path / "hf", tmp_path / "mg")
    with pytest.raises(CheckpointError, match=rf"linear_qkv.weight \({Q}\) holds 1 NaN"):
        export_hf(tmp_path / "mg", tmp_path / "back", MODEL)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf", "mg"]


def test_a_mistake_that_one_of_several_processes_finds_is_the_same_error(good: Path, tmp_path: Path):
    shutil.copytree(good / "hf", tmp_path / "hf")
    edit_weights(put(HEAD, float("nan")))(tmp_path / "hf")
    with pytest.raises(CheckpointError, match=f"{HEAD} holds 1 NaN"):
        import_hf(tmp_path / "hf", tmp_path / "mg", processes=2)
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]

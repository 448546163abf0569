"""HF model directories and checkpoints, damaged in their config, weights, index, tokenizer or chat template."""

import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from tools.bench.inputs.case import ACCEPTED, Case, guard
from tools.bench.inputs.stores import copy

CONFIG_VALUES: dict[str, Any] = {
    "null": None,
    "zero": 0,
    "negative": -1,
    "half": 1.5,
    "text": "x",
    "list": [1],
    "object": {},
    "true": True,
    "huge": 10**9,
    "huge text": "9" * 5000,
}
FIELDS = (
    "num_hidden_layers",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
    "max_position_embeddings",
    "head_dim",
)
OTHER: dict[str, tuple[Any, ...]] = {
    "rms_norm_eps": ("x", [1], None, {}, -1.0, 0, True),
    "initializer_range": ("x", [1], {}, -1, 10**400),
    "rope_theta": ("x", [1], -1, 0, True),
    "rope_scaling": (
        3,
        [1],
        "x",
        {"type": "nonsense", "factor": 2},
        {"rope_type": "linear"},
        {"rope_type": "linear", "factor": "x"},
        {"rope_type": ["linear"], "factor": 2},
    ),
    "rope_parameters": (3, [1], "x", {"rope_theta": "x"}, {"rope_theta": [1]}, {"rope_type": {}}),
    "dtype": ({}, ["x"], "int8", 3),
    "torch_dtype": ({}, ["x"], "nonsense"),
    "model_type": (None, 3, "nonsense", ["llama"], {}),
    "architectures": ("x", [], ["Nonsense"], [3], 3),
    "hidden_act": ("gelu", None, 3, []),
    "tie_word_embeddings": ("x", 3, [1], True),
    "quantization_config": ({"bits": 4}, 3),
    "attention_bias": (True, 3, "x"),
}


def _import(directory: Path, **more: Any) -> None:
    from nemo_srlm.convert.import_hf import import_hf

    import_hf(directory, Path("out"), **more)


def _edit(name: str, change: Callable[[Path], object], bin: bool = False) -> int:
    """A damaged copy of the directory `name`, imported."""
    directory = copy(name)
    change(directory)
    return guard(lambda: _import(directory, allow_bin=bin))


def _config(key: str, value: Any) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        path = directory / "config.json"
        data = json.loads(path.read_text(encoding="utf-8")) | {key: value}
        path.write_text(json.dumps(data), encoding="utf-8")

    return change


def _bytes(name: str, data: bytes) -> Callable[[Path], None]:
    return lambda directory: (directory / name).write_bytes(data) and None


def _replace(name: str, kind: str) -> Callable[[Path], None]:
    """A folder, pipe, loop, device or nothing in the place of a file."""

    def change(directory: Path) -> None:
        path = directory / name
        path.unlink(missing_ok=True)
        if kind == "folder":
            path.mkdir()
        elif kind == "pipe":
            os.mkfifo(path)
        elif kind in ("loop", "/dev/zero", "nowhere"):
            path.symlink_to(name if kind == "loop" else kind)

    return change


TEXTS = {
    "empty": b"",
    "brackets": b"[" * 100_000,
    "list": b"[]",
    "null": b"null",
    "number": b"7",
    "no JSON": b"{",
    "Latin-1": b'{"a": "\xfc"}',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "digits": b'{"vocab_size": ' + b"1" * 5000 + b"}",
    "NUL": b"\0" * 10,
    "empty object": b"{}",
}
ODD = ("folder", "pipe", "loop", "/dev/zero", "absent", "nowhere")


def _header(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """The header of the one weights file, changed."""

    def edit(directory: Path) -> None:
        path = directory / "model.safetensors"
        data = path.read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + length])
        change(header)
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])

    return edit


TENSOR = "model.norm.weight"
HEADERS: dict[str, Callable[[dict[str, Any]], object]] = {
    f"{key}: {name}": (lambda h, key=key, value=value: h[TENSOR].update({key: value}))
    for key, values in {
        "shape": {
            "null": None,
            "null inside": [None],
            "text": "x",
            "negative": [-64],
            "real": [64.0],
            "huge": [2**62],
            "object": {},
            "true": [True],
        },
        "dtype": {"null": None, "list": ["F32"], "object": {}, "other": "I64", "number": 3},
        "data_offsets": {
            "null": None,
            "one": [0],
            "text": ["a", "b"],
            "negative": [-1, 5],
            "reversed": [9, 1],
            "huge": [0, 2**62],
            "real": [0.0, 1.0],
        },
    }.items()
    for name, value in values.items()
}
HEADERS |= {
    "entry is a list": lambda h: h.update({TENSOR: []}),
    "entry is null": lambda h: h.update({TENSOR: None}),
    "without a tensor": lambda h: h.pop(TENSOR),
    "another tensor": lambda h: h.update({"x": h[TENSOR]}),
    "empty": lambda h: h.clear(),
    "metadata alone": lambda h: h.update({"__metadata__": 3}),
}
WEIGHTS = {
    "empty": b"",
    "8 bytes": b"\0" * 8,
    "long header": struct.pack("<Q", 2**62) + b"{}",
    "brackets": struct.pack("<Q", 100_000) + b"[" * 100_000,
    "no JSON": struct.pack("<Q", 2) + b"{x",
    "digits": struct.pack("<Q", 5000) + b"1" * 5000,
    "text": b"nonsense " * 20,
    "twice": struct.pack("<Q", 13) + b'{"a":1,"a":2}',
    "Latin-1": struct.pack("<Q", 4) + b'"\xfc" ',
}


def _index(value: Any) -> Callable[[Path], None]:
    return lambda directory: (
        (directory / "model.safetensors.index.json").write_text(json.dumps(value), encoding="utf-8") and None
    )


INDEXES: dict[str, Any] = {
    "above": {"weight_map": {"a": "../x.safetensors"}},
    "absolute": {"weight_map": {"a": "/etc/passwd"}},
    "long": {"weight_map": {"a": "x" * 300}},
    "empty": {"weight_map": {}},
    "list": {"weight_map": []},
    "number": {"weight_map": {"a": 3}},
    "dot": {"weight_map": {"a": "."}},
    "NUL": {"weight_map": {"a": "x\0y"}},
    "absent": {"weight_map": {"a": "nowhere.safetensors"}},
    "no map": {},
    "text": "x",
    "null": None,
    "device": {"weight_map": {"a": "/dev/zero"}},
    "empty name": {"weight_map": {"a": ""}},
}


class _Code:
    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("touch executed",)


def _archive(pickled: bytes, method: int = zipfile.ZIP_STORED) -> Callable[[Path], None]:
    """pytorch_model.bin with this pickle, in the place of the safetensors file."""

    def change(directory: Path) -> None:
        (directory / "model.safetensors").unlink()
        with zipfile.ZipFile(directory / "pytorch_model.bin", "w", method) as archive:
            archive.writestr("x/data.pkl", pickled)
            archive.writestr("x/data/0", b"\0" * 64)

    return change


def _call(module: str, name: str, arguments: bytes) -> bytes:
    """A pickle that calls a function with arguments that are pickled already (without the stop)."""
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + arguments + b"R."


PICKLES = {
    "empty": b"",
    "stop": b".",
    "text": b"nonsense",
    "code": pickle.dumps(_Code()),
    "name of code": b"cos\nsystem\n.",
    "builtins": b"cbuiltins\neval\n.",
    "set item of a number": b"\x80\x02K\x01K\x02K\x03s.",
    "append to a number": b"\x80\x02K\x01K\x02a.",
    "long text": b"\x80\x02X\xff\xff\xff\x7f",
    "persistent number": b"\x80\x02K\x01Q.",
    "persistent text": b"\x80\x02X\x01\x00\x00\x00aQ.",
    "persistent empty": b"\x80\x02)Q.",
    "unknown memo": b"\x80\x02h\x09.",
    "long digits": b"I" + b"1" * 5000 + b"\n.",
    "long long": b"\x80\x02\x8b\xff\xff\xff\x7f",
    "mark alone": b"(.",
    "rebuild of a number": _call("torch._utils", "_rebuild_tensor_v2", b"K\x01\x85"),
    "rebuild of nothing": _call("torch._utils", "_rebuild_tensor_v2", b")"),
    "rebuild of texts": _call("torch._utils", "_rebuild_tensor_v2", b"(X\x01\x00\x00\x00aK\x00)))t"),
    "parameter of nothing": _call("torch._utils", "_rebuild_parameter", b")"),
    "build": b"\x80\x02}K\x01b.",
    "reduce a number": b"\x80\x02K\x01)R.",
    "list": pickle.dumps([1, 2]),
    "number": pickle.dumps(3),
    "dict of numbers": pickle.dumps({"a": 1}),
    "frame": b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f",
    "protocol": b"\x80\xff.",
    "deep": b"\x80\x02" + b"]" * 50_000 + b"a" * 49_999 + b".",
}
CHECKPOINT = ("metadata.json", ".metadata", "common.pt", "__0_0.distcp")


def _export(change: Callable[[Path], object], like: Callable[[Path], object] | None = None) -> int:
    from nemo_srlm.convert import hf_config
    from nemo_srlm.convert.export_hf import export_hf

    directory, model = copy("mg"), copy("hf")
    change(directory)
    if like:
        like(model)
    return guard(lambda: print(export_hf(directory, Path("out"), hf_config.read(model).model)))


def cases() -> Iterator[Case]:
    nothing: Callable[[Path], object] = lambda directory: None  # noqa: E731
    for name in ("hf", "whole"):
        yield Case("model: config", f"{name}: good", partial(_edit, name, nothing), ACCEPTED)
    for key in FIELDS:
        for kind, value in CONFIG_VALUES.items():
            yield Case("model: config", f"{key}: {kind}", partial(_edit, "whole", _config(key, value)))
    for key, values in OTHER.items():
        for value in values:
            yield Case("model: config", f"{key}: {str(value)[:40]}", partial(_edit, "whole", _config(key, value)))
    for file in ("config.json", "model.safetensors.index.json"):
        for kind, data in TEXTS.items():
            yield Case("model: files", f"{file}: {kind}", partial(_edit, "hf", _bytes(file, data)))
        for kind in ODD:
            yield Case("model: files", f"{file}: {kind}", partial(_edit, "hf", _replace(file, kind)))
    for kind in ODD:
        yield Case("model: files", f"weights: {kind}", partial(_edit, "whole", _replace("model.safetensors", kind)))
    for kind, data in WEIGHTS.items():
        yield Case("model: weights", kind, partial(_edit, "whole", _bytes("model.safetensors", data)))
    for kind, edit in HEADERS.items():
        yield Case("model: weights", f"header {kind}", partial(_edit, "whole", _header(edit)))
    for kind, value in INDEXES.items():
        yield Case("model: index", kind, partial(_edit, "hf", _index(value)))
    for kind, data in PICKLES.items():
        yield Case("model: pickles", kind, partial(_edit, "whole", _archive(data), True))
    yield Case(
        "model: pickles", "packed", partial(_edit, "whole", _archive(pickle.dumps({}), zipfile.ZIP_DEFLATED), True)
    )
    yield Case("model: pickles", "no archive", partial(_edit, "whole", _archive_text, True))
    yield Case("checkpoint", "good", partial(_export, nothing), ACCEPTED)
    for file in CHECKPOINT:
        for kind in ("folder", "pipe", "loop", "/dev/zero", "absent", "nowhere"):
            yield Case("checkpoint", f"{file}: {kind}", partial(_export, _replace(file, kind)))
        for kind, data in {**TEXTS, **(PICKLES if file == ".metadata" else {})}.items():
            yield Case("checkpoint", f"{file}: {kind}", partial(_export, _bytes(file, data)))
    for kind in ("hidden_size", "num_hidden_layers", "vocab_size"):
        yield Case("checkpoint", f"another model: {kind}", partial(_export, nothing, _config(kind, 128)))


def _archive_text(directory: Path) -> None:
    (directory / "model.safetensors").unlink()
    (directory / "pytorch_model.bin").write_bytes(b"nonsense " * 100)

"""Ways to damage a model directory or checkpoint: each is a function of the directory."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

INDEX = "model.safetensors.index.json"
Q = "model.layers.0.self_attn.q_proj.weight"
HEAD = "lm_head.weight"


def edit_config(**changes: object) -> Callable[[Path], None]:
    def edit(directory: Path) -> None:
        path = directory / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return edit


def edit_weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def edit(directory: Path) -> None:
        held = load_file(directory / "model.safetensors")
        change(held)
        save_file(held, directory / "model.safetensors", {"format": "pt"})

    return edit


def edit_index(change: Callable[[dict[str, str]], object]) -> Callable[[Path], None]:
    def edit(directory: Path) -> None:
        data = json.loads((directory / INDEX).read_text())
        change(data["weight_map"])
        (directory / INDEX).write_text(json.dumps(data))

    return edit


def cut(name: str, size: int) -> Callable[[Path], None]:
    return lambda directory: os.truncate(directory / name, size)


def overwrite(name: str, data: bytes, at: int = 0) -> Callable[[Path], None]:
    def edit(directory: Path) -> None:
        with (directory / name).open("rb+") as f:
            f.seek(at)
            f.write(data)

    return edit


def remove(name: str) -> Callable[[Path], None]:
    return lambda directory: (directory / name).unlink()


def put(name: str, value: float) -> Callable[[dict[str, torch.Tensor]], None]:
    return lambda held: held[name].view(-1)[3:4].fill_(value)

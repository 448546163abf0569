"""Impossible layouts, batches and precisions are refused at the start, with the violated rule."""

import pytest

from nemo_srlm.config.checks import check_fields
from nemo_srlm.config.compose import compose
from nemo_srlm.config.fp8 import check_fp8
from nemo_srlm.config.training import ModelSection, ParallelSection, PrecisionSection, TrainSection
from nemo_srlm.errors import ConfigError
from nemo_srlm.train.layout import (
    check_batches,
    check_kernels,
    check_layout,
    check_precision,
    check_shared_prefix,
    data_parallel_size,
    padded_vocab_size,
)

MODEL = ModelSection(num_layers=8, hidden_size=64, ffn_hidden_size=96, num_attention_heads=8, num_query_groups=4)


def test_a_70b_layout_passes():
    parallel = ParallelSection(nodes=4, processes=8, tensor=4, pipeline=4, virtual_pipeline=5, sequence=True)
    check_layout(ModelSection(), parallel)
    assert data_parallel_size(parallel) == 2


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"processes": 3, "tensor": 2}, "a multiple of that product"),
        ({"processes": 8, "tensor": 8}, "num_query_groups 4"),
        ({"processes": 3, "pipeline": 3}, "num_layers 8"),
        ({"processes": 2, "pipeline": 2, "virtual_pipeline": 3}, "num_layers 8"),
        ({"processes": 2, "virtual_pipeline": 2}, "pipeline of at least 2"),
        ({"processes": 2, "sequence": True}, "tensor parallelism of at least 2"),
        ({"processes": 2, "context": 0}, r"parallel\.context: 0; expected 1 or more"),
    ],
)
def test_an_impossible_layout_names_its_rule(settings: dict[str, int], words: str):
    with pytest.raises(ConfigError, match=words):
        _check(ParallelSection(**settings))


def _check(parallel: ParallelSection) -> None:
    """In the order of a run: the fields first, then the rules between them."""
    check_fields(parallel, "parallel")
    check_layout(MODEL, parallel)


def test_heads_must_divide():
    with pytest.raises(ConfigError, match="hidden_size"):
        check_layout(ModelSection(hidden_size=65, num_attention_heads=8), ParallelSection(processes=1))


def test_a_global_batch_that_does_not_divide_is_refused():
    with pytest.raises(ConfigError, match=r"sft\.global_batch"):
        check_batches("sft", TrainSection(global_batch=16, micro_batch=3), ParallelSection(processes=2))


def test_the_interleaved_schedule_wants_whole_rounds():
    parallel = ParallelSection(processes=4, pipeline=2, virtual_pipeline=2)
    check_batches("sft", TrainSection(global_batch=16, micro_batch=2), parallel)
    with pytest.raises(ConfigError, match="interleaved"):
        check_batches("sft", TrainSection(global_batch=16, micro_batch=8), parallel)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"fp8": "hybrid", "fp8_recipe": "delayed", "fp8_bf16_layers": 1},
            "fp8_bf16_layers: 1 with fp8_recipe delayed",
        ),
        ({"fp8": "e4m3", "fp8_recipe": "tensorwise", "dtype": "fp32"}, "expected bf16"),
        ({"fp8": "e4m3", "fp8_recipe": "tensorwise", "fp8_bf16_layers": 21}, "21 with 20 layers per pipeline stage"),
    ],
)
def test_fp8_that_contradicts_itself_is_refused_when_a_run_starts(settings: dict[str, object], words: str):
    """By the config, on any machine, not by the first training of a run."""
    overrides = [f"precision.{name}={value}" for name, value in settings.items()]
    with pytest.raises(ConfigError, match=words):
        compose("llama2_70b", [*overrides, "precision.cross_entropy=unfused"])
    with pytest.raises(ConfigError, match=words):
        check_fp8(ModelSection(), ParallelSection(pipeline=4), PrecisionSection(**settings))
    compose("llama2_70b", ["precision.fp8=hybrid", "precision.fp8_bf16_layers=0"])


@pytest.mark.parametrize(
    ("capability", "engine", "words"),
    [(None, False, "no GPU"), ((9, 0), False, "no Transf"), ((8, 0), False, "no Transf"), ((8, 0), True, "a GPU w")],
)
def test_fp8_that_a_machine_cannot_compute_is_refused(capability: tuple[int, int] | None, engine: bool, words: str):
    with pytest.raises(ConfigError, match=words):
        check_precision(PrecisionSection(fp8="hybrid"), transformer_engine=engine, capability=capability)


@pytest.mark.parametrize(
    ("recipe", "computed"),
    [
        ("delayed", [(8, 9), (9, 0), (10, 0), (12, 0)]),
        ("tensorwise", [(8, 9), (9, 0), (10, 0), (12, 0)]),
        ("blockwise", [(9, 0), (10, 0), (12, 0)]),
        ("mxfp8", [(10, 0), (10, 3)]),
    ],
)
def test_an_fp8_recipe_that_the_gpu_cannot_compute_is_refused_before_transformer_engine_does(
    recipe: str, computed: list[tuple[int, int]]
):
    """Its assertion would come in the first forward pass, with the model built and the weights loaded."""
    precision = PrecisionSection(fp8="hybrid", fp8_recipe=recipe)
    for capability in ((8, 9), (9, 0), (10, 0), (10, 3), (12, 0)):
        if capability in computed or (capability == (10, 3) and recipe != "mxfp8"):
            check_precision(precision, transformer_engine=True, capability=capability)
            continue
        with pytest.raises(
            ConfigError, match=f"{recipe} on a GPU of compute capability {capability[0]}.{capability[1]}"
        ):
            check_precision(precision, transformer_engine=True, capability=capability)


@pytest.mark.parametrize(
    ("sizes", "tensor", "recipe", "words"),
    [
        ({"hidden_size": 8200, "head_dim": 128}, 1, "tensorwise", "model.hidden_size: a matrix of 8200 per rank"),
        (
            {"ffn_hidden_size": 11008, "num_query_groups": 32},
            32,
            "tensorwise",
            "model.ffn_hidden_size: a matrix of 344 per rank",
        ),
        ({"ffn_hidden_size": 11056}, 1, "mxfp8", "expected a multiple of 32"),
        (
            {"head_dim": 36, "num_attention_heads": 4, "num_query_groups": 2},
            2,
            "blockwise",
            "model.num_attention_heads",
        ),
        ({"head_dim": 24, "num_attention_heads": 2, "num_query_groups": 1}, 1, "tensorwise", ""),
    ],
)
def test_matrices_that_no_fp8_product_takes_are_refused_when_a_run_starts(
    sizes: dict[str, int], tensor: int, recipe: str, words: str
):
    precision = PrecisionSection(fp8="hybrid", fp8_recipe=recipe)
    asked = ModelSection(**sizes), ParallelSection(tensor=tensor), precision
    if not words:
        check_fp8(*asked)
        return
    with pytest.raises(ConfigError, match=words):
        check_fp8(*asked)


def test_a_matrix_that_fp8_refuses_names_the_tensor_size_only_where_a_smaller_one_helps():
    precision = PrecisionSection(fp8="hybrid", fp8_recipe="tensorwise")
    for sizes, tensor, helps in (
        ({"hidden_size": 8200, "head_dim": 128}, 8, False),  # no rank has a share of it
        ({"ffn_hidden_size": 11016}, 1, False),
        ({"ffn_hidden_size": 11008, "num_query_groups": 32}, 32, True),
    ):
        with pytest.raises(ConfigError) as refused:
            check_fp8(ModelSection(**sizes), ParallelSection(tensor=tensor), precision)
        assert ("lower parallel.tensor" in str(refused.value)) == helps


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"fp8": "int8"}, "none, hybrid, e4m3"),
        ({"dtype": "fp16"}, "bf16, fp32"),
        ({"recompute": "some"}, "selective"),
    ],
)
def test_an_unknown_precision_is_refused(settings: dict[str, object], words: str):
    with pytest.raises(ConfigError, match=words):
        check_fields(PrecisionSection(**settings), "precision")


@pytest.mark.parametrize(
    ("parallel", "precision", "key"),
    [
        ({"tp_comm_overlap": True}, {}, r"parallel\.tp_comm_overlap"),
        ({}, {"cross_entropy": "te"}, r"precision\.cross_entropy"),
        ({}, {"cuda_graphs": "mlp"}, r"precision\.cuda_graphs"),
    ],
)
def test_transformer_engines_kernels_are_refused_without_it(
    parallel: dict[str, bool], precision: dict[str, str], key: str
):
    asked = ParallelSection(**parallel), PrecisionSection(**precision)
    check_kernels(*asked, transformer_engine=True)
    with pytest.raises(ConfigError, match=key):
        check_kernels(*asked, transformer_engine=False)


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"micro_batch": 2}, "the tokens decide"), ({"packing": False}, "expected packing")],
)
def test_a_row_budget_wants_packs_of_its_own(settings: dict[str, int], words: str):
    check_batches("sft", TrainSection(max_tokens_per_row=4096), ParallelSection(processes=2))
    with pytest.raises(ConfigError, match=words):
        check_batches("sft", TrainSection(max_tokens_per_row=4096, **settings), ParallelSection(processes=2))


def test_the_vocabulary_is_padded_for_every_rank():
    assert padded_vocab_size(ModelSection(vocab_size=32000, vocab_multiple=128), 1) == 32000
    assert padded_vocab_size(ModelSection(vocab_size=32000, vocab_multiple=128), 8) == 32768
    assert padded_vocab_size(ModelSection(vocab_size=32000, vocab_multiple=1), 8) == 32000


def test_rows_with_shared_prefixes_are_refused_without_packs_and_where_transformer_engine_computes():
    check_shared_prefix(packed=True, transformer_engine=False)
    for packed, engine, words in ((False, False, r"dpo\.packing=true"), (True, True, "on a GPU")):
        with pytest.raises(ConfigError, match=words):
            check_shared_prefix(packed=packed, transformer_engine=engine)

"""The estimate against models of known size, published layouts with their speed, and consistency rules."""

import dataclasses

import pytest

from nemo_srlm.config.compose import compose
from nemo_srlm.config.training import ModelSection, ParallelSection, PrecisionSection, SftSection
from nemo_srlm.train import estimate
from nemo_srlm.train.estimate import GIB, GPUS, Work

LLAMA2_70B = ModelSection()
LLAMA2_7B = ModelSection(
    num_layers=32, hidden_size=4096, ffn_hidden_size=11008, num_attention_heads=32, num_query_groups=32
)
LLAMA2_13B = ModelSection(
    num_layers=40, hidden_size=5120, ffn_hidden_size=13824, num_attention_heads=40, num_query_groups=40
)
LLAMA3_70B = ModelSection(vocab_size=128256)
LLAMA3_8B = ModelSection(
    num_layers=32,
    hidden_size=4096,
    ffn_hidden_size=14336,
    num_attention_heads=32,
    num_query_groups=8,
    vocab_size=128256,
)
BF16 = PrecisionSection()


def layout(gpus: int, tensor: int, pipeline: int, virtual: int = 1, context: int = 1) -> ParallelSection:
    return ParallelSection(
        nodes=1, processes=gpus, tensor=tensor, pipeline=pipeline, virtual_pipeline=virtual, context=context,
        sequence=tensor > 1,
    )  # fmt: skip


def sft(length: int, batch: int, dropout: float = 0.0, micro: int = 1) -> Work:
    section = SftSection(global_batch=batch, micro_batch=micro, max_length=length, dropout=dropout)
    return Work("sft", section, 1)


@pytest.mark.parametrize(
    ("model", "count"),
    [(LLAMA2_7B, 6_738_415_616), (LLAMA2_13B, 13_015_864_320), (LLAMA2_70B, 68_976_648_192),
     (LLAMA3_8B, 8_030_261_248), (LLAMA3_70B, 70_553_706_496)],
)  # fmt: skip
def test_the_number_of_parameters_is_the_models(model: ModelSection, count: int):
    assert estimate.total_parameters(model) == count


@pytest.mark.parametrize("parallel", [layout(8, 8, 1), layout(32, 4, 8), layout(64, 8, 4, 5), layout(16, 1, 16)])
def test_the_ranks_hold_the_model_between_them(parallel: ParallelSection):
    """Every matrix counts once; norms, which tensor parallelism does not shard, count once per rank."""
    norms = LLAMA2_70B.hidden_size * (2 * LLAMA2_70B.num_layers + 1)
    held = sum(estimate.stage_parameters(LLAMA2_70B, parallel, i) for i in range(parallel.pipeline)) * parallel.tensor
    assert held == estimate.total_parameters(LLAMA2_70B) + (parallel.tensor - 1) * norms


def test_tied_embeddings_are_held_once_or_by_both_ends():
    tied = dataclasses.replace(LLAMA3_8B, tie_embeddings=True)
    table = tied.vocab_size * tied.hidden_size
    assert estimate.total_parameters(LLAMA3_8B) - estimate.total_parameters(tied) == table
    assert estimate.stage_parameters(tied, layout(2, 1, 2), 1) == estimate.stage_parameters(
        LLAMA3_8B, layout(2, 1, 2), 1
    )


# NeMo Framework 24.09, DGX H100 80 GB. Pretraining: layout, tokens/s and model TFLOP/s per GPU; SFT: layout of its recipe.
PUBLISHED = {
    "llama2-7b": (LLAMA2_7B, layout(8, 1, 1), 4096, 128, 16934, 780),
    "llama2-13b": (LLAMA2_13B, layout(16, 1, 4, 10), 4096, 128, 8715, 760),
    "llama2-70b": (LLAMA2_70B, layout(64, 4, 4, 20), 4096, 128, 1728, 768),
    "llama3-70b": (LLAMA3_70B, layout(64, 4, 4, 5, context=2), 8192, 128, 1524, 734),
    "llama3-70b-sft": (LLAMA3_70B, layout(32, 4, 4, 5), 4096, 32, None, None),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_layouts_that_were_published_for_80_gb_fit(name: str):
    model, parallel, length, batch, _, _ = PUBLISHED[name]
    _, memory = estimate.peak_memory(model, parallel, BF16, sft(length, batch))
    assert memory.total <= GPUS["h100"].memory * GIB


@pytest.mark.parametrize("name", [n for n, row in PUBLISHED.items() if row[4]])
def test_flops_are_those_of_published_speeds(name: str):
    """The published figures count attention without the causal mask, which is twice our count."""
    model, _, length, _, speed, tflops = PUBLISHED[name]
    assert estimate.training_flops(model, 1, 2 * length) * speed == pytest.approx(tflops * 1e12, rel=0.01)


@pytest.mark.parametrize(
    ("model", "parallel"),
    [(LLAMA2_70B, layout(8, 8, 1)), (LLAMA3_70B, layout(16, 4, 4, 5)), (LLAMA2_7B, layout(1, 1, 1))],
)
def test_what_cannot_fit_does_not(model: ModelSection, parallel: ParallelSection):
    """At 16 bytes or more per parameter, 70B with Adam needs over a terabyte."""
    assert estimate.peak_memory(model, parallel, BF16, sft(4096, 32))[1].total > GPUS["h100"].memory * GIB


def test_each_remedy_saves_what_it_is_for():
    def of(parallel: ParallelSection, recompute: str = "none", precision: PrecisionSection = BF16) -> estimate.Memory:
        asked = dataclasses.replace(precision, recompute=recompute)
        return estimate.stage_memory(LLAMA2_70B, parallel, asked, sft(4096, 32), 0)

    base = of(layout(32, 4, 4))
    assert of(layout(32, 4, 4), "full").activations < of(layout(32, 4, 4), "selective").activations < base.activations
    plain = dataclasses.replace(layout(32, 4, 4), sequence=False)
    assert of(plain).activations > base.activations
    assert of(layout(64, 4, 4, context=2)).activations == base.activations / 2
    assert of(layout(64, 4, 4, context=2)).optimizer == base.optimizer / 2
    assert of(dataclasses.replace(layout(32, 4, 4), distributed_optimizer=False)).optimizer == 2 * base.optimizer
    assert of(layout(32, 4, 4, 5)).activations == pytest.approx(base.activations * (1 + 3 / 20))


def test_a_pair_is_two_documents_and_a_replayed_example_a_third():
    cfg = compose("llama2_70b")
    assert [w.documents for w in estimate.works(cfg)] == [1, 2]
    assert [w.documents for w in estimate.works(compose("tiny"))] == [1, 1, 3]


def test_a_save_copies_each_weight_and_state_once_to_host_memory():
    """Llama 2 7B at TP2 on 8 GPUs: 14 bytes per parameter; with gathered float32 state it would be 4 x 12 + 2 per parameter."""
    parallel = layout(8, 2, 1)
    found = estimate.save_memory(LLAMA2_7B, parallel, BF16)
    assert found == pytest.approx(14 * 6_738_415_616, rel=1e-3)
    assert estimate.save_memory(LLAMA2_7B, dataclasses.replace(parallel, nodes=4), BF16) == pytest.approx(found / 4)


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA T4", None),
        ("NVIDIA A100-PCIE-40GB", "a100"),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA H100 NVL", None),
    ],
)
def test_a_gpu_is_known_by_its_drivers_name(device: str, name: str | None):
    assert estimate.gpu_of(device) == (GPUS[name] if name else None)

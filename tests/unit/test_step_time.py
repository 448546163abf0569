"""The estimated step against published speeds and rules; layouts that fit, and their order."""

import dataclasses

import pytest

from nemo_srlm.config.compose import compose
from nemo_srlm.config.training import DpoSection, ParallelSection, PrecisionSection, SftSection
from nemo_srlm.errors import ConfigError
from nemo_srlm.report.estimate import SAMPLE, sample
from nemo_srlm.train import layout_search
from nemo_srlm.train.estimate import GIB, GPUS, Work, peak_memory, training_flops, works
from nemo_srlm.train.layout import world_size
from nemo_srlm.train.lengths import lognormal, mean_tokens
from nemo_srlm.train.step_time import EFFICIENCY, StepCost, exposed_seconds, row_seconds, step_cost
from tests.unit.test_estimate import BF16, LLAMA2_7B, LLAMA2_70B, PUBLISHED, layout, sft

H100 = GPUS["h100"]
LARGE = [
    "llama2_70b", "llama2_70b_fp8", "llama2_13b", "llama2_7b", "llama3_70b", "llama3_8b", "mistral_7b", "qwen2_7b", "qwen3_4b",
    "smollm2_1b",
]  # fmt: skip
FP8 = PrecisionSection(fp8="hybrid", fp8_recipe="tensorwise")


@pytest.mark.parametrize(("name", "within"), [("llama2-70b", 0.15), ("llama3-70b", 0.15), ("llama2-7b", 0.4)])
def test_the_speed_is_near_the_published_one(name: str, within: float):
    """NeMo 24.09 on H100, FP8; full rows, so padding plays no part."""
    model, parallel, length, batch, speed, _ = PUBLISHED[name]
    assert speed is not None
    found = step_cost(model, parallel, FP8, sft(length, batch), H100, [(length,)] * batch)
    assert found.useful == 1.0
    assert found.tokens / found.seconds / world_size(parallel) == pytest.approx(speed, rel=within)


def test_one_gpu_takes_the_flops_of_its_rows_and_the_optimizer():
    work, one = sft(4096, 2), layout(1, 1, 1)
    found = step_cost(LLAMA2_7B, one, BF16, work, H100, [(4096,), (4096,)])
    compute = training_flops(LLAMA2_7B, 2 * 4096, 2 * 4096**2) / (EFFICIENCY * H100.bf16 * 1e12)
    assert found.bubble == 0.0
    assert found.waiting == pytest.approx(0.0)
    assert found.seconds == pytest.approx(compute + exposed_seconds(LLAMA2_7B, one, BF16, H100, compute / 2))


def test_the_bubble_is_that_of_the_interleaved_schedule():
    """(p - 1) / (v m) of the computing time (Narayanan et al. 2021, section 2.2)."""
    found = step_cost(LLAMA2_70B, layout(32, 4, 4, 5), BF16, sft(4096, 32), H100, [(4096,)] * 32)
    assert found.bubble == pytest.approx((3 / 80) / (1 + 3 / 80))


def lognormal_units(documents: int) -> list[tuple[int, ...]]:
    return lognormal(16 * SAMPLE, documents, 4096)


def units_of(work: Work) -> list[tuple[int, ...]]:
    return lognormal(16 * SAMPLE, work.documents, work.section.max_length)


def shipped(budget: int, documents: int) -> StepCost:
    """The 70B layout that was shipped before (64 GPUs), with rows filled to `budget`."""
    section = DpoSection(max_tokens_per_row=budget) if documents == 2 else SftSection(max_tokens_per_row=budget)
    work = Work("x", section, documents)
    return step_cost(LLAMA2_70B, layout(64, 8, 4, 5), BF16, work, H100, lognormal_units(documents))


@pytest.mark.parametrize(("documents", "before"), [(1, 0.38), (2, 0.46)])
def test_one_example_a_row_leaves_more_than_half_of_the_positions_empty(documents: int, before: float):
    assert shipped(0, documents).useful == pytest.approx(before, abs=0.03)


@pytest.mark.parametrize("name", LARGE)
def test_the_shipped_layouts_fit_and_nine_of_ten_of_their_positions_are_tokens(name: str):
    cfg = compose(name)
    for work in works(cfg):
        assert peak_memory(cfg.model, cfg.parallel, cfg.precision, work)[1].total <= H100.memory * GIB
        found = step_cost(cfg.model, cfg.parallel, cfg.precision, work, H100, units_of(work))
        assert found.useful >= 0.9
        assert found.bubble < 0.15


def test_the_shipped_70b_layout_is_the_fastest_of_its_gpus():
    cfg = compose("llama2_70b")
    todo = works(cfg)
    units = {work.name: lognormal_units(work.documents) for work in todo}
    found = layout_search.ranking(cfg.model, cfg.precision, todo, {"sft": 900, "dpo": 600}, units, H100, 32)
    best, other = found[0].fit.parallel, cfg.parallel
    for field in ("tensor", "pipeline", "virtual_pipeline", "context", "sequence"):
        assert getattr(best, field) == getattr(other, field)
    assert world_size(other) == 32
    assert found[0].budget == cfg.sft.max_tokens_per_row == cfg.dpo.max_tokens_per_row
    assert found[0].gpu_hours < found[-1].gpu_hours


@pytest.mark.parametrize(
    ("change", "slower"),
    [({"recompute": "full"}, True), ({"grad_reduce_in_fp32": False}, False)],
)
def test_a_precision_setting_changes_the_step_in_its_direction(change: dict[str, object], slower: bool):
    work, units = sft(4096, 16), [(4096,)] * 16
    plain = step_cost(LLAMA2_7B, layout(16, 1, 1), BF16, work, H100, units).seconds
    other = step_cost(LLAMA2_7B, layout(16, 1, 1), dataclasses.replace(BF16, **change), work, H100, units).seconds
    assert (other > plain) is slower
    assert other != plain


def test_overlapped_tensor_parallel_communication_costs_less():
    plain = layout(8, 8, 1)
    overlapped = dataclasses.replace(plain, tp_comm_overlap=True)
    seconds = [row_seconds(LLAMA2_70B, p, BF16, H100, EFFICIENCY, 4096, 4096**2) for p in (plain, overlapped)]
    assert seconds[1] < seconds[0]


def test_the_smallest_layouts_fit_and_smaller_ones_do_not():
    todo = works(compose("llama2_7b"))
    fits = layout_search.smallest_fits(LLAMA2_7B, BF16, todo, H100.memory, max_gpus=8)
    assert [world_size(f.parallel) for f in fits] == [2, 4, 8]
    assert all(f.memory <= H100.memory * GIB for f in fits)
    assert layout_search.smallest_fits(LLAMA2_7B, BF16, todo, 40.0, max_gpus=2) == []


def test_possible_layouts_keep_tensor_parallelism_inside_a_node():
    found = list(layout_search.possible(LLAMA2_70B, works(compose("llama2_70b")), 64))
    assert found
    assert all(isinstance(p, ParallelSection) and p.tensor <= p.processes == 8 for p in found)


def test_drawn_lengths_have_their_median_and_limit():
    units = lognormal(4000, 1, 600, median=250, sigma=0.8)
    lengths = sorted(unit[0] for unit in units)
    assert len(units) == 4000
    assert lengths[-1] <= 600
    assert 190 < lengths[2000] < 230  # what is longer than the limit is drawn again, so the median falls
    assert units == lognormal(4000, 1, 600, median=250, sigma=0.8)
    assert mean_tokens([(100, 200), (300, 400)]) == 250


def test_lengths_next_to_none_of_which_would_be_kept_are_refused_and_not_drawn_for_ever():
    with pytest.raises(
        ConfigError, match=r"dpo\.max_length: 24, and of examples with a median of 250 tokens next to none"
    ):
        sample(compose("llama2_7b", ["dpo.max_length=24"]), 250, 0.8)
    with pytest.raises(ConfigError, match=r"sft\.max_length: 4096, .* lower --median"):
        sample(compose("llama2_7b"), 1e6, 0.8)


def test_a_width_that_no_integer_holds_gives_lengths_within_the_limit():
    assert all(8 <= n <= 600 for unit in lognormal(100, 2, 600, median=250, sigma=1e6) for n in unit)

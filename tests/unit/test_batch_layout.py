"""The row lengths that FP8 and the parallel layout need."""

import pytest
from megatron.core.enums import Fp8Recipe
from megatron.core.fp8_utils import get_fp8_align_size

from nemo_srlm.config.fields import rules
from nemo_srlm.config.training import ParallelSection, PrecisionSection, TrainSection
from nemo_srlm.train.batches import batch_layout, row_length

SHARDED = ParallelSection(tensor=4, sequence=True, context=2)


@pytest.mark.parametrize("recipe", rules(PrecisionSection)["fp8_recipe"].choices)
def test_rows_are_padded_to_what_the_fp8_recipe_needs_on_every_rank(recipe: str):
    fp8 = PrecisionSection(fp8="hybrid", fp8_recipe=recipe)
    needed = get_fp8_align_size(Fp8Recipe(recipe))
    assert batch_layout(TrainSection(), ParallelSection(), fp8).multiple == needed
    assert batch_layout(TrainSection(), SHARDED, fp8).multiple == 4 * 2 * needed


def test_rows_whose_scales_go_through_user_buffers_are_padded_to_what_these_take():
    """Transformer Engine exchanges MXFP8's scales in groups of 128 rows of a rank (fill_userbuffers_buffer_for_all_gather)."""
    parallel = ParallelSection(tensor=4, sequence=True, tp_comm_overlap=True)
    for recipe, needed in (("delayed", 16), ("tensorwise", 16), ("mxfp8", 128)):
        precision = PrecisionSection(fp8="hybrid", fp8_recipe=recipe)
        assert batch_layout(TrainSection(), parallel, precision).multiple == 4 * needed


def test_rows_without_fp8_are_padded_for_the_layout_alone():
    assert batch_layout(TrainSection(), SHARDED, PrecisionSection()).multiple == 4 * 2


def test_rows_of_few_lengths_are_padded_to_their_multiple_and_to_what_the_layout_needs():
    section = TrainSection(row_multiple=12)
    assert batch_layout(section, ParallelSection(), PrecisionSection()).multiple == 12
    layout = batch_layout(section, SHARDED, PrecisionSection())
    assert layout.multiple == 24
    assert row_length([[5]], layout) == 24

"""The row lengths that FP8 and the parallel layout need."""

import numpy as np
import pytest
from megatron.core.enums import Fp8Recipe
from megatron.core.fp8_utils import get_fp8_align_size

from nemo_srlm.config.fields import rules
from nemo_srlm.config.training import ParallelSection, PrecisionSection, TrainSection
from nemo_srlm.data.chat import Document
from nemo_srlm.train.batches import batch_layout, collate, eval_batches, row_length

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


def document(length: int) -> Document:
    return Document(np.arange(length, dtype=np.int32), np.arange(length, dtype=np.float32).clip(0, 1))


@pytest.mark.parametrize(
    ("parallel", "row_multiple"),
    [
        (ParallelSection(context=2), 1), (ParallelSection(context=2), 50), (ParallelSection(context=4), 100),
        (ParallelSection(tensor=3, sequence=True, context=2), 1), (ParallelSection(tensor=2, sequence=True, context=4), 1),
    ],
)  # fmt: skip
def test_what_fills_a_row_up_can_be_cut_for_the_context_ranks_too(parallel: ParallelSection, row_multiple: int):
    layout = batch_layout(TrainSection(row_multiple=row_multiple), parallel, PrecisionSection())
    for length in range(2, 200):
        batch = collate([(document(length),)], [0], layout)
        assert batch.bounds_N1 is not None
        assert not (np.diff(batch.bounds_N1) % (2 * parallel.context)).any()


def test_the_last_padded_rows_of_a_pass_have_the_shape_of_the_others_where_stages_exchange_them():
    documents = [(document(6 + i),) for i in range(10)]
    layout = batch_layout(TrainSection(packing=False), ParallelSection(pipeline=2), PrecisionSection())
    batches = eval_batches(documents, 4, 1, 0, layout)
    assert {batch.tokens_BS.shape for batch in batches} == {(4, 14)}
    assert [batch.num_documents for batch in batches] == [4, 4, 2]
    assert (batches[-1].segments_BS[2:] == 2).all()
    assert not batches[-1].weights_BS[2:].any()
    alone = eval_batches(
        documents, 4, 1, 0, batch_layout(TrainSection(packing=False), ParallelSection(), PrecisionSection())
    )
    assert alone[-1].tokens_BS.shape == (2, 6)

"""CUDA graphs of the layers' MLPs (precision.cuda_graphs): recorded by Megatron's helper after a few steps, then replayed.

Rows have one length then, and there is one pipeline stage, so one recording serves every row of every step. Evaluations and
reference passes do not use it: Megatron replays in training mode alone.
"""

from megatron.core import num_microbatches_calculator
from megatron.core.transformer.cuda_graphs import TECudaGraphHelper

from nemo_srlm.train.batches import row_length
from nemo_srlm.train.layout import data_parallel_size
from nemo_srlm.train.megatron.job import Trainer

WARMUP = 3  # steps before the recording: kernels are chosen, workspaces and NCCL's buffers are there


def record(trainer: Trainer) -> None:
    """Records the graphs. Every rank calls it between two steps; gradients are zero afterwards."""
    job, chunks = trainer.job, trainer.chunks
    overlapped = chunks[0].ddp_config.overlap_param_gather
    num_microbatches_calculator.unset_num_microbatches_calculator()
    num_microbatches_calculator.init_num_microbatches_calculator(  # the helper asks how often a layer has run
        rank=0, rampup_batch_size=None, global_batch_size=job.train.global_batch, micro_batch_size=1,
        data_parallel_size=data_parallel_size(job.parallel),
    )  # fmt: skip
    length = row_length([[trainer.layout.budget]], trainer.layout)
    helper = TECudaGraphHelper(
        model=chunks, config=chunks[0].config, seq_length=length, micro_batch_size=1, optimizers=[trainer.optimizer]
    )
    if overlapped:  # a hook that waits for a gather cannot be recorded; the helper calls it before each replay
        for chunk in chunks:
            chunk.disable_forward_pre_hook()
    helper.create_cudagraphs()
    if overlapped:
        for chunk in chunks:
            chunk.enable_forward_pre_hook()
        helper.cuda_graph_set_manual_hooks()

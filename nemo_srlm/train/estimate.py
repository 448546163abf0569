"""What a training layout costs, before anything is started: parameters, FLOPs, memory per GPU. Its time: step_time.py.

Pure functions. Sizes are in bytes unless a name says otherwise. Activation memory follows Korthikanti et al. 2022 (arXiv
2205.05198), adapted to flash attention, SwiGLU and grouped queries. FLOPs are the model's: 6 per parameter and token, and
causal attention; recomputation is not counted, as in the definition of MFU.
"""

import dataclasses
from dataclasses import dataclass

from nemo_srlm.config.schema import Config
from nemo_srlm.config.training import ModelSection, ParallelSection, PrecisionSection, TrainSection
from nemo_srlm.core.pipeline import base_ref, trains_m1
from nemo_srlm.train.layout import data_parallel_size, padded_vocab_size

GIB = 2**30
OVERHEAD = 3 * GIB  # CUDA context, NCCL buffers, workspaces of cuBLAS and Transformer Engine
FRAGMENTATION = 0.05  # share of activations and logits that the allocator holds but cannot use
WIDTH = {"fp32": 4, "bf16": 2}


@dataclass(frozen=True)
class Gpu:
    """`memory` in GiB, as the driver offers it; the rest from the data sheets: dense peaks in TFLOP/s (fp8 0: none), GB/s.

    `network` is what one GPU has to other nodes: a 400 Gbit/s adapter each (200 Gbit/s with A100), as in a DGX.
    """

    memory: float
    bf16: float
    fp8: float
    bandwidth: float  # of its memory
    nvlink: float  # to the other GPUs of a node, in one direction (l40s: PCIe)
    network: float = 50.0

    def peak(self, precision: PrecisionSection) -> float:
        return self.fp8 if precision.fp8 != "none" else self.bf16


GPUS = {
    "a100": Gpu(79.2, 312.0, 0.0, 2039.0, 300.0, 25.0), "h100": Gpu(79.1, 989.4, 1978.9, 3350.0, 450.0),
    "h200": Gpu(139.8, 989.4, 1978.9, 4800.0, 450.0), "b200": Gpu(178.3, 2250.0, 4500.0, 8000.0, 900.0),
    "l40s": Gpu(44.4, 362.0, 733.0, 864.0, 32.0),
}  # fmt: skip


def gpu_of(device_name: str) -> Gpu | None:
    """The table's entry for a driver's device name ("NVIDIA H100 80GB HBM3"), None for an unknown one.

    Unknown too: the cards for PCIe of H100 and H200, which compute less than the modules of the table; A100's do not.
    """
    words = device_name.lower().replace("-", " ").split()
    if {"h100", "h200"} & set(words) and {"pcie", "nvl"} & set(words):
        return None
    return next((gpu for name, gpu in GPUS.items() if name in words), None)


@dataclass(frozen=True)
class Work:
    """What a training stage's cost depends on. `documents`: sequences per unit (SFT 1, a DPO pair 2, + 1 replayed)."""

    name: str
    section: TrainSection
    documents: int

    @property
    def micro_tokens(self) -> int:
        """Tokens of the longest micro-batch: every document has the maximum length, or the row is filled to its budget."""
        longest = self.documents * self.section.micro_batch * self.section.max_length
        return max(longest, self.section.max_tokens_per_row)


def works(cfg: Config) -> list[Work]:
    """The training stages of a run."""
    found = [Work("pretrain", cfg.pretrain, 1)] if base_ref(cfg).stage == "pretrain" else []
    found += [Work("sft", cfg.sft, 1)] if trains_m1(cfg) else []
    return [*found, Work("dpo", cfg.dpo, 3 if cfg.dpo.replay_weight else 2)]


# --- parameters and FLOPs ------------------------------------------------------------------------------------------


def layer_matrices(model: ModelSection) -> int:
    """Elements of one layer's matrices: query, key, value, output; gate, up, down."""
    h, query, kv = model.hidden_size, model.query_size, model.kv_size
    return h * (query + 2 * kv) + query * h + 3 * h * model.ffn_hidden_size


def layer_vectors(model: ModelSection, tensor: int) -> int:
    """Elements of one layer's vectors on a rank: norms are on every rank, tensor parallelism shards the QKV biases."""
    norms = 2 * model.hidden_size + (2 * model.head_size if model.qk_norm else 0)
    return norms + ((model.query_size + 2 * model.kv_size) // tensor if model.qkv_bias else 0)


def stage_parameters(model: ModelSection, parallel: ParallelSection, stage: int) -> int:
    """Parameters per rank of a pipeline stage."""
    first, last = stage == 0, stage == parallel.pipeline - 1
    layers, h = model.num_layers // parallel.pipeline, model.hidden_size
    table = padded_vocab_size(model, parallel.tensor) * h // parallel.tensor
    count = layers * (layer_matrices(model) // parallel.tensor + layer_vectors(model, parallel.tensor))
    if first:
        count += table
    if last:
        count += h + (0 if first and model.tie_embeddings else table)
    return count


def total_parameters(model: ModelSection) -> int:
    """Parameters of the whole model, each counted once."""
    return stage_parameters(model, ParallelSection(processes=1), 0)


def training_flops(model: ModelSection, tokens: float, squares: float, targets: float | None = None) -> float:
    """FLOPs of forward and backward over documents with `tokens` tokens in total; `squares`: sum of squared lengths.

    targets: tokens that have a loss, the only ones whose logits are needed. None: all.
    """
    layers, head = model.num_layers * layer_matrices(model), model.vocab_size * model.hidden_size
    products = layers * tokens + head * (tokens if targets is None else targets)
    return 6.0 * products + 6.0 * model.num_layers * model.query_size * squares


# --- memory --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Memory:
    """Bytes per GPU, by part."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    other: float

    @property
    def total(self) -> float:
        return float(sum(dataclasses.asdict(self).values()))


def layer_activations(
    model: ModelSection, parallel: ParallelSection, precision: PrecisionSection, tokens: int, dropout: float,
    fused: bool = True,
) -> float:  # fmt: skip
    """Bytes per GPU that one layer keeps for the backward pass of a micro-batch of `tokens` tokens.

    `fused`: with Transformer Engine's kernels. Without them SwiGLU also keeps the activated gate, and keys and values
    are repeated for every query head.
    """
    h, q, f, wide = model.hidden_size, model.query_size, model.ffn_hidden_size, WIDTH[precision.dtype]
    kv = model.kv_size if fused else q
    fp8 = precision.fp8 != "none"
    narrow = 1 if fp8 else wide  # what a matrix product keeps of its input
    whole = 2 * h * wide + 2 * h * narrow + (2 * h if dropout else 0)  # two norms: in, out; dropout masks
    split = (q + 2 * kv) * wide + q * wide + (q if fp8 else 0)  # query, key, value, the attention's output
    split += (q + model.kv_size) * wide if model.qk_norm else 0  # queries and keys before their norms
    split += 0 if precision.recompute == "selective" else 4 * model.num_attention_heads  # log-sum-exp of the softmax
    split += 2 * f * wide + f * narrow + (0 if fused else f * wide)  # gate and up; their product
    shards = parallel.tensor if parallel.sequence else 1
    return tokens / parallel.context * (whole / shards + split / parallel.tensor)


def layers_in_flight(model: ModelSection, parallel: ParallelSection, stage: int, micro_batches: int) -> int:
    """Layers x micro-batches whose activations a stage holds at its peak, under 1F1B or interleaved 1F1B."""
    p, v = parallel.pipeline, parallel.virtual_pipeline
    chunks = p - stage if v == 1 else (p - stage - 1) * 2 + (v - 1) * p + 1
    return min(chunks, micro_batches * v) * model.num_layers // (p * v)


def gradient_width(precision: PrecisionSection) -> int:
    """Bytes of a gradient in the buffers that are summed over micro-batches and replicas."""
    return 4 if precision.grad_reduce_in_fp32 else WIDTH[precision.dtype]


def micro_batches(section: TrainSection, parallel: ParallelSection) -> int:
    """Of a replica in a step; with max_tokens_per_row at most so many."""
    return section.global_batch // (data_parallel_size(parallel) * section.micro_batch)


def stage_memory(
    model: ModelSection, parallel: ParallelSection, precision: PrecisionSection, work: Work, stage: int
) -> Memory:
    """Bytes per GPU of a pipeline stage, with every document of the maximum length."""
    wide, tokens = WIDTH[precision.dtype], work.micro_tokens
    count = stage_parameters(model, parallel, stage)
    copies = 0.0
    if precision.fp8 != "none" and not precision.fp8_param_gather:
        # Transformer Engine keeps each weight in FP8 twice, as it is and transposed: beside the bf16 one, or in its place
        copies = 2.0 * model.num_layers / parallel.pipeline * layer_matrices(model) / parallel.tensor
    state = count * (8.0 if precision.dtype == "fp32" else 12.0)  # two moments, and the float32 weights of bf16 ones
    if parallel.distributed_optimizer:
        state /= data_parallel_size(parallel) * parallel.context
    layer = layer_activations(model, parallel, precision, tokens, work.section.dropout)
    in_flight = layers_in_flight(model, parallel, stage, micro_batches(work.section, parallel))
    if precision.recompute == "full":  # the layers' inputs, and the activations of the layer being recomputed
        shards = parallel.context * (parallel.tensor if parallel.sequence else 1)
        activations = in_flight * tokens * model.hidden_size * wide / shards + layer
    else:
        activations = in_flight * layer
    logits = 0.0
    if stage == parallel.pipeline - 1:  # the logits, their softmax in float32, the logits' gradient
        vocabulary = padded_vocab_size(model, parallel.tensor) / parallel.tensor
        copies_of_logits = 2 * wide + (0 if precision.cross_entropy == "te" else 4)  # te keeps no softmax
        logits = tokens / parallel.context * vocabulary * copies_of_logits
    other = OVERHEAD + FRAGMENTATION * (activations + logits)
    return Memory(count * wide + copies, float(gradient_width(precision) * count), state, activations, logits, other)


def peak_memory(
    model: ModelSection, parallel: ParallelSection, precision: PrecisionSection, work: Work
) -> tuple[int, Memory]:
    """(pipeline stage, bytes) of the fullest GPU: the first stage holds most micro-batches, the last the logits."""
    ends = sorted({0, parallel.pipeline - 1})
    return max(((i, stage_memory(model, parallel, precision, work, i)) for i in ends), key=lambda found: found[1].total)


def save_memory(model: ModelSection, parallel: ParallelSection, precision: PrecisionSection) -> float:
    """Bytes of host memory per node while a training checkpoint is written: each rank copies what it writes.

    That is its part of the float32 weights and both moments, and its share of the weights that its replicas hold too.
    """
    count = max(stage_parameters(model, parallel, stage) for stage in (0, parallel.pipeline - 1))
    replicas = data_parallel_size(parallel) * parallel.context
    return parallel.processes * count * (WIDTH[precision.dtype] + 12.0) / replicas

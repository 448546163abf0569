"""What a training layout costs, before anything is started: memory per GPU, step time, tokens/s, the layouts that fit.

Pure functions. Sizes are in bytes unless a name says otherwise. Activation memory follows Korthikanti et al. 2022 (arXiv
2205.05198), adapted to flash attention, SwiGLU and grouped queries. FLOPs are the model's: 6 per parameter and token, and
causal attention; recomputation is not counted, as in the definition of MFU.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from nemo_srlm.config.schema import Config
from nemo_srlm.config.training import ModelSection, ParallelSection, PrecisionSection, TrainSection
from nemo_srlm.core.pipeline import base_ref
from nemo_srlm.errors import ConfigError
from nemo_srlm.train.layout import check_batches, check_layout, data_parallel_size, padded_vocab_size, world_size

GIB = 2**30
OVERHEAD = 3 * GIB  # CUDA context, NCCL buffers, workspaces of cuBLAS and Transformer Engine
FRAGMENTATION = 0.05  # share of activations and logits that the allocator holds but cannot use
WIDTH = {"fp32": 4, "bf16": 2}
MIN_CHUNK = 4  # fewest layers per virtual pipeline chunk in the layouts that are proposed
RECOMPUTE = ("none", "selective", "full")  # cheapest in time first


@dataclass(frozen=True)
class Gpu:
    """`memory` in GiB, as the driver offers it; dense peaks in TFLOP/s from the data sheets (0: no FP8)."""

    memory: float
    bf16: float
    fp8: float = 0.0

    def peak(self, precision: PrecisionSection) -> float:
        return self.fp8 if precision.fp8 != "none" else self.bf16


GPUS = {
    "a100": Gpu(79.2, 312.0), "h100": Gpu(79.1, 989.4, 1978.9), "h200": Gpu(139.8, 989.4, 1978.9),
    "b200": Gpu(178.3, 2250.0, 4500.0), "l40s": Gpu(44.4, 362.0, 733.0),
}  # fmt: skip


def gpu_of(device_name: str) -> Gpu | None:
    """The table's entry for a driver's device name ("NVIDIA H100 80GB HBM3"), None for an unknown one."""
    words = device_name.lower().replace("-", " ").split()
    return next((gpu for name, gpu in GPUS.items() if name in words), None)


@dataclass(frozen=True)
class Work:
    """What a training stage's cost depends on. `documents`: sequences per unit (SFT 1, a DPO pair 2, + 1 replayed)."""

    name: str
    section: TrainSection
    documents: int

    @property
    def micro_tokens(self) -> int:
        """Tokens of a micro-batch in which every document has the maximum length."""
        return self.documents * self.section.micro_batch * self.section.max_length

    @property
    def step_tokens(self) -> int:
        return self.documents * self.section.global_batch * self.section.max_length


def works(cfg: Config) -> list[Work]:
    """The training stages of a run."""
    found = [Work("pretrain", cfg.pretrain, 1)] if base_ref(cfg).stage == "pretrain" else []
    return [*found, Work("sft", cfg.sft, 1), Work("dpo", cfg.dpo, 3 if cfg.dpo.replay_weight else 2)]


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


def training_flops(model: ModelSection, tokens: float, squares: float) -> float:
    """FLOPs of forward and backward over documents with `tokens` tokens in total; `squares`: sum of squared lengths."""
    matrices = model.num_layers * layer_matrices(model) + model.vocab_size * model.hidden_size
    return 6.0 * matrices * tokens + 6.0 * model.num_layers * model.query_size * squares


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
    split += (q + kv) * wide if model.qk_norm else 0  # queries and keys before their norms
    split += 0 if precision.recompute == "selective" else 4 * model.num_attention_heads  # log-sum-exp of the softmax
    split += 2 * f * wide + f * narrow + (0 if fused else f * wide)  # gate and up; their product
    shards = parallel.tensor if parallel.sequence else 1
    return tokens / parallel.context * (whole / shards + split / parallel.tensor)


def layers_in_flight(model: ModelSection, parallel: ParallelSection, stage: int, micro_batches: int) -> int:
    """Layers x micro-batches whose activations a stage holds at its peak, under 1F1B or interleaved 1F1B."""
    p, v = parallel.pipeline, parallel.virtual_pipeline
    chunks = p - stage if v == 1 else (p - stage - 1) * 2 + (v - 1) * p + 1
    return min(chunks, micro_batches * v) * model.num_layers // (p * v)


def micro_batches(section: TrainSection, parallel: ParallelSection) -> int:
    return section.global_batch // (data_parallel_size(parallel) * section.micro_batch)


def stage_memory(
    model: ModelSection, parallel: ParallelSection, precision: PrecisionSection, work: Work, stage: int
) -> Memory:
    """Bytes per GPU of a pipeline stage, with every document of the maximum length."""
    wide, tokens = WIDTH[precision.dtype], work.micro_tokens
    count = stage_parameters(model, parallel, stage)
    copies = 0.0
    if precision.fp8 != "none":  # Transformer Engine keeps each weight in FP8 twice: as it is and transposed
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
        logits = tokens / parallel.context * vocabulary * (2 * wide + 4)
    other = OVERHEAD + FRAGMENTATION * (activations + logits)
    return Memory(count * wide + copies, 4.0 * count, state, activations, logits, other)


def peak_memory(
    model: ModelSection, parallel: ParallelSection, precision: PrecisionSection, work: Work
) -> tuple[int, Memory]:
    """(pipeline stage, bytes) of the fullest GPU: the first stage holds most micro-batches, the last the logits."""
    ends = sorted({0, parallel.pipeline - 1})
    return max(((i, stage_memory(model, parallel, precision, work, i)) for i in ends), key=lambda found: found[1].total)


# --- time and fitting layouts --------------------------------------------------------------------------------------


def step_seconds(model: ModelSection, work: Work, gpus: int, peak_tflops: float, mfu: float) -> float:
    """Seconds of a step with every document of the maximum length, at a given model FLOPs utilisation."""
    flops = training_flops(model, work.step_tokens, work.step_tokens * work.section.max_length)
    return flops / (gpus * peak_tflops * 1e12 * mfu)


def bubble(parallel: ParallelSection, work: Work) -> float:
    """Share of a step that a pipeline stage is idle: b / (1 + b), b = (p - 1) / (v m) (Narayanan et al. 2021, section 2.2)."""
    idle = (parallel.pipeline - 1) / (parallel.virtual_pipeline * micro_batches(work.section, parallel))
    return idle / (1.0 + idle)


@dataclass(frozen=True)
class Fit:
    """A layout that fits, and the bytes on its fullest GPU over all training stages."""

    parallel: ParallelSection
    precision: PrecisionSection
    memory: float


def _possible(model: ModelSection, todo: Sequence[Work], gpus: int) -> Iterator[ParallelSection]:
    """Every valid layout of exactly `gpus` GPUs; tensor and context parallelism stay within a node of 8."""
    sizes = [n for n in range(1, gpus + 1) if gpus % n == 0]
    pipelines = [n for n in sizes if model.num_layers % n == 0]
    for tensor, context, pipeline in itertools.product(sizes, sizes, pipelines):
        if tensor > 8 or context > 8 or gpus % (tensor * context * pipeline):
            continue
        for chunks in range(1, model.num_layers // pipeline + 1):
            # chunks of few layers spend most of their time on communication
            if chunks > 1 and model.num_layers % (pipeline * chunks * MIN_CHUNK):
                continue
            found = ParallelSection(
                processes=gpus, tensor=tensor, pipeline=pipeline, virtual_pipeline=chunks, context=context,
                sequence=tensor > 1,
            )  # fmt: skip
            try:
                check_layout(model, found)
                for work in todo:
                    check_batches(work.name, work.section, found)
            except ConfigError:
                continue
            yield found


def smallest_fits(
    model: ModelSection, precision: PrecisionSection, todo: Sequence[Work], memory_gib: float, max_gpus: int = 512
) -> list[Fit]:
    """The best layout for each of the three smallest GPU counts (powers of two) in which every training stage fits.

    Best: least recomputation, then least context, pipeline and tensor parallelism, then the shortest bubble.
    """
    fits: list[Fit] = []
    gpus = 1
    while gpus <= max_gpus and len(fits) < 3:
        found = []
        for parallel in _possible(model, todo, gpus):
            for level, recompute in enumerate(RECOMPUTE):
                asked = dataclasses.replace(precision, recompute=recompute)
                memory = max(peak_memory(model, parallel, asked, work)[1].total for work in todo)
                if memory <= memory_gib * GIB:
                    p = parallel
                    rank = (level, p.context, p.pipeline * p.tensor, p.tensor, -p.virtual_pipeline)
                    found.append((rank, Fit(parallel, asked, memory)))
                    break
        if found:
            fits.append(min(found, key=lambda pair: pair[0])[1])
        gpus *= 2
    return fits


# --- words ---------------------------------------------------------------------------------------------------------


def layout_words(parallel: ParallelSection) -> str:
    p = parallel
    words = [f"TP{p.tensor}", f"PP{p.pipeline}"]
    words += [f"VPP{p.virtual_pipeline}"] if p.virtual_pipeline > 1 else []
    words += [f"CP{p.context}"] if p.context > 1 else []
    return " ".join([*words, f"DP{data_parallel_size(p)}", *(["SP"] if p.sequence else [])])


def report(cfg: Config, gpu: Gpu, mfu: float) -> str:
    """The estimate of every training stage of a run as text."""
    model, parallel, precision = cfg.model, cfg.parallel, cfg.precision
    gpus, peak = world_size(parallel), gpu.peak(precision)
    lines = [
        f"{total_parameters(model):,} parameters; {gpus} GPUs: {layout_words(parallel)}, {precision.dtype}"
        f"{'' if precision.fp8 == 'none' else f' with FP8 {precision.fp8}'}, recompute {precision.recompute}"
    ]
    for work in works(cfg):
        stage, memory = peak_memory(model, parallel, precision, work)
        seconds = step_seconds(model, work, gpus, peak, mfu)
        parts = ", ".join(f"{name} {value / GIB:.2f}" for name, value in dataclasses.asdict(memory).items())
        verdict = "fits" if memory.total <= gpu.memory * GIB else "DOES NOT FIT"
        lines += [
            f"{work.name}: {memory.total / GIB:.1f} GiB on the fullest GPU (pipeline stage {stage}) of {gpu.memory} GiB:"
            f" {verdict}",
            f"  GiB: {parts}",
            f"  step of {work.step_tokens:,} tokens: {seconds:.3g} s, {work.step_tokens / seconds:,.0f} tokens/s at MFU"
            f" {mfu:.0%} of {peak:g} TFLOP/s; pipeline bubble {bubble(parallel, work):.0%}",
        ]
    pairs = cfg.prompts.num_prompts * cfg.pairs.max_per_prompt
    lines.append(
        f"dpo reference cache: at most {16 * pairs / 2**20:.2f} MiB of host memory, no GPU memory ({pairs} pairs)"
    )
    fits = smallest_fits(model, precision, works(cfg), gpu.memory)
    lines.append("smallest layouts that fit:" if fits else f"no layout of up to 512 GPUs of {gpu.memory} GiB fits")
    lines += [
        f"  {world_size(f.parallel)} GPUs: {layout_words(f.parallel)}, recompute {f.precision.recompute}:"
        f" {f.memory / GIB:.1f} GiB"
        for f in fits
    ]
    return "\n".join(lines)

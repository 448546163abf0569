"""The config sections of the model and its training: architecture, process layout, precision, pretraining, SFT and DPO."""

from dataclasses import dataclass
from typing import Any

from nemo_srlm.config.fields import MAX_PROCESSES, choice, number, setting
from nemo_srlm.errors import ConfigError

MAX_SIZE = 2**20  # of a layer; the largest published are about 2**17
MAX_VOCABULARY = 2**24


def head_size(hidden_size: int, num_attention_heads: int, head_dim: int) -> int:
    """Size of an attention head, where `head_dim` = 0 stands for hidden_size / num_attention_heads."""
    return head_dim or hidden_size // num_attention_heads


# What the attention of a family has beyond Llama's. It follows from the family: the class in transformers has it too.
QKV_BIAS = ("qwen2",)  # biases of query, key and value
QK_NORM = ("qwen3",)  # an RMSNorm of every query head and key head, before RoPE
NO_HEAD_DIM = ("qwen2",)  # vLLM derives the head size from the hidden size


@dataclass
class ModelSection:
    """The architecture: a decoder with RMSNorm, SwiGLU, RoPE and grouped-query attention."""

    family: str = choice(
        "llama", "mistral", "qwen2", "qwen3",
        help="which file of convert/families/ converts it; qwen2 has QKV biases, qwen3 norms of queries and keys", added=True,
    )  # fmt: skip
    num_layers: int = number(80, at_least=1, at_most=10_000)
    hidden_size: int = number(8192, at_least=1, at_most=MAX_SIZE)
    ffn_hidden_size: int = number(28672, at_least=1, at_most=MAX_SIZE)
    num_attention_heads: int = number(64, at_least=1, at_most=MAX_SIZE)
    num_query_groups: int = number(8, "key/value heads", at_least=1, at_most=MAX_SIZE)
    head_dim: int = number(
        0, "size of an attention head; 0 = hidden_size / num_attention_heads", at_least=0, at_most=MAX_SIZE, added=True
    )
    vocab_size: int = number(
        32000, "of the tokenizer; Megatron pads the table as vocab_multiple says", at_least=1, at_most=MAX_VOCABULARY
    )
    vocab_multiple: int = number(
        1,
        "the vocabulary is padded to a multiple of this x parallel.tensor. Padding rows are zero, and a zero logit still "
        "enters Megatron's softmax: above 1 a padded model differs slightly from the model that vLLM serves",
        at_least=1, execution=True,
    )  # fmt: skip
    max_length: int = number(4096, "longest sequence, in tokens", at_least=1, at_most=MAX_VOCABULARY)
    norm_epsilon: float = number(1e-5, above=0, at_most=1)
    rope_theta: float = number(10000.0, above=0)
    rope_scaling: dict[str, Any] = setting({}, "as rope_scaling in HF's config.json; {} = none")
    tie_embeddings: bool = setting(False, "one table for input and output embeddings")
    init_std: float = number(0.02, "of random weights", above=0, at_most=10)

    @property
    def head_size(self) -> int:
        return head_size(self.hidden_size, self.num_attention_heads, self.head_dim)

    @property
    def query_size(self) -> int:
        """Width of all query heads together, which is that of the attention's output."""
        return self.num_attention_heads * self.head_size

    @property
    def kv_size(self) -> int:
        """Width of all key heads together, or of all value heads."""
        return self.num_query_groups * self.head_size

    @property
    def qkv_bias(self) -> bool:
        return self.family in QKV_BIAS

    @property
    def qk_norm(self) -> bool:
        return self.family in QK_NORM


def check_heads(model: ModelSection, where: object = "model", kv_heads: str = "num_query_groups") -> None:
    """Raises ConfigError when the sizes of the attention contradict each other. `where` names their source, `kv_heads` is what
    the source calls the number of key/value heads."""
    heads, groups = model.num_attention_heads, model.num_query_groups
    if not model.head_dim and model.hidden_size % heads:
        raise ConfigError(f"{where}.num_attention_heads", f"{heads}", f"a divisor of {model.hidden_size} (hidden_size)",
                          "or set model.head_dim")  # fmt: skip
    if model.family in NO_HEAD_DIM and model.head_size * heads != model.hidden_size:
        raise ConfigError(f"{where}.head_dim", f"{model.head_dim}", f"hidden_size / heads in the family {model.family}")
    if heads % groups:
        raise ConfigError(f"{where}.{kv_heads}", f"{groups}", f"a divisor of {heads} heads")


ROPE_FIELDS = {  # kind -> the numbers that it needs, as in HF's config.json
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}


def check_rope(model: ModelSection) -> None:
    """Raises ConfigError for a rope_scaling that no family computes."""
    if not model.rope_scaling:
        return
    found = dict(model.rope_scaling)
    kind = found.pop("rope_type", found.pop("type", None))
    if kind == "default" and not found:
        return
    fields = ROPE_FIELDS.get(kind) if isinstance(kind, str) else None
    numbers = all(type(value) in (int, float) and value > 0 for value in found.values())
    if fields is None or not numbers or not {"factor"} <= found.keys() <= set(fields):
        raise ConfigError(
            "model.rope_scaling", repr(model.rope_scaling)[:200],
            "{}, or rope_type with numbers above 0: " + "; ".join(f"{n}: {', '.join(f)}" for n, f in ROPE_FIELDS.items()),
        )  # fmt: skip


@dataclass
class ParallelSection:
    """Layout of the training processes. All execution: a checkpoint loads under any other layout."""

    nodes: int = number(1, at_least=1, execution=True)
    processes: int = number(
        8, "per node (GPUs; on a CPU, gloo processes)", at_least=1, at_most=MAX_PROCESSES, execution=True
    )
    threads: int = number(1, "CPU threads per process, on machines without a GPU", at_least=1, execution=True)
    tensor: int = number(1, "tensor-parallel size (TP)", at_least=1, execution=True)
    pipeline: int = number(1, "pipeline-parallel size (PP)", at_least=1, execution=True)
    virtual_pipeline: int = number(1, "model chunks per pipeline stage", at_least=1, execution=True)
    context: int = number(1, "context-parallel size (CP)", at_least=1, execution=True)
    sequence: bool = setting(False, "sequence parallelism, in the tensor-parallel group", execution=True)
    distributed_optimizer: bool = setting(True, "optimizer state sharded over the replicas", execution=True)
    tp_comm_overlap: bool = setting(
        False,
        "Transformer Engine exchanges tensor-parallel activations in pieces while it multiplies. Its buffers have one size, "
        "so every row is padded to max_tokens_per_row, which the longest example must fit: for full rows only",
        execution=True,
    )  # fmt: skip
    expandable_segments: bool = setting(
        True,
        "the CUDA allocator grows its segments: rows have many lengths, and without it memory splits into pieces of old ones "
        "(the launcher sets PYTORCH_CUDA_ALLOC_CONF)",
        execution=True,
    )  # fmt: skip
    peak_tflops: float = number(
        0.0, "dense peak of one GPU in the precision used, for the MFU of metrics.jsonl; 0 = by the GPU's name",
        at_least=0, execution=True,
    )  # fmt: skip


@dataclass
class PrecisionSection:
    """Number formats of the training, and activation recomputation."""

    dtype: str = choice("bf16", "fp32")
    fp8: str = choice("none", "hybrid", "e4m3", help="FP8 format of Transformer Engine's matrix products")
    fp8_recipe: str = choice(
        "delayed", "tensorwise", "blockwise", "mxfp8", help="how FP8 is scaled, in Megatron's names"
    )
    fp8_bf16_layers: int = number(1, "first and last layers kept in bf16", at_least=0)
    fp8_param_gather: bool = setting(
        False,
        "the matrices of FP8 layers exist in FP8 alone: replicas exchange half as much as in bf16, and a GPU holds one copy "
        "less. The optimizer has the exact weights, from which checkpoints are written. With one replica it saves memory only",
        added=True,
    )  # fmt: skip
    grad_reduce_in_fp32: bool = setting(
        True,
        "bf16: gradients are summed over micro-batches and replicas in float32. false halves their memory and their exchange; "
        "with a handful of rows per step, as here, little is lost",
        added=True,
    )  # fmt: skip
    cross_entropy: str = choice(
        "unfused", "native", "te", execution=True,
        help="unfused: exact in every precision; native: Megatron's, two exchanges over tensor parallelism in place of three, "
        "for bf16 logits; te: Transformer Engine's kernel, which keeps no float32 copy of them",
    )  # fmt: skip
    recompute: str = choice(
        "none", "selective", "full", execution=True,
        help="activations computed again in the backward pass. selective: the attention's, which Transformer Engine's fused "
        "attention never keeps, so it only costs time there; full: whole layers, a third more computation",
    )  # fmt: skip
    cuda_graphs: str = choice(
        "none", "mlp",
        help="mlp: the norm and the MLP of every layer are recorded once and replayed, which saves the start of their kernels. A "
        "recording has one shape, so every row is padded to max_tokens_per_row, which the longest example must fit: for full "
        "rows of a small model. Without pipeline parallelism and dropout",
        added=True,
    )  # fmt: skip


@dataclass
class TrainSection:
    """What pretrain, sft and dpo share. Optimizer, betas, weight decay, warm-up and epochs: the paper does not state them."""

    lr: float = number(5.5e-6, "peak learning rate", at_least=0, at_most=1)
    min_lr: float = number(1.1e-6, "at the last step", at_least=0, at_most=1)
    schedule: str = choice("cosine", "linear", "constant", help="from lr to min_lr, after the warm-up")
    warmup_steps: int = number(10, "linear, from 0", at_least=0)
    weight_decay: float = number(0.0, at_least=0, at_most=1)
    beta1: float = number(0.9, "of Adam", at_least=0, below=1)
    beta2: float = number(0.95, "of Adam", at_least=0, below=1)
    eps: float = number(1e-8, "of Adam", above=0, at_most=1)
    clip_grad: float = number(1.0, "largest gradient norm; 0 = no clipping", at_least=0)
    dropout: float = number(0.1, at_least=0, below=1)
    global_batch: int = number(16, "examples per step (DPO: pairs), with and without packing", at_least=1)
    micro_batch: int = number(1, "examples per forward pass of one replica", at_least=1, execution=True)
    epochs: float = number(1.0, above=0)
    max_steps: int = number(0, "more than 0: this many steps, whatever epochs says", at_least=0)
    max_length: int = number(4096, "tokens of prompt + response; longer examples are dropped and counted", at_least=4)
    packing: bool = setting(True, "several examples per sequence", execution=True)
    max_tokens_per_row: int = number(
        0,
        "more than 0: a forward pass takes one row of whole examples (DPO: pairs), up to this many tokens or one longer "
        "example, in place of micro_batch examples; global_batch stays exact. 0 = micro_batch examples per row",
        at_least=0, execution=True,
    )  # fmt: skip
    row_multiple: int = number(
        1,
        "rows are padded to a multiple of this many tokens. On a CPU in bf16 oneDNN makes kernels for every length of a row and "
        "keeps them: a few lengths in place of hundreds save gigabytes",
        at_least=1, execution=True,
    )  # fmt: skip
    save_every: int = number(200, "steps between checkpoints; 0 = at the end only", at_least=0, execution=True)
    save_async: bool = setting(False, "a forked process writes checkpoints while training goes on", execution=True)
    keep_last: int = number(2, "checkpoints kept", at_least=1, execution=True)
    validate_every: int = number(
        0, "steps between two measurements of the validation loss; 0 = at the end only", at_least=0, execution=True
    )
    keep_best: bool = setting(False, "the weights of the lowest validation loss are the result, not the last ones")
    log_every: int = number(1, "steps between two lines of metrics.jsonl", at_least=1, execution=True)


@dataclass
class PretrainSection(TrainSection):
    """Tiny world only: M0 from random weights. A real run imports M0 from HF."""

    question_weight: float = number(0.25, "loss weight of question text", at_least=0)


@dataclass
class SftSection(TrainSection):
    """Supervised fine-tuning on the seed data: M1, and the models of run.arm=sft_only."""

    epochs: float = 3.0
    num_validation: int = number(
        0, "examples held out of the training; their loss is logged every validate_every", at_least=0
    )


@dataclass
class DpoSection(TrainSection):
    """Preference training: M2, M3, ... The paper lets the learning rate decay and does not state the shape."""

    lr: float = 1e-6
    min_lr: float = 1e-7
    num_validation: int = number(
        0, "pairs held out of the training; their loss is logged every validate_every", at_least=0
    )
    beta: float = number(0.1, "strength of the KL constraint to the reference policy", above=0)
    loss: str = choice(
        "sigmoid", "ipo", "simpo", "robust", "apo_zero",
        help="sigmoid: DPO; ipo: IPO; simpo: SimPO, without reference, with log-probabilities per token and a beta of 2 or more; "
        "robust: DPO without the bias of wrong labels, whose share is label_smoothing; apo_zero: APO-zero",
    )  # fmt: skip
    reference: str = choice(
        "previous", "m1", added=True,
        help="previous: the policy that the iteration starts from, as in the paper; m1: M1 in every iteration; from iteration 2 "
        "on the first loss is then not known, and not checked",
    )  # fmt: skip
    pairs_from: str = choice(
        "iteration", "all", added=True, help="the pairs of this iteration, as in the paper; or of all iterations so far"
    )
    simpo_gamma: float = number(0.5, "simpo: margin of the chosen reward over the rejected one", at_least=0, added=True)
    label_smoothing: float = number(0.0, "probability that a preference label is wrong", at_least=0, below=0.5)
    length_normalised: bool = setting(False, "log-probabilities per token instead of per response")
    nll_weight: float = number(0.0, "adds weight x mean token NLL of the chosen response (RPO)", at_least=0)
    replay_weight: float = number(
        0.0, "adds weight x mean token NLL of as many EFT examples as there are pairs in the batch", at_least=0
    )
    shared_prefix: bool = setting(
        False,
        "the prompt of a pair is read once, both responses follow it in the same row: the same losses with less computation, the "
        "more the longer prompts are than responses. Needs packing, and training on a CPU",
        execution=True,
    )  # fmt: skip
    ln2_tolerance: float = number(
        1e-3,
        "sigmoid, ipo: |first loss - its value for policy = reference (ln 2)| above this stops the stage; in FP8 above 5 x "
        "this",
        at_least=0,
    )

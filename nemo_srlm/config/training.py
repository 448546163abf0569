"""The config sections of the model and its training: architecture, layout of the processes, precision, SFT and DPO."""

from dataclasses import dataclass, field
from typing import Any

from nemo_srlm.config.fields import choice, execution, number


def head_size(hidden_size: int, num_attention_heads: int, head_dim: int) -> int:
    """Size of an attention head, where `head_dim` = 0 stands for hidden_size / num_attention_heads."""
    return head_dim or hidden_size // num_attention_heads


@dataclass
class ModelSection:
    """The architecture: a decoder with RMSNorm, SwiGLU, RoPE and grouped-query attention."""

    family: str = choice("llama", help="which file of convert/families/ converts it", added=True)
    num_layers: int = 80
    hidden_size: int = 8192
    ffn_hidden_size: int = 28672
    num_attention_heads: int = 64
    num_query_groups: int = 8
    head_dim: int = number(
        0, "size of an attention head; 0 = hidden_size / num_attention_heads", at_least=0, added=True
    )
    vocab_size: int = 32000  # of the tokenizer; padded up by `vocab_multiple` x tensor-parallel size inside Megatron
    # the table is padded to a multiple of this x parallel.tensor. Padding rows are zero, and a zero logit still enters
    # Megatron's softmax: above 1 a padded model is not quite the model that vLLM serves
    vocab_multiple: int = execution(1)
    max_length: int = 4096  # tokens a position may reach
    norm_epsilon: float = 1e-5
    rope_theta: float = 10000.0
    rope_scaling: dict[str, Any] = field(default_factory=dict)  # HF's rope_scaling as it stands; {} = none
    tie_embeddings: bool = False
    init_std: float = 0.02

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


@dataclass
class ParallelSection:
    """Layout of the training processes. All execution: a checkpoint loads under any other layout."""

    nodes: int = execution(1)
    processes: int = execution(8)  # per node (GPUs; on a CPU, gloo processes)
    threads: int = execution(1)  # CPU threads a process, on machines without a GPU
    tensor: int = execution(1)
    pipeline: int = execution(1)
    virtual_pipeline: int = execution(1)  # model chunks a pipeline stage
    context: int = execution(1)
    sequence: bool = execution(False)
    distributed_optimizer: bool = execution(True)
    # dense peak of one GPU in the precision used, for the MFU of metrics.jsonl; 0 = by the GPU's name, none on a CPU
    peak_tflops: float = execution(0.0)


@dataclass
class PrecisionSection:
    dtype: str = "bf16"  # fp32 | bf16
    fp8: str = "none"  # none | hybrid | e4m3 (Transformer Engine)
    fp8_recipe: str = "delayed"  # delayed | tensorwise | blockwise | mxfp8, as Megatron names them
    fp8_bf16_layers: int = 1  # first and last layers kept in bf16
    recompute: str = execution("none")  # none | selective | full


@dataclass
class TrainSection:
    """What pretrain, sft and dpo share. Optimiser, betas, weight decay, warm-up, epochs: the paper is silent."""

    lr: float = 5.5e-6
    min_lr: float = 1.1e-6
    schedule: str = "cosine"  # cosine | linear | constant
    warmup_steps: int = 10
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    clip_grad: float = 1.0
    dropout: float = 0.1
    global_batch: int = 16  # examples (DPO: pairs) a step; with packing, packs hold whole examples but the count stays
    micro_batch: int = execution(1)
    epochs: float = 1.0
    max_steps: int = 0  # > 0 wins over epochs
    max_length: int = 4096  # tokens of prompt + response; longer examples are dropped and counted
    packing: bool = execution(True)
    save_every: int = execution(200)  # steps between checkpoints
    save_async: bool = execution(False)  # a forked process writes them while training goes on
    keep_last: int = execution(2)
    validate_every: int = execution(0)  # steps between two looks at the validation loss; 0 = at the end only
    keep_best: bool = False  # the weights of the lowest validation loss are the result, not the last ones
    log_every: int = execution(1)


@dataclass
class PretrainSection(TrainSection):
    """Tiny world only: M0 from random weights. A real run imports M0 from HF."""

    question_weight: float = 0.25  # loss weight of question text


@dataclass
class SftSection(TrainSection):
    lr: float = 5.5e-6
    min_lr: float = 1.1e-6
    schedule: str = "cosine"
    epochs: float = 3.0
    num_validation: int = 0  # examples left out of the training; their loss is logged as validate_every says


@dataclass
class DpoSection(TrainSection):
    lr: float = 1e-6
    min_lr: float = 1e-7
    schedule: str = "cosine"  # the paper says "decay", not its shape
    epochs: float = 1.0
    num_validation: int = 0  # pairs left out of the training; their loss is logged as validate_every says
    beta: float = 0.1
    loss: str = "sigmoid"  # sigmoid | ipo
    label_smoothing: float = 0.0
    length_normalised: bool = False
    nll_weight: float = 0.0  # + weight x mean token NLL of the chosen response (RPO)
    replay_weight: float = 0.0  # + weight x mean token NLL of as many EFT examples as pairs in the batch
    ln2_tolerance: float = 1e-3  # |first DPO loss - ln 2| above this stops the stage

"""The typed schema that every YAML file and every override is checked against.

A default lives here and nowhere else; YAML files hold deltas. The defaults are the paper's numbers (arXiv 2401.10020)
where it states them; a comment says where it is silent. A field made with `execution(...)` says HOW a run is executed
(parallelism, shards, paths): it never changes a fingerprint. Every other field is identity: it says WHAT is computed.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from nemo_srlm.cluster import ClusterSection
from nemo_srlm.config_eval import DriftSection, EvalSection, SelectSection
from nemo_srlm.fields import SamplingSection, execution


@dataclass
class RunSection:
    name: str = execution("tiny")  # the run directory is <root>/<name>
    root: str = execution("runs")
    reuse: str = execution(
        ""
    )  # another run directory: its finished stages with equal fingerprints are linked, not redone
    # minutes from the job's start (Slurm's, or of `nemo-srlm run`) after which training saves and leaves; 0 = no such limit
    time_budget: float = execution(0.0)
    seed: int = 0
    # self | random (judge scores permuted within a prompt) | sft_only (positives only: SFT on chosen responses, no DPO)
    # | given (preference files) | oracle (tiny world's upper bound)
    arm: str = "self"
    wandb: str = execution(
        ""
    )  # Weights & Biases project of the training curves; "" = off. TensorBoard is always written


@dataclass
class WorldSection:
    """The tiny world (a synthetic web, seeds and oracle). Used when `enabled`; a real run brings data and a model."""

    enabled: bool = False
    seed: int = 0  # of the world's text; the run's seed is for sampling and training
    num_documents: int = 60_000  # of web text, for pretraining
    num_ift: int = 800
    num_eft: int = 1_500  # score-balanced judged replies
    num_eval_prompts: int = 350  # held-out prompts for the final evaluation
    num_eval_judge: int = 150  # held-out instructions x 4 replies for the judge's evaluation
    # dev | test: the held-out split that evaluation reads. It enters the fingerprints of evaluation alone (stages/held_out.py):
    # the same models can be measured on both. Settings are chosen on dev, figures for README come from test.
    split: str = execution("dev")


@dataclass
class ModelSection:
    """Llama-family architecture."""

    num_layers: int = 80
    hidden_size: int = 8192
    ffn_hidden_size: int = 28672
    num_attention_heads: int = 64
    num_query_groups: int = 8
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


@dataclass
class SeedSection:
    files: list[str] = field(
        default_factory=list
    )  # Open Assistant exports: *.trees.jsonl.gz or flat *.messages.jsonl.gz
    language: str = "en"
    num_ift: int = 3200  # 0 = all
    num_eval_prompts: int = 256  # held-out first turns for the head-to-head


@dataclass
class EftSection:
    source: str = "baseline"  # baseline (the paper: the SFT baseline writes judgements) | given (the data brings them)
    num_train: int = 1630  # 0 = all
    num_valid: int = 541  # replies of the fixed held-out split
    dominant_keep: float = 1.0  # at most this many times the second most common score's count is kept of the commonest


@dataclass
class ImportSection:
    path: str = ""  # HF directory of M0 (config.json, *.safetensors, tokenizer files)
    allow_bin: bool = False
    dtype: str = ""  # "" = as the weights are | fp32 | bf16 | fp16
    processes: int = execution(1)  # each reads its share of the tensors


@dataclass
class ExportSection:
    """Megatron checkpoint -> HF directory."""

    dtype: str = ""  # "" = as the checkpoint is | fp32 | bf16 | fp16
    max_shard_gb: float = execution(5.0)  # 10^9 bytes a safetensors file at most
    processes: int = execution(1)  # each writes its share of the files
    verify: str = execution("logits")  # round_trip | logits (+ transformers against Megatron) | vllm (+ greedy tokens)
    verify_layers: int = execution(0)  # layers in the comparison of logits; 0 = all where they fit verify_memory_gb
    verify_memory_gb: float = execution(8.0)  # of fp32 weights of both models together


# Self-Instruct's words for what a text model cannot see or make.
KEYWORDS = (
    "image", "images", "graph", "graphs", "picture", "pictures", "file", "files", "map", "maps", "draw", "plot", "go to",
)  # fmt: skip
SEPARATORS = ("###", "\n---", "\nTask ", "\nInput:", "\nOutput:", "\nAnswer:", "\nResponse:", "[/INST]")


@dataclass
class PromptsSection(SamplingSection):
    temperature: float = 0.6
    max_tokens: int = 256
    writer: str = "fixed"  # fixed: `writer_path` (or M0 where empty), as the paper | policy: the current model
    writer_path: str = ""  # HF directory of the fixed prompt writer (the paper: Llama 2-Chat 70B)
    template: str = "prompts/write_prompt.txt"
    num_prompts: int = 5000  # accepted prompts wanted an iteration (the paper does not state it)
    max_attempts: int = execution(0)  # raw generations at most; 0 = 20 x num_prompts; reaching it is an error
    round_size: int = 512  # raw generations between two looks at the pool
    seed_shots: int = 6
    generated_shots: int = 2
    rouge_max: float = 0.7  # reject when ROUGE-L F1 against any seed or accepted prompt is above
    min_words: int = 4
    max_words: int = 150
    keywords: list[str] = field(default_factory=lambda: list(KEYWORDS))
    starts: list[str] = field(default_factory=lambda: ["Write a program"])
    ascii_start: bool = True  # reject a first character that is punctuation or not ASCII
    tokenization: str = "rouge"  # of words and ROUGE-L: rouge (a-z0-9 only, as rouge_score) | unicode (other languages)
    # the written prompt ends before the first of these, and of the template's own mark
    separators: list[str] = field(default_factory=lambda: list(SEPARATORS))


@dataclass
class CandidatesSection(SamplingSection):
    num: int = 4
    shards: int = execution(1)


@dataclass
class JudgeSection(SamplingSection):
    method: str = "sampled"  # sampled | expected
    template: str = "prompts/judge.txt"
    draws: int = 3
    min_valid: int = 2
    max_score: int = 5
    max_tokens: int = 512
    shards: int = execution(1)
    alarm_dominant: float = execution(0.8)  # warn when one score takes more than this share
    alarm_failures: float = execution(0.2)  # warn when more than this share of draws does not parse
    alarm_stops: bool = execution(False)


@dataclass
class PairsSection:
    rule: str = "max_min"  # max_min | length_controlled
    min_margin: float = 0.0  # the score difference must be above this
    rho: float = 0.0  # length_controlled: scores within rho x max_score of the best (worst) count as near
    max_per_prompt: int = 1
    pool_equal_texts: bool = False  # average the scores of candidates with one and the same text before choosing
    files: list[str] = field(default_factory=list)  # run.arm=given: preference files (JSONL, parquet), no judge


@dataclass
class GenerateSection:
    """The generation engine."""

    engine: str = execution("vllm")  # an endpoint in its place, stage by stage: api.stages
    dtype: str = "bfloat16"  # auto (as the weights are) | bfloat16 | float16 | float32
    max_model_len: int = execution(0)  # tokens of prompt + completion; 0 = what the longest item of the stage needs
    tensor_parallel: int = execution(1)
    replicas: int = execution(1)  # engines side by side in a shard's job, each on tensor_parallel GPUs of its own
    gpu_memory: float = execution(0.9)
    kv_cache_gib: int = execution(1)  # CPU only: at most this much, less where the model needs less
    threads: int = execution(1)  # CPU only; two threads on two cores that are not idle are slower than one
    max_num_seqs: int = execution(256)
    max_restarts: int = execution(5)  # of a dead engine, a process; finding one request that kills it takes 3
    enforce_eager: bool = execution(False)
    quantization: str = ""  # "" (as the weights are) | fp8 (vLLM makes them from 16-bit weights; needs such a GPU)


@dataclass
class ApiSection:
    """An OpenAI-compatible endpoint in vLLM's place for some stages. Its answers cannot be reproduced by a seed alone."""

    # of: prompts (an external writer), judge, select, eval_h2h, eval_mt_bench (external judges)
    stages: list[str] = field(default_factory=list)
    url: str = execution("")  # up to and with /v1
    model: str = ""
    key_variable: str = execution("OPENAI_API_KEY")  # the environment variable that holds the key; never the key
    workers: int = execution(16)  # requests at a time
    retries: int = execution(6)
    timeout: float = execution(120.0)  # seconds a request
    prompt_price: float = execution(0.0)  # a million tokens, in any currency: cost is counted with it
    completion_price: float = execution(0.0)


@dataclass
class ChatSection:
    """Text around one user turn. The same strings make the exported Jinja chat template."""

    user_prefix: str = "[INST] "
    user_suffix: str = " [/INST]"


@dataclass
class Config:
    iterations: int = 2  # DPO rounds after M1: 2 gives M3
    run: RunSection = field(default_factory=RunSection)
    world: WorldSection = field(default_factory=WorldSection)
    seed: SeedSection = field(default_factory=SeedSection)
    eft: EftSection = field(default_factory=EftSection)
    import_hf: ImportSection = field(default_factory=ImportSection)
    export: ExportSection = field(default_factory=ExportSection)
    chat: ChatSection = field(default_factory=ChatSection)
    model: ModelSection = field(default_factory=ModelSection)
    parallel: ParallelSection = field(default_factory=ParallelSection)
    precision: PrecisionSection = field(default_factory=PrecisionSection)
    pretrain: PretrainSection = field(default_factory=PretrainSection)
    sft: SftSection = field(default_factory=SftSection)
    dpo: DpoSection = field(default_factory=DpoSection)
    select: SelectSection = field(default_factory=SelectSection)
    generate: GenerateSection = field(default_factory=GenerateSection)
    api: ApiSection = field(default_factory=ApiSection)
    prompts: PromptsSection = field(default_factory=PromptsSection)
    candidates: CandidatesSection = field(default_factory=CandidatesSection)
    judge: JudgeSection = field(default_factory=JudgeSection)
    pairs: PairsSection = field(default_factory=PairsSection)
    eval: EvalSection = field(default_factory=EvalSection)
    drift: DriftSection = field(default_factory=DriftSection)
    cluster: ClusterSection = field(default_factory=ClusterSection, metadata={"execution": True})


def identity(section: Any) -> Any:
    """A config section (or value) as plain JSON data without its execution fields."""
    if dataclasses.is_dataclass(section):
        return {
            f.name: identity(getattr(section, f.name))
            for f in dataclasses.fields(section)
            if not f.metadata.get("execution")
        }
    if isinstance(section, (list, tuple)):
        return [identity(v) for v in section]
    if isinstance(section, dict):
        return {k: identity(v) for k, v in section.items()}
    return section

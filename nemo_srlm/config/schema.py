"""The typed schema that every YAML file and every override is checked against.

A default lives here and nowhere else; YAML files hold deltas. The defaults are the paper's numbers (arXiv 2401.10020)
where it states them; a comment says where it is silent. A field made with `execution(...)` says HOW a run is executed
(parallelism, shards, paths): it never changes a fingerprint. Every other field is identity: it says WHAT is computed.
"""

from dataclasses import dataclass, field

from nemo_srlm.config.cluster import ClusterSection
from nemo_srlm.config.evaluation import DriftSection, EvalSection, SelectSection
from nemo_srlm.config.fields import execution, section
from nemo_srlm.config.generation import (
    ApiSection,
    CandidatesSection,
    ChatSection,
    GenerateSection,
    JudgeSection,
    PairsSection,
    PromptsSection,
)
from nemo_srlm.config.training import (
    DpoSection,
    ModelSection,
    ParallelSection,
    PrecisionSection,
    PretrainSection,
    SftSection,
)


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
    cluster: ClusterSection = section(ClusterSection, execution=True)

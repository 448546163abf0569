"""The typed schema that every YAML file and every override is checked against.

A default, the allowed values and the help text of a setting stand here and nowhere else; YAML files hold deltas.
The defaults are the paper's numbers (arXiv 2401.10020) where it states them; the help text says where it does not.
A field with `execution=True` says HOW a run is executed (parallelism, shards, paths): it never changes a fingerprint.
Every other field is identity: it says WHAT is computed. `nemo-srlm config --describe` prints all of it.
"""

from dataclasses import dataclass

from nemo_srlm.config.cluster import ClusterSection
from nemo_srlm.config.evaluation import DriftSection, EvalSection, SelectSection
from nemo_srlm.config.fields import MAX_PROCESSES, MAX_SEED, choice, number, section, setting
from nemo_srlm.config.generation import (
    ApiSection,
    CandidatesSection,
    ChatSection,
    GenerateSection,
    JudgeSection,
    PairsSection,
    PromptsSection,
)
from nemo_srlm.config.methods import CheckerSection, JudgeTrainingSection, RewardModelSection
from nemo_srlm.config.training import (
    DpoSection,
    ModelSection,
    ParallelSection,
    PrecisionSection,
    PretrainSection,
    SftSection,
)
from nemo_srlm.errors import ConfigError


@dataclass
class RunSection:
    """Name, place, seed and variant of a run."""

    name: str = setting(
        "tiny", "the run directory is <root>/<name>", execution=True,
        pattern=r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}",
        allowed="at most 200 letters, digits, dot, _ and -, with no dot and no - in front",
    )  # fmt: skip
    root: str = setting("runs", filled=True, execution=True)
    reuse: str = setting(
        "", "another run directory: its finished stages with equal fingerprints are linked, not redone", execution=True
    )
    time_budget: float = number(
        0.0, "minutes from the start of the job (Slurm's, or of `nemo-srlm run`) after which training saves and ends; "
        "0 = no such limit",
        at_least=0, execution=True,
    )  # fmt: skip
    digest_weights: bool = setting(
        False,
        "files above 64 MiB (weights) get a digest in the manifest, too, which is compared before another stage reads them and "
        "by `nemo-srlm verify`; without it their existence and size are looked at",
        execution=True,
    )
    seed: int = number(0, "of sampling and training", at_least=0, at_most=MAX_SEED)
    start: str = choice(
        "base", "instruct", added=True,
        help="what M0 is. base: a pretrained model, tuned on IFT and EFT data first, as in the paper; instruct: it follows "
        "instructions already, so IFT is skipped: M1 is M0 tuned on EFT data, or with eft.source=none M0 itself",
    )  # fmt: skip
    arm: str = choice(
        "self", "random", "sft_only", "external", "oracle",
        renamed={"given": "external"},
        help="self: the policy judges; random: its scores are permuted within a prompt; sft_only: SFT on the chosen "
        "responses, no DPO; external: preference files (pairs.files); oracle: the tiny world's upper bound",
    )  # fmt: skip
    wandb: str = setting(
        "",
        'Weights & Biases project of training curves, evaluations, samples and report; "" = off. TensorBoard files are always '
        "written",
        execution=True,
        pattern=r"([^\s/\\#?%:]([^/\\#?%:\n]{0,126}[^\s/\\#?%:])?)?",
        allowed='the name of a project: at most 128 characters without / \\ # ? % : and without blanks at its ends; or ""',
    )
    mlflow: str = setting(
        "",
        'MLflow experiment of the same; "" = off. Its own client sends them: MLFLOW_TRACKING_URI names the server',
        execution=True,
        pattern=r"([^\s\n]([^\n]{0,126}[^\s\n])?)?",
        allowed='the name of an experiment: at most 128 characters without blanks at its ends; or ""',
    )


@dataclass
class WorldSection:
    """The tiny world (a synthetic web, seeds and oracle). Used when `enabled`; a real run brings data and a model."""

    enabled: bool = setting(False)
    seed: int = number(0, "of the world's text; run.seed is for sampling and training", at_least=0, at_most=MAX_SEED)
    num_documents: int = number(48_000, "of web text, for pretraining", at_least=1_000)
    comparisons: float = number(
        0.0, "share of the web's documents that compare two replies, or two ratings of one, in the words of "
        "judge.compare_template and judge_training.template: for judge.shape=pairwise and judge_training.method=meta",
        at_least=0, at_most=0.5, added=True,
    )  # fmt: skip
    num_ift: int = number(800, "instruction fine-tuning examples", at_least=1)
    ift_right: float = number(
        0.8, "share of the IFT replies whose content is all right; the errors of the others are noise for the loop to remove",
        at_least=0, at_most=1, added=True,
    )  # fmt: skip
    ift_one_error: float = number(
        0.15, "share of the IFT replies with one error; what ift_right and this leave is mostly wrong",
        at_least=0, at_most=1, added=True,
    )  # fmt: skip
    num_eft: int = number(1_500, "score-balanced judged replies", at_least=0)
    eft_noise: float = number(
        0.1, "share of the judged replies whose score and verdict are off by one", at_least=0, at_most=1, added=True
    )
    num_eval_prompts: int = number(350, "held-out prompts of the final evaluation", at_least=0)
    num_eval_judge: int = number(150, "held-out instructions x 4 replies for the evaluation of the judge", at_least=0)
    # Execution, because only evaluation stages depend on it: they add it to their own identity (stages/held_out.py).
    split: str = choice(
        "dev", "test", execution=True,
        help="the held-out split that evaluation reads; one set of models can be measured on both. Settings are chosen on "
        "dev, the figures of README come from test",
    )  # fmt: skip


def check_shares(world: WorldSection) -> None:
    """Raises ConfigError where the shares of the IFT replies are more than all of them."""
    right, one_error = world.ift_right, world.ift_one_error
    if right + one_error > 1 + 1e-9:  # the sum of two decimals need not be exact
        raise ConfigError(
            "world.ift_one_error", f"{one_error} with world.ift_right={right}: more than all replies",
            f"at most {1 - right:.15g}", "lower one of the two",
        )  # fmt: skip


@dataclass
class SeedSection:
    """Seed data of a real run: IFT examples, judged replies and held-out prompts from Open Assistant."""

    files: list[str] = setting(
        [],
        "Open Assistant exports: *.trees.jsonl.gz or flat *.messages.jsonl.gz; data/everyday.trees.jsonl ships with the project",
    )
    chat_files: list[str] = setting(
        [],
        "more IFT data: JSONL with `messages` of one or several turns; the loss is on every assistant turn",
        added=True,
    )
    language: str = setting(
        "en",
        "tag of the texts that are used; pt takes pt-BR, too",
        pattern="[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*",
        allowed="a language tag such as en, de or pt-BR",
    )
    num_ift: int = number(3200, "0 = all", at_least=0)
    num_eval_prompts: int = number(256, "held-out first turns for the head-to-head", at_least=0)
    rouge_max: float = number(
        0.7, "nothing is trained on whose ROUGE-L F1 with a held-out prompt is above this; 1 = only equal ones are left out. "
        "The tiny world has its own rule: no combination of arguments is in two splits", above=0, at_most=1, added=True,
    )  # fmt: skip
    held_out: list[str] = setting(
        ["eval.prompts", "select.prompts"], "files of prompts that no set is trained on and no writer may write, in any spelling "
        "or near wording: those of these two settings, and others by their paths. To evaluate a finished run on other prompts, "
        "name here the files that it was trained without", execution=True,
    )  # fmt: skip


@dataclass
class EftSection:
    """Evaluation fine-tuning: examples that teach the model to judge."""

    source: str = choice(
        "baseline", "external", "ranks", "none", renamed={"given": "external"},
        help="baseline: the SFT baseline (run.start=instruct: M0) writes judgements, kept where they agree with the ranks, as "
        "in the paper; external: the data brings them (key `judgement` of a reply); ranks: made of the ranks alone, for "
        "models that cannot judge yet; none: no EFT",
    )  # fmt: skip
    turns: str = choice(
        "first", "any", added=True,
        help="first: ranked replies to first turns, as in the paper; any: to later turns, too: the judge's instruction is then "
        "the conversation so far (`Assistant: ` and `User: ` before its later turns). The EFT evaluation has first turns alone",
    )  # fmt: skip
    num_train: int = number(1630, "0 = all", at_least=0)
    num_valid: int = number(541, "replies of the fixed held-out split", at_least=0)
    dominant_keep: float = number(
        1.0,
        "baseline: of the most common score, keep at most this many times the count of the second most common",
        above=0,
    )
    num_comparisons: int = number(
        0, "further examples that compare two ranked replies (judge.compare_template), for judge.shape=pairwise",
        at_least=0, added=True,
    )  # fmt: skip
    num_meta: int = number(
        0, "further examples that compare two judgements of a reply (judge_training.template), for judge_training.method=meta",
        at_least=0, added=True,
    )  # fmt: skip
    justification: str = setting(
        "",
        'ranks: the text before "Score: k" in every target; "" = none, or judge.lead_in where that is set',
        free=True,
        added=True,
    )


@dataclass
class ImportSection:
    """HF directory -> Megatron checkpoint of M0."""

    path: str = setting("", "HF directory of M0 (config.json, *.safetensors, tokenizer files)")
    allow_bin: bool = setting(False, "read pytorch_model.bin files, too")
    dtype: str = choice("", "fp32", "bf16", "fp16", help='"": as the weights are')
    processes: int = number(1, "each reads its share of the tensors", at_least=1, at_most=MAX_PROCESSES, execution=True)


@dataclass
class ExportSection:
    """Megatron checkpoint -> HF directory."""

    dtype: str = choice("", "fp32", "bf16", "fp16", help='"": as the checkpoint is')
    max_shard_gb: float = number(5.0, "10^9 bytes per safetensors file", above=0, execution=True)
    processes: int = number(1, "each writes its share of the files", at_least=1, at_most=MAX_PROCESSES, execution=True)
    verify: str = choice(
        "round_trip", "logits", "vllm", default="logits", execution=True,
        help="round_trip: equal tensors; logits: and transformers against Megatron; vllm: and greedy tokens",
    )  # fmt: skip
    verify_layers: int = number(
        0, "layers in the comparison of logits; 0 = all where they fit verify_memory_gb", at_least=0, execution=True
    )
    verify_memory_gb: float = number(8.0, "of fp32 weights of both models together", above=0, execution=True)


@dataclass
class Config:
    iterations: int = number(2, "DPO iterations after M1: 2 gives M3", at_least=0, at_most=1000)
    run: RunSection = section(RunSection)
    world: WorldSection = section(WorldSection)
    seed: SeedSection = section(SeedSection)
    eft: EftSection = section(EftSection)
    import_hf: ImportSection = section(ImportSection)
    export: ExportSection = section(ExportSection)
    chat: ChatSection = section(ChatSection)
    model: ModelSection = section(ModelSection)
    parallel: ParallelSection = section(ParallelSection)
    precision: PrecisionSection = section(PrecisionSection)
    pretrain: PretrainSection = section(PretrainSection)
    sft: SftSection = section(SftSection)
    dpo: DpoSection = section(DpoSection)
    select: SelectSection = section(SelectSection)
    generate: GenerateSection = section(GenerateSection)
    api: ApiSection = section(ApiSection)
    prompts: PromptsSection = section(PromptsSection)
    candidates: CandidatesSection = section(CandidatesSection)
    judge: JudgeSection = section(JudgeSection)
    pairs: PairsSection = section(PairsSection)
    checker: CheckerSection = section(CheckerSection)
    reward_model: RewardModelSection = section(RewardModelSection)
    judge_training: JudgeTrainingSection = section(JudgeTrainingSection)
    eval: EvalSection = section(EvalSection)
    drift: DriftSection = section(DriftSection)
    cluster: ClusterSection = section(ClusterSection, execution=True)

"""The config sections `eval`, `drift` and `select`: what is measured on held-out data, what raises an alarm, what chooses
a checkpoint. Part of config.py's schema.
"""

from dataclasses import dataclass, field

from nemo_srlm.config.fields import SamplingSection, execution


@dataclass
class AlpacaSection(SamplingSection):
    """AlpacaEval 2: answers as the alpaca_eval package wants them; `nemo-srlm alpaca` reads its annotations."""

    prompts: str = execution("")  # the set (alpaca_eval.json, or JSONL with `instruction`); "" = off
    max_tokens: int = 2048


@dataclass
class MtBenchSection:
    """MT-Bench with FastChat's files. The judge: api.stages=[eval_mt_bench], else `judge_path`, else the model itself."""

    questions: str = execution("")  # question.jsonl; "" = off
    judge_prompts: str = execution("")  # judge_prompts.jsonl
    references: str = execution("")  # reference_answer/gpt-4.jsonl; "" = what the questions bring
    judge_path: str = execution("")  # HF directory of the judge
    max_tokens: int = 1024  # of an answer
    judge_max_tokens: int = 2048


@dataclass
class HarnessSection:
    """NLP benchmarks (alignment tax) by lm-evaluation-harness on each export. Its data sets must be on this machine."""

    enabled: bool = execution(False)
    # task, or task:shots. The paper's tasks; it names no shots, these are Llama 2's
    tasks: list[str] = field(
        default_factory=lambda: [
            "arc_easy:0", "arc_challenge:0", "hellaswag:0", "social_iqa:0", "piqa:0", "gsm8k:8", "mmlu:5",
            "openbookqa:0", "nq_open:0",
        ]
    )  # fmt: skip
    backend: str = "vllm"  # vllm | hf
    limit: int = 0  # questions a task; 0 = all
    python: str = execution("")  # interpreter that has lm_eval; "" = this one
    include_path: str = execution("")  # folder with task files of your own
    model_args: str = execution("")  # more of lm_eval's --model_args, e.g. data_parallel_size=4


@dataclass
class EvalSection(SamplingSection):
    temperature: float = 0.7
    samples: int = 1  # responses per evaluation prompt
    # JSON, JSONL (.gz): `prompt` (or `instruction`), maybe `category`; "" = the seed's held-out prompts
    prompts: str = execution("")
    preferences: list[str] = execution([])  # preference files that every model judges, beside the held-out EFT set
    preferences_max: int = 1000  # instructions a preference file at most; 0 = all
    kl: bool = execution(False)  # KL to the previous policy: every pair of neighbours scores the newer one's responses
    alpaca: AlpacaSection = field(default_factory=AlpacaSection)
    mt_bench: MtBenchSection = field(default_factory=MtBenchSection)
    harness: HarnessSection = field(default_factory=HarnessSection)
    h2h_template: str = "prompts/compare.txt"
    h2h_judge_path: str = ""  # HF directory of the judge; "" = in the tiny world the oracle, else the newest policy
    bootstrap: int = 1000


@dataclass
class SelectSection(SamplingSection):
    """Early stopping as the paper does it: a checkpoint counts as better when its answers beat the checkpoint before it.

    The paper compares every 200 steps on 253 held-out prompts, with the AlpacaEval prompt and Claude 2 as the judge.
    """

    every: int = 0  # steps between the checkpoints that are compared; 0 = off: the last one is the policy
    stages: list[str] = field(default_factory=lambda: ["sft", "dpo", "sft_chosen"])
    by: str = "compare"  # compare (two answers, both orders) | score (the judge's mean score of each answer)
    # JSON, JSONL (.gz): `prompt` (or `instruction`). Not the prompts of the evaluation: choosing on them would flatter.
    # The tiny world brings its own, the split dev
    prompts: str = execution("")
    num_prompts: int = 253  # the first ones; 0 = all
    judge_path: str = ""  # HF directory of the judge; "" = api.stages=[select], else the policy before this training
    template: str = "prompts/compare.txt"  # of by=compare; by=score judges with `judge`


@dataclass
class DriftSection:
    """Alarms in the report, each raised beyond its threshold (evaluation/drift.py). They change no result."""

    length_growth: float = execution(1.5)  # mean words of responses, against the model before
    high_scores: float = execution(0.9)  # share of 4s and 5s among all parsed draws
    tie_rate: float = execution(0.5)  # share of prompts whose eligible candidates all have one score
    parse_failures: float = execution(0.2)  # share of draws without a score
    truncated: float = execution(0.1)  # share of responses cut at the token limit
    distinct_drop: float = execution(0.25)  # relative fall of distinct-2 against the model before
    self_bleu: float = execution(0.15)  # rise of self-BLEU against the model before
    kl: float = execution(0.5)  # nats a token to the policy before it (needs eval.kl)

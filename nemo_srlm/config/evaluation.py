"""The config sections `eval`, `drift` and `select`: what is measured on held-out data, what raises an alarm, and how a
checkpoint is chosen.
"""

from dataclasses import dataclass

from nemo_srlm.config.fields import SamplingSection, choice, number, section, setting
from nemo_srlm.config.generation import MAX_DRAWS


@dataclass
class AlpacaSection(SamplingSection):
    """AlpacaEval 2: responses as the alpaca_eval package reads them; `nemo-srlm alpaca` reads its annotations."""

    prompts: str = setting("", 'the set (alpaca_eval.json, or JSONL with `instruction`); "" = off', execution=True)
    max_tokens: int = 2048


@dataclass
class MtBenchSection:
    """MT-Bench with FastChat's files. The judge: api.stages=[eval_mt_bench], else `judge_path`, else the model itself."""

    questions: str = setting("", 'question.jsonl; "" = off', execution=True)
    judge_prompts: str = setting("", "judge_prompts.jsonl", execution=True)
    references: str = setting("", 'reference_answer/gpt-4.jsonl; "" = those in the questions', execution=True)
    judge_path: str = setting("", "HF directory of the judge", execution=True)
    max_tokens: int = number(1024, "tokens per response", at_least=1)
    judge_max_tokens: int = number(2048, "tokens per judgement", at_least=1)


# The paper's tasks. It does not state the shots; these are Llama 2's.
TASKS = (
    "arc_easy:0", "arc_challenge:0", "hellaswag:0", "social_iqa:0", "piqa:0", "gsm8k:8", "mmlu:5", "openbookqa:0",
    "nq_open:0",
)  # fmt: skip


@dataclass
class HarnessSection:
    """NLP benchmarks (alignment tax) by lm-evaluation-harness on each export. Its data sets must be on this machine."""

    enabled: bool = setting(False, execution=True)
    tasks: list[str] = setting(
        list(TASKS), filled=True, pattern=r"[^\s:,]+(:[0-9]+)?", allowed="a list, not empty, of `task` or `task:shots`"
    )
    backend: str = choice("vllm", "hf")
    limit: int = number(0, "questions per task; 0 = all", at_least=0)
    chat_template: bool = setting(
        False, "the model's chat template around every question, shots as turns, as instruct models are measured; off: bare "
        "text, as base models are", added=True,
    )  # fmt: skip
    python: str = setting("", 'interpreter that has lm_eval; "" = this one', execution=True)
    include_path: str = setting("", "folder with task files of your own", execution=True)
    model_args: str = setting("", "more of lm_eval's --model_args, e.g. data_parallel_size=4", execution=True)


@dataclass
class EvalSection(SamplingSection):
    """Evaluation of each model on held-out data."""

    samples: int = number(1, "responses per evaluation prompt", at_least=1, at_most=MAX_DRAWS)
    prompts: str = setting(
        "", 'JSON, JSONL (.gz): `prompt` (or `instruction`), maybe `category`; "" = the seed\'s held-out prompts',
        execution=True,
    )  # fmt: skip
    preferences: list[str] = setting(
        [], "preference files that every model judges, in addition to the held-out EFT set", execution=True
    )
    preferences_max: int = number(1000, "instructions per preference file; 0 = all", at_least=0)
    baseline: str = choice(
        "needed", "always", execution=True,
        help="the SFT baseline (M0 tuned on IFT alone) is made and evaluated where it writes the EFT judgements "
        "(eft.source=baseline), or always",
    )  # fmt: skip
    kl: bool = setting(
        False, "KL to the previous policy: both policies score the responses of the newer one", execution=True
    )
    alpaca: AlpacaSection = section(AlpacaSection)
    mt_bench: MtBenchSection = section(MtBenchSection)
    harness: HarnessSection = section(HarnessSection)
    h2h_by: str = choice(
        "compare", "score", added=True,
        help="compare: the judge reads two responses in both orders; score: it scores each response alone, as it scores "
        "candidates, for judges that cannot compare. Scores of the newest policy's own judge favour what it was trained on",
    )  # fmt: skip
    h2h_template: str = setting("prompts/compare.txt", "of the head-to-head comparison", filled=True)
    h2h_judge_path: str = setting(
        "", 'HF directory of the judge; "" = in the tiny world the oracle, else the newest policy'
    )
    bootstrap: int = number(
        1000, "0 = no intervals in eval_reward and eval_preferences. Any other number gives the same ones (it was the number of "
        "bootstrap draws, and stays because finished runs have it in their fingerprints)",
        at_least=0, at_most=100_000,
    )  # fmt: skip


@dataclass
class SelectSection(SamplingSection):
    """Early stopping as in the paper: a checkpoint is better when its responses beat those of the checkpoint before it.

    The paper compares every 200 steps on 253 held-out prompts, with the AlpacaEval prompt and Claude 2 as the judge.
    """

    every: int = number(
        0, "steps between the checkpoints that are compared; 0 = off: the last one is the policy", at_least=0
    )
    stages: list[str] = setting(
        ["sft", "dpo", "sft_chosen"], "trainings whose checkpoints are compared", each=("sft", "dpo", "sft_chosen")
    )
    by: str = choice(
        "compare", "score",
        help="compare: two responses in both orders; score: the judge's mean score of each response",
    )  # fmt: skip
    prompts: str = setting(
        "", "JSON, JSONL (.gz): `prompt` (or `instruction`). Not the evaluation's prompts: choosing on them would bias the "
        "evaluation. The tiny world brings its own (the split dev)",
        execution=True,
    )  # fmt: skip
    num_prompts: int = number(253, "the first ones; 0 = all", at_least=0)
    judge_path: str = setting(
        "", 'HF directory of the judge; "" = api.stages=[select], else the policy before this training'
    )
    template: str = setting("prompts/compare.txt", "of by=compare; by=score judges with judge.template", filled=True)


@dataclass
class DriftSection:
    """Alarms in the report, each raised above its threshold (evaluate/drift.py). They change no result."""

    length_growth: float = number(
        1.5, "ratio of mean words per response to that of the model before", at_least=0, execution=True
    )
    length_drop: float = number(
        0.5, "relative fall of mean words per response against the model before", at_least=0, at_most=1, execution=True
    )
    high_scores: float = number(0.9, "share of 4s and 5s among all parsed draws", at_least=0, at_most=1, execution=True)
    tie_rate: float = number(
        0.5, "share of prompts whose eligible candidates all have one score", at_least=0, at_most=1, execution=True
    )
    parse_failures: float = number(0.2, "share of draws without a score", at_least=0, at_most=1, execution=True)
    short: float = number(
        0.1, "share that is missing of a set that was asked for (IFT, EFT, held-out sets), or of the EFT examples that compare: "
        "those that do not fit sft.max_length", at_least=0, at_most=1, execution=True,
    )  # fmt: skip
    truncated: float = number(0.1, "share of responses cut at the token limit", at_least=0, at_most=1, execution=True)
    distinct_drop: float = number(
        0.25, "relative fall of distinct-2 against the model before", at_least=0, at_most=1, execution=True
    )
    self_bleu: float = number(0.15, "rise of self-BLEU against the model before", at_least=0, at_most=1, execution=True)
    identical_draws: float = number(
        0.9, "share of prompts (judged responses) whose draws are all one text: an endpoint that ignores `n` or `seed`, or a "
        "temperature near 0", at_least=0, at_most=1, execution=True,
    )  # fmt: skip
    kl: float = number(0.5, "nats per token to the policy before it (needs eval.kl)", at_least=0, execution=True)

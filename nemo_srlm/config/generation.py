"""The config sections of generation and judging: prompts, candidates, judge, pairs, engine, endpoint, chat format."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nemo_srlm.config.fields import MAX_PROCESSES, MAX_SHARDS, SamplingSection, choice, number, numbers, setting

MAX_DRAWS = 64  # per request: draw k of an item uses its seed + k, and the seeds of items are this far apart

# Self-Instruct's words for what a text model cannot see or make.
KEYWORDS = (
    "image", "images", "graph", "graphs", "picture", "pictures", "file", "files", "map", "maps", "draw", "plot", "go to",
)  # fmt: skip

NOT_BLANK, NOT_BLANK_WORDS = r"(?s:.*\S.*)", "a list of texts that are not blank"
# The default of prompts.openings, which finished runs have recorded. The grammar of data/openings.py has taken its place.
OPENINGS = (
    r"(?:(?:sure(?: thing)?|certainly|of course|absolutely|okay|ok|great|alright)\b[!,.:]*\s*)?"
    r"(?:here(?:'s|’s| is| are| comes)|below is)\b[^\n:：]{0,80}\b(?:tasks?|prompts?|instructions?)\b[^\n:：]{0,40}[:：]",
    r"(?:sure(?: thing)?|certainly|of course|absolutely)!(?=\s)",
    r"(?:(?:the |a |my |your )?(?:new|next|another) )?(?:task|prompt|instruction)(?: (?:number )?#?\d+)?\s*[:：]",
    r"\d{1,2}[.)](?=\s)",
)
# How a task points to a text behind it.
INPUT_WORDS = (
    "the following", "the given", "the provided", "the above", "given below", "listed below", "provided below", "shown below",
    "text below", "passage below", "sentence below", "sentences below", "paragraph below", "article below", "code below",
)  # fmt: skip
SEPARATORS = ("###", "\n---", "\nTask ", "\nInput:", "\nOutput:", "\nAnswer:", "\nResponse:", "[/INST]")


def of_iteration(given: Sequence[int], iteration: int, otherwise: int) -> int:
    """The number for an iteration (from 1) of a list with one per iteration; the last one goes on. `otherwise`: of no list."""
    return given[min(iteration, len(given)) - 1] if given else otherwise


@dataclass
class PromptsSection(SamplingSection):
    """Writing new prompts, and the filters that accept them (Self-Instruct)."""

    temperature: float = 0.6
    max_tokens: int = 256
    writer: str = choice(
        "fixed", "policy", help="fixed: writer_path (or M0 where empty), as in the paper; policy: the current model"
    )
    writer_path: str = setting("", "HF directory of the fixed prompt writer (the paper: Llama 2-Chat 70B)")
    template: str = setting("prompts/write_prompt.txt", filled=True)
    source: str = choice(
        "written", "file", "both", added=True,
        help="written: by the writer; file: those of prompts.files, others in every iteration; both: of the files as far as "
        "they go, the rest written",
    )  # fmt: skip
    files: list[str] = setting(
        [], "JSON, JSONL or parquet with `prompt`, `instruction` or `messages`, or .txt with one prompt per line (.gz, too). "
        "With source=written they are demonstrations only",
        execution=True,
    )  # fmt: skip
    num_prompts: int = number(
        5000, "prompts per iteration (the paper does not state it); 0 = source=file: the files, divided by the iterations",
        at_least=0,
    )  # fmt: skip
    max_attempts: int = number(
        0, "most raw generations; 0 = 20 x num_prompts. Reaching it is an error", at_least=0, execution=True
    )
    per_iteration: list[int] = numbers(
        "prompts of iteration 1, 2, ... in the place of num_prompts, the last number for later iterations, too; [] = num_prompts",
        at_least=1, added=True,
    )  # fmt: skip
    round_size: int = number(512, "most raw generations between two updates of the pool", at_least=1)
    first_round: int = number(
        8, "raw generations before the first update of the pool; each round then at most doubles what there is, so that prompts "
        "accepted so far are shown (6 + 2) from the first ones on. 512: as up to version 0.1", at_least=1, added=True,
    )  # fmt: skip
    seed_shots: int = number(6, "demonstrations from the seed data", at_least=0)
    generated_shots: int = number(2, "demonstrations from the prompts accepted so far", at_least=0)
    rouge_max: float = number(
        0.7, "reject above this ROUGE-L F1 with any seed or accepted prompt; 1 = no filter", above=0, at_most=1
    )
    min_words: int = number(4, "of seed.language=ja 8, zh 6, th 12: characters", at_least=0)
    max_words: int = number(150, "of seed.language=ja 400, zh 300, th 600: characters", at_least=1)
    keywords: list[str] = setting(
        list(KEYWORDS),
        "reject a prompt that holds one of these words",
        pattern=NOT_BLANK,
        allowed=NOT_BLANK_WORDS,
        free=True,
    )
    starts: list[str] = setting(
        ["Write a program"],
        "reject a prompt that starts with one of these",
        pattern=NOT_BLANK,
        allowed=NOT_BLANK_WORDS,
        free=True,
    )
    ascii_start: bool = setting(
        True, "reject a first character that is punctuation or not ASCII; off where seed.language is not en"
    )
    tokenization: str = choice(
        "rouge",
        "unicode",
        help="of words and ROUGE-L: rouge (a-z0-9 only, as rouge_score); unicode (the default where "
        "seed.language is not en)",
    )
    separators: list[str] = setting(
        list(SEPARATORS), "the written prompt ends before the first of these, and of the template's own mark",
        pattern="(?s:.+)", allowed="a list of texts that are not empty", free=True,
    )  # fmt: skip
    input_marks: list[str] = setting(
        ["\nInput:"], "separators too, behind which a task has an input: the prompt is rejected unless that is empty or `None`",
        pattern="(?s:.+)", allowed="a list of texts that are not empty", free=True, added=True,
    )  # fmt: skip
    input_words: list[str] = setting(
        list(INPUT_WORDS), "reject a prompt whose last sentence points to a text with these words, and nothing follows; or that "
        "ends with a colon", pattern=NOT_BLANK, allowed=NOT_BLANK_WORDS, free=True, added=True,
    )  # fmt: skip
    openings: list[str] = setting(
        list(OPENINGS), "regular expressions, in any case: removed from the start of a written prompt, beside the template's "
        "label and the greetings, announcements and labels of eleven languages (data/openings.py), which the default stands for",
        pattern=NOT_BLANK, allowed=NOT_BLANK_WORDS, free=True, added=True,
    )  # fmt: skip


@dataclass
class CandidatesSection(SamplingSection):
    """Responses to each prompt, from the policy."""

    num: int = number(4, "per prompt", at_least=2, at_most=MAX_DRAWS)
    shards: int = number(1, at_least=1, at_most=MAX_SHARDS, execution=True)


@dataclass
class JudgeSection(SamplingSection):
    """LLM-as-a-judge: scores of the candidates, from the policy."""

    method: str = choice(
        "sampled", "expected",
        help="sampled: the mean score of `draws` written judgements; expected: the expectation over the score's tokens",
    )  # fmt: skip
    template: str = setting("prompts/judge.txt", filled=True)
    lead_in: str = setting(
        "", 'expected: the beginning of the judge\'s turn, such as "Score: "; the score is read from the next token, so that '
        'every response gets one. "" = the judge writes until it states a score',
        free=True,
        added=True,
    )  # fmt: skip
    shape: str = choice(
        "pointwise", "pairwise", added=True,
        help="of the stage judge. pointwise: a response at a time, as in the paper; pairwise: two candidates of a prompt against "
        "each other, in both orders, by compare_template; a candidate's score is its share of wins x max_score. Evaluations of "
        "the judge stay pointwise",
    )  # fmt: skip
    compare_template: str = setting(
        "prompts/compare.txt", "shape=pairwise: as eval.h2h_template", filled=True, added=True
    )
    thinking_end: str = setting(
        "", 'a reasoning judge: the mark that ends its thinking, such as "</think>". Scores and verdicts are read behind it; '
        'the record keeps all of the text. "" = none', free=True, added=True,
    )  # fmt: skip
    equal_texts: str = choice(
        "each", "once", added=True,
        help="candidates of one prompt with equal texts. each: every one is judged on its own, as in the paper; once: the first "
        "is, and the others have its judgement, which saves time where responses are short",
    )  # fmt: skip
    draws: int = number(3, "judgements per candidate", at_least=1, at_most=MAX_DRAWS)
    min_valid: int = number(2, "draws that must parse, or the candidate is not eligible", at_least=1)
    max_score: int = number(5, "scores are 0 to this", at_least=1)
    max_tokens: int = 512
    shards: int = number(1, at_least=1, at_most=MAX_SHARDS, execution=True)
    alarm_dominant: float = number(
        0.8, "warn when one score takes more than this share", at_least=0, at_most=1, execution=True
    )
    alarm_failures: float = number(
        0.2, "warn when more than this share of draws does not parse", at_least=0, at_most=1, execution=True
    )
    alarm_stops: bool = setting(False, "these warnings stop the stage", execution=True)


@dataclass
class PairsSection:
    """Preference pairs from the scores."""

    score: str = choice(
        "judge", "vote", "judge_vote", "checker", "reward_model", added=True,
        help="what the candidates are ordered by. judge: the judge's mean score, as in the paper; vote: the share of the "
        "prompt's candidates with the same final answer (ScPO); judge_vote: judge + vote_weight x vote; checker, "
        "reward_model: see there",
    )  # fmt: skip
    answer: str = setting(
        "number", "score=vote, judge_vote: what the final answer of a response is. number: its last number; boxed: the last "
        "\\boxed{...}; last_line: its last line; text: all of it; or FILE.py:FUNCTION, called as FUNCTION(prompt, response), "
        "which returns a text, or None for no answer",
        pattern=r"number|boxed|last_line|text|.+\.py:[A-Za-z_][A-Za-z0-9_]*",
        allowed="one of number, boxed, last_line, text, or FILE.py:FUNCTION", added=True,
    )  # fmt: skip
    vote_weight: float = number(5.0, "score=judge_vote: the weight of the vote's share", above=0, added=True)
    min_best: float = number(
        0.0,
        "a prompt whose best score is below this gives no pair (ScPO: a share of the votes)",
        at_least=0,
        added=True,
    )
    weight: str = choice(
        "none", "margin", added=True,
        help="weight of a pair in the loss. none: 1; margin: its difference of scores over the scale of the scores (ScPO)",
    )  # fmt: skip
    consistency: str = choice(
        "none", "mean", "prompt", added=True,
        help="CREAM: the candidates are judged by the model before this one, too, from iteration 2 on. The agreement of both "
        "rankings, (Kendall's tau + 1) / 2, is how certain a label is: mean: over all pairs, as there; prompt: of each prompt",
    )  # fmt: skip
    rejected_from: str = choice(
        "iteration", "m1", added=True,
        help="iteration: both responses are the policy's, as in the paper; m1: the rejected one is M1's, whose responses to the "
        "same prompts are judged, too, from iteration 2 on (Temporal Self-Rewarding)",
    )  # fmt: skip
    rule: str = choice("max_min", "length_controlled")
    min_margin: float = number(0.0, "the score difference must be above this", at_least=0)
    rho: float = number(
        0.0,
        "length_controlled: scores within rho x (best - worst) of the prompt's best (worst) count as near",
        at_least=0,
        at_most=1,
    )
    max_per_prompt: int = number(1, at_least=1)
    per_iteration: list[int] = numbers(
        "most pairs of iteration 1, 2, ..., chosen by a hash, the last number for later iterations, too; [] = all of them. "
        "The paper has [3964, 6942]", at_least=1, added=True,
    )  # fmt: skip
    pool_equal_texts: bool = setting(False, "average the scores of candidates with equal text before choosing")
    balanced_control: bool = setting(
        False, "run.arm=random: of its pairs, sorted by prompt, every second one is in the judge's order, the others against it. "
        "Permuted scores alone are so only on average: by chance they teach what the judge says, or its opposite", added=True,
    )  # fmt: skip
    files: list[str] = setting([], "run.arm=external: preference files (JSONL, parquet), no judge")


@dataclass
class GenerateSection:
    """The generation engine."""

    engine: str = choice("vllm", help="an endpoint in its place, for some stages: api.stages", execution=True)
    dtype: str = choice("auto", "bfloat16", "float16", "float32", default="bfloat16", help="auto: as the weights are")
    max_model_len: int = number(
        0, "tokens of prompt + completion; 0 = what the longest item of the stage needs", at_least=0, execution=True
    )
    tensor_parallel: int = number(1, "GPUs per engine", at_least=1, execution=True)
    replicas: int = number(
        1,
        "engines side by side in the job of one shard, each on tensor_parallel GPUs of its own",
        at_least=1,
        at_most=MAX_PROCESSES,
        execution=True,
    )
    gpu_memory: float = number(0.9, "share of a GPU's memory that vLLM may use", above=0, at_most=1, execution=True)
    kv_cache_gib: int = number(
        1, "CPU only: most GiB of the KV cache; less where the model needs less", at_least=1, execution=True
    )
    threads: int = number(
        1, "CPU only; two threads on two cores that are not idle are slower than one", at_least=1, execution=True
    )
    max_num_seqs: int = number(256, "sequences in one batch of the engine", at_least=1, execution=True)
    max_restarts: int = number(
        5,
        "restarts of a dead engine, per process; finding one request that kills it takes 3",
        at_least=0,
        execution=True,
    )
    enforce_eager: bool = setting(False, "no CUDA graphs and no compilation", execution=True)
    quantization: str = choice(
        "", "fp8", help='"": as the weights are; fp8: vLLM quantizes 16-bit weights (needs a GPU with FP8)'
    )


@dataclass
class ApiSection:
    """An OpenAI-compatible endpoint instead of vLLM, for some stages. A seed alone does not reproduce its responses."""

    stages: list[str] = setting(
        [], "prompts: an external writer; the others: an external judge",
        each=("prompts", "judge", "select", "eval_h2h", "eval_mt_bench"),
    )  # fmt: skip
    url: str = setting(
        "",
        "up to and with /v1",
        execution=True,
        pattern=r"(https?://[\w.:%\[\]-]+(/[^\s@]*)?)?",
        allowed='http://... or https://..., without user or password, or ""',
    )
    model: str = setting("")
    key_variable: str = setting(
        "OPENAI_API_KEY",
        "the environment variable that holds the key; never the key itself",
        execution=True,
        pattern="[A-Za-z_][A-Za-z0-9_]*",
        allowed="the name of an environment variable (letters, digits and _)",
    )
    workers: int = number(16, "requests at the same time", at_least=1, at_most=10_000, execution=True)
    retries: int = number(6, at_least=0, execution=True)
    timeout: float = number(120.0, "seconds per request", above=0, execution=True)
    prompt_price: float = number(
        0.0, "per million tokens, in any currency; the cost is computed with it", at_least=0, execution=True
    )
    completion_price: float = number(0.0, "per million tokens", at_least=0, execution=True)


@dataclass
class ChatSection:
    """How messages become the model's input: by the model's own chat template, or by text around each user turn.

    A run from import_hf.path takes the directory's template where it has one; `nemo-srlm config` shows what was chosen.
    """

    user_prefix: str = setting("[INST] ", "format=strings: text before a user turn", free=True)
    user_suffix: str = setting(" [/INST]", "format=strings: text between a user turn and its response", free=True)
    format: str = choice(
        "strings", "model", added=True,
        help="strings: user_prefix and user_suffix, of which the exported template is made; model: the chat template that "
        "comes with the model, the default where import_hf.path has one",
    )  # fmt: skip
    arguments: dict[str, Any] = setting(
        {}, "format=model: given to the template, for example {enable_thinking: false}", free=True, added=True
    )

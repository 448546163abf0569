"""The config sections of generation and judging: prompts, candidates, judge, pairs, engine, endpoint, chat format."""

from dataclasses import dataclass, field

from nemo_srlm.config.fields import SamplingSection, execution

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

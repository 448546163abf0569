"""GPU-hours of each stage of an iteration: tokens that the model reads and writes, over rates; training from its steps.

Pure functions. Not counted: the start of engines, conversion, evaluations.
"""

import math
from dataclasses import dataclass

from nemo_srlm.config.schema import Config
from nemo_srlm.config.training import TrainSection
from nemo_srlm.core.pipeline import trains_m1
from nemo_srlm.train.batches import total_steps
from nemo_srlm.train.estimate import GPUS, Gpu, total_parameters
from nemo_srlm.train.step_time import EFFICIENCY, StepCost

# Published: vLLM 0.5.4, Llama 3 70B in FP8, two H100: 864 output tokens/s per GPU. TensorRT-LLM, the same: 2,103.
PUBLISHED_RATE, PUBLISHED_PARAMETERS = 864.0, 70.6e9
UNCOUNTED = 1000  # prompts assumed per iteration, where prompts.num_prompts=0 takes what the files have
ACCEPTED = 0.5  # share of the written prompts that pass the filters
REFERENCE_PASS = 1 / 3  # of a step's time: forward alone


@dataclass(frozen=True)
class Rates:
    """Tokens/s per GPU."""

    decode: float  # written
    prefill: float  # read
    source: str  # in words


@dataclass(frozen=True)
class TextLengths:
    """Mean tokens. The judge's template: what stands before the first text that varies, and the rest of it."""

    prompt: float
    response: float
    judgement: float = 150.0
    judge_prefix: float = 0.0
    judge_rest: float = 0.0


@dataclass(frozen=True)
class StageCost:
    """`items`: prompts, candidates, judged candidates or pairs; tokens are the stage's; `gpus` work side by side.

    `read` is computed; `cached` are the tokens of the same requests that come from vLLM's prefix cache.
    """

    stage: str
    items: int
    read: float
    written: float
    gpu_hours: float
    gpus: int
    cached: float = 0.0

    @property
    def hours(self) -> float:
        return self.gpu_hours / self.gpus


def rates(cfg: Config, gpu: Gpu, decode: float = 0.0, prefill: float = 0.0) -> Rates:
    """The given rates (0: not given), else the published one scaled by parameters, memory bandwidth and width of weights."""
    fp8 = cfg.generate.quantization == "fp8"
    count = total_parameters(cfg.model)
    scale = PUBLISHED_PARAMETERS / count * gpu.bandwidth / GPUS["h100"].bandwidth * (1.0 if fp8 else 0.5)
    flops = (gpu.fp8 if fp8 and gpu.fp8 else gpu.bf16) * 1e12 * EFFICIENCY
    given = "given" if decode else f"vLLM's published {PUBLISHED_RATE:.0f} of a 70B in FP8 on H100, scaled"
    return Rates(decode or PUBLISHED_RATE * scale, prefill or flops / (2.0 * count), given)


def num_prompts(cfg: Config) -> int:
    """Prompts of the largest iteration; `UNCOUNTED` where the run takes all of its files."""
    return max(cfg.prompts.per_iteration, default=cfg.prompts.num_prompts) or UNCOUNTED


def num_pairs(cfg: Config) -> int:
    """Preference pairs of an iteration, if every prompt gives as many as it may."""
    most = num_prompts(cfg) * cfg.pairs.max_per_prompt
    return min(most, max(cfg.pairs.per_iteration, default=most))


def training_steps(cfg: Config, num_sft: int) -> dict[str, int]:
    """Steps of the whole run, by training stage; `num_sft` examples of SFT, where there is one."""
    sft = {"sft": total_steps(cfg.sft, num_sft)} if trains_m1(cfg) else {}
    return sft | {"dpo": cfg.iterations * total_steps(cfg.dpo, num_pairs(cfg))}


def generation(cfg: Config, text: TextLengths, rate: Rates) -> list[StageCost]:
    """The generating stages of one iteration.

    Responses to one prompt share it, draws of one judgement share its request, and all judgements of an engine the beginning
    of the template: each is computed once and read from the cache after that.
    """
    prompts, candidates = num_prompts(cfg), num_prompts(cfg) * cfg.candidates.num
    written = math.ceil(prompts / ACCEPTED)
    shots = cfg.prompts.seed_shots + cfg.prompts.generated_shots + 1
    draws = cfg.judge.draws if cfg.judge.method == "sampled" else 1
    tokens = text.judgement if cfg.judge.method == "sampled" else 1.0
    judged = text.prompt + text.response + text.judge_rest
    engines = cfg.judge.shards * cfg.generate.replicas
    judge_read = candidates * judged + min(engines, candidates) * text.judge_prefix
    judge_cached = candidates * draws * (text.judge_prefix + judged) - judge_read
    wanted = (
        ("prompts", written, written * shots * text.prompt, 0.0, written * text.prompt, 1),
        ("candidates", candidates, prompts * text.prompt, (candidates - prompts) * text.prompt, candidates * text.response,
         cfg.candidates.shards),
        ("judge", candidates, judge_read, judge_cached, candidates * draws * tokens, cfg.judge.shards),
    )  # fmt: skip
    width = cfg.generate.replicas * cfg.generate.tensor_parallel
    looked_at = {
        "judge": candidates * judged * text.judge_prefix
    }  # pairs of a computed and a cached token, for attention
    per_pair = 2.0 * cfg.model.num_layers * cfg.model.query_size / total_parameters(cfg.model)  # in computed tokens
    return [
        StageCost(
            name, items, read, out,
            ((read + per_pair * looked_at.get(name, 0.0)) / rate.prefill + out / rate.decode) / 3600, shards * width, cached,
        )
        for name, items, read, cached, out, shards in wanted
        if name != "prompts" or cfg.prompts.source != "file"
    ]  # fmt: skip


def training(name: str, cost: StepCost, section: TrainSection, items: int, gpus: int, reference: bool) -> StageCost:
    """A training stage; `reference`: its log-probabilities are computed once, by a forward pass over all pairs."""
    steps = total_steps(section, items)
    passes = steps + (REFERENCE_PASS * items / section.global_batch if reference else 0.0)
    return StageCost(name, items, passes * cost.tokens, 0.0, passes * cost.seconds * gpus / 3600, gpus)

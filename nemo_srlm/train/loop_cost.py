"""GPU-hours of each stage of an iteration: tokens that the model reads and writes, over rates; training from its steps.

Pure functions. Not counted: the start of engines, conversion, evaluations.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

from nemo_srlm.config.schema import Config
from nemo_srlm.config.training import TrainSection
from nemo_srlm.core.pipeline import scoring_stages, trains_judge, trains_m1
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
    """Preference pairs of an iteration, if every prompt gives as many as it may; with those of judgements, if there are any."""
    most = num_prompts(cfg) * cfg.pairs.max_per_prompt
    responses = min(most, max(cfg.pairs.per_iteration, default=most))
    if not trains_judge(cfg):
        return responses
    section = cfg.judge_training
    judgements = num_prompts(cfg) * (2 if section.method == "self_taught" else 1)
    return responses + min(judgements, math.floor(section.share / (1 - section.share) * responses))


def training_steps(cfg: Config, num_sft: int) -> dict[str, int]:
    """Steps of the whole run, by training stage; `num_sft` examples of SFT, where there is one."""
    sft = {"sft": total_steps(cfg.sft, num_sft)} if trains_m1(cfg) else {}
    return sft | {"dpo": cfg.iterations * total_steps(cfg.dpo, num_pairs(cfg))}


class Tokens(NamedTuple):
    """What a generating stage computes in one iteration, see StageCost. `shards` work side by side."""

    items: int
    read: float
    cached: float
    written: float
    shards: int


def _tokens(cfg: Config, text: TextLengths) -> dict[str, Tokens]:
    """Of every generating stage that a run may have.

    Responses to one prompt share it, draws of one judgement share its request, and all judgements of an engine the beginning
    of the template: each is computed once and read from the cache after that.
    """
    prompts, num = num_prompts(cfg), cfg.candidates.num
    shots = cfg.prompts.seed_shots + cfg.prompts.generated_shots + 1
    draws = cfg.judge.draws if cfg.judge.method == "sampled" else 1
    judgement = text.judgement if cfg.judge.method == "sampled" else 1.0
    judged = text.prompt + text.response + text.judge_rest
    engines = cfg.judge.shards * cfg.generate.replicas

    def responses(each: int) -> Tokens:
        made = prompts * each
        read, cached = prompts * text.prompt, (made - prompts) * text.prompt
        return Tokens(made, read, cached, made * text.response, cfg.candidates.shards)

    def judging(items: int) -> Tokens:
        read = items * judged + min(engines, items) * text.judge_prefix
        cached = items * draws * (text.judge_prefix + judged) - read
        return Tokens(items, read, cached, items * draws * judgement, cfg.judge.shards)

    def comparing(items: int, compared: float, shards: int) -> Tokens:
        """The template is taken to be as long as the judge's, and not to be cached."""
        read = items * (text.judge_prefix + text.judge_rest + text.prompt + compared)
        return Tokens(items, read, 0.0, items * text.judgement, shards)

    attempts = math.ceil(prompts / ACCEPTED)
    duels = comparing(prompts * num * (num - 1), 2 * text.response, cfg.judge.shards)  # both orders
    two = text.response + 2 * judgement
    return {
        "prompts": Tokens(attempts, attempts * shots * text.prompt, 0.0, attempts * text.prompt, 1),
        "candidates": responses(num),
        "judge": duels if cfg.judge.shape == "pairwise" else judging(prompts * num),
        "judge_previous": judging(prompts * num),
        "anchors": responses(num),
        "judge_anchors": judging(prompts * num),
        "meta_judge": comparing(prompts * draws * (draws - 1), two, cfg.judge_training.shards),
        "modified_prompts": Tokens(prompts, prompts * text.prompt, 0.0, prompts * text.prompt, cfg.candidates.shards),
        "worse_responses": responses(1),
        "judge_worse": judging(prompts),
    }


def generation(cfg: Config, text: TextLengths, rate: Rates, iteration: int = 2) -> list[StageCost]:
    """The generating stages of an iteration; of the second a method has all of its own."""
    judged = text.prompt + text.response + text.judge_rest
    every = _tokens(cfg, text)
    names = [
        *([] if cfg.prompts.source == "file" else ["prompts"]),
        "candidates",
        *scoring_stages(cfg, iteration),
    ]
    free = ("modified_prompts",) if cfg.judge_training.modified == "other" else ()
    width = cfg.generate.replicas * cfg.generate.tensor_parallel
    per_pair = 2.0 * cfg.model.num_layers * cfg.model.query_size / total_parameters(cfg.model)  # in computed tokens
    found = []
    for name in names:
        if name not in every or name in free:
            continue
        items, read, cached, out, shards = every[name]
        pointwise = name.startswith("judge") and cfg.judge.shape == "pointwise"
        looked_at = items * judged * text.judge_prefix if pointwise else 0.0  # pairs of a computed and a cached token
        hours = ((read + per_pair * looked_at) / rate.prefill + out / rate.decode) / 3600
        found.append(StageCost(name, items, read, out, hours, shards * width, cached))
    return found


def training(name: str, cost: StepCost, section: TrainSection, items: int, gpus: int, reference: bool) -> StageCost:
    """A training stage; `reference`: its log-probabilities are computed once, by a forward pass over all pairs."""
    steps = total_steps(section, items)
    passes = steps + (REFERENCE_PASS * items / section.global_batch if reference else 0.0)
    return StageCost(name, items, passes * cost.tokens, 0.0, passes * cost.seconds * gpus / 3600, gpus)

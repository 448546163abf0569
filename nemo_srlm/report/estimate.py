"""The text of `nemo-srlm estimate`: what a run's training and its whole loop cost, and its layouts compared."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nemo_srlm.config.schema import Config
from nemo_srlm.config.training import ModelSection
from nemo_srlm.errors import ConfigError
from nemo_srlm.train import layout_search, lengths, loop_cost
from nemo_srlm.train.estimate import GIB, Gpu, Work, peak_memory, save_memory, total_parameters, training_flops, works
from nemo_srlm.train.layout import check_batches, check_layout, world_size
from nemo_srlm.train.layout_search import layout_words
from nemo_srlm.train.lengths import Units, mean_tokens
from nemo_srlm.train.loop_cost import Rates, StageCost, TextLengths
from nemo_srlm.train.step_time import PUBLISHED, StepCost, step_cost

SAMPLE = 64  # steps over which padding, bubble and time are averaged
SHOWN = 8  # layouts of each number of GPUs


@dataclass(frozen=True)
class Assumed:
    """What the estimate is made for: lengths by training stage, in words too, the GPU, rates of generation."""

    units: Mapping[str, Units]
    words: str
    text: TextLengths
    gpu: Gpu
    rates: Rates
    efficiency: float


def sample(cfg: Config, median: float, sigma: float) -> dict[str, Units]:
    """Units of every training stage with lognormal lengths. Raises ConfigError where next to none fits its max_length."""
    found: dict[str, Units] = {}
    for work in works(cfg):
        longest = work.section.max_length
        if lengths.share_that_fits(work.documents, longest, median, sigma) < lengths.RAREST:
            raise ConfigError(
                f"{work.name}.max_length", f"{longest}, and of examples with a median of {median:g} tokens next to none fits",
                f"room for more than {lengths.RAREST:.1%} of them", f"lower --median, or raise {work.name}.max_length",
            )  # fmt: skip
        number = SAMPLE * work.section.global_batch
        found[work.name] = lengths.lognormal(number, work.documents, longest, median, sigma)
    return found


def filled_up(units: Units, work: Work) -> Units:
    """A run's own examples, repeated to at least one global batch and cut to the sampled steps."""
    size = work.section.global_batch
    return [units[i % len(units)] for i in range(min(SAMPLE * size, max(size, len(units))))]


def num_sft(cfg: Config) -> int:
    """Examples of SFT: an instruct model is tuned on EFT alone."""
    return (cfg.seed.num_ift if cfg.run.start == "base" else 0) + (cfg.eft.num_train if cfg.eft.source != "none" else 0)


def costs(cfg: Config, assumed: Assumed) -> dict[str, StepCost]:
    """The mean step of every training stage. Raises ConfigError for an impossible layout."""
    check_layout(cfg.model, cfg.parallel)
    found = {}
    for work in works(cfg):
        check_batches(work.name, work.section, cfg.parallel)
        found[work.name] = step_cost(
            cfg.model, cfg.parallel, cfg.precision, work, assumed.gpu, assumed.units[work.name], assumed.efficiency
        )
    return found


def text(cfg: Config, assumed: Assumed) -> str:
    """Memory and steps of the training, then GPU-hours of every stage of an iteration."""
    model, parallel, precision, gpu = cfg.model, cfg.parallel, cfg.precision, assumed.gpu
    gpus, peak = world_size(parallel), gpu.peak(precision)
    fp8 = "" if precision.fp8 == "none" else f" with FP8 {precision.fp8}"
    lines = [
        f"{total_parameters(model):,} parameters; {gpus} GPUs: {layout_words(parallel)}, {precision.dtype}{fp8}, recompute "
        f"{precision.recompute}",
        f"documents: {assumed.words}",
    ]
    found = costs(cfg, assumed)
    for work in works(cfg):
        cost = found[work.name]
        stage, memory = peak_memory(model, parallel, precision, work)
        parts = ", ".join(f"{name} {value / GIB:.2f}" for name, value in dataclasses.asdict(memory).items())
        verdict = "fits" if memory.total <= gpu.memory * GIB else "DOES NOT FIT"
        lines += [
            f"{work.name}: {memory.total / GIB:.1f} GiB on the fullest GPU (pipeline stage {stage}) of {gpu.memory} GiB:"
            f" {verdict}",
            f"  GiB: {parts}",
            f"  step: {cost.seconds:.3g} s for {cost.tokens:,.0f} tokens in {cost.rows:.1f} rows per replica; useful tokens"
            f" {cost.useful:.0%}, pipeline bubble {cost.bubble:.0%}, waiting for other replicas {cost.waiting:.0%}, optimizer"
            f" and exchange between replicas {cost.exposed:.0%}",
            f"  {cost.tokens / cost.seconds:,.0f} tokens/s, MFU {mfu(cfg, work, assumed, cost, gpus):.0%} of {peak:g} TFLOP/s"
            f" (rows reach {assumed.efficiency:.0%})",
        ]
    pairs = loop_cost.num_pairs(cfg)
    lines.append(published_words(model))
    lines += [
        f"host memory of a save: {save_memory(cfg.model, cfg.parallel, cfg.precision) / GIB:.1f} GiB per node",
        f"dpo reference cache: at most {16 * pairs / 2**20:.2f} MiB of host memory, no GPU memory ({pairs} pairs)",
    ]
    return "\n".join([*lines, "", *loop_lines(cfg, assumed, found), "", *fit_lines(cfg, gpu)])


def published_words(model: ModelSection) -> str:
    """How published training speeds compare with this estimate."""
    times = next(times for most, times in PUBLISHED if total_parameters(model) <= most)
    return f"step times are estimates: published ones of this size took {times} times as long (H100, FP8)"


def mfu(cfg: Config, work: Work, assumed: Assumed, cost: StepCost, gpus: int) -> float:
    """Model FLOPs of the useful tokens over what all GPUs could compute in the step."""
    units = assumed.units[work.name]
    squares = sum(n * n for unit in units for n in unit) / len(units) * work.section.global_batch
    flops = training_flops(cfg.model, cost.tokens, squares)
    return flops / cost.seconds / (gpus * assumed.gpu.peak(cfg.precision) * 1e12)


def loop_lines(cfg: Config, assumed: Assumed, found: Mapping[str, StepCost]) -> list[str]:
    """GPU-hours of the stages of one iteration, and of the run."""
    gpus = world_size(cfg.parallel)
    dpo = loop_cost.training("dpo", found["dpo"], cfg.dpo, loop_cost.num_pairs(cfg), gpus, reference=True)
    stages = [*loop_cost.generation(cfg, assumed.text, assumed.rates), dpo]
    once = (
        [loop_cost.training("sft", found["sft"], cfg.sft, num_sft(cfg), gpus, reference=False)]
        if "sft" in found
        else []
    )
    rate = assumed.rates
    lines = [
        f"GPU-hours of one iteration ({rate.decode:,.0f} tokens/s written and {rate.prefill:,.0f} read per GPU: {rate.source})",
        f"  {'stage':16}{'items':>9}{'tokens read':>14}{'from cache':>14}{'written':>12}{'GPU-hours':>11}{'GPUs':>6}{'hours':>8}",
        *(_stage_line(cost) for cost in stages),
    ]
    every = [
        *(c for t in range(cfg.iterations) for c in loop_cost.generation(cfg, assumed.text, assumed.rates, t + 1)),
        *(cfg.iterations * [dpo]), *once,
    ]  # fmt: skip
    whole, hours = sum(c.gpu_hours for c in every), sum(c.hours for c in every)
    scorer = {"checker": ", the checker", "reward_model": ", the reward model"}.get(cfg.pairs.score, "")
    return [
        *lines, f"  an iteration: {sum(c.gpu_hours for c in stages):.1f} GPU-hours, {sum(c.hours for c in stages):.1f} hours",
        *(["once:"] if once else []), *(_stage_line(cost) for cost in once),
        f"the run, {cfg.iterations} iterations: {whole:.1f} GPU-hours, {hours:.1f} hours"
        f" (without conversion, evaluations, EFT judging{scorer} and the start of engines)",
    ]  # fmt: skip


def _stage_line(cost: StageCost) -> str:
    tokens = f"{cost.read:14,.0f}{cost.cached:14,.0f}{cost.written:12,.0f}"
    return f"  {cost.stage:16}{cost.items:9,}{tokens}{cost.gpu_hours:11.2f}{cost.gpus:6}{cost.hours:8.2f}"


def fit_lines(cfg: Config, gpu: Gpu) -> list[str]:
    fits = layout_search.smallest_fits(cfg.model, cfg.precision, works(cfg), gpu.memory)
    return [
        "smallest layouts that fit:" if fits else f"no layout of up to 512 GPUs of {gpu.memory} GiB fits",
        *(
            f"  {world_size(f.parallel)} GPUs: {layout_words(f.parallel)}, recompute {f.precision.recompute}:"
            f" {f.memory / GIB:.1f} GiB"
            for f in fits
        ),
    ]


def layouts(cfg: Config, assumed: Assumed, counts: Sequence[int]) -> str:
    """The layouts of each number of GPUs as a Markdown table, the fewest GPU-hours of training first."""
    steps = loop_cost.training_steps(cfg, num_sft(cfg))
    names = [work.name for work in works(cfg) if work.name in steps]
    todo = [work for work in works(cfg) if work.name in names]
    lines = [
        f"documents: {assumed.words}; {', '.join(f'{steps[n]:,} steps of {n}' for n in names)}; {published_words(cfg.model)}",
        "",
        "| GPUs | layout | row | recompute | GiB | useful " + "/".join(names) + " | bubble | step, s | hours | GPU-hours |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for gpus in counts:
        found = layout_search.ranking(
            cfg.model, cfg.precision, todo, steps, assumed.units, assumed.gpu, gpus, assumed.efficiency
        )
        if not found:
            lines.append(f"| {gpus} | none fits | | | | | | | | |")
        for one in found[:SHOWN]:
            cost = [one.costs[name] for name in names]
            lines.append(
                f"| {gpus} | {layout_words(one.fit.parallel)} | {one.budget or 'one example'} | {one.fit.precision.recompute}"
                f" | {one.fit.memory / GIB:.1f} | {' / '.join(f'{c.useful:.0%}' for c in cost)}"
                f" | {' / '.join(f'{c.bubble:.0%}' for c in cost)} | {' / '.join(f'{c.seconds:.2f}' for c in cost)}"
                f" | {one.gpu_hours / gpus:.2f} | {one.gpu_hours:.1f} |"
            )
    return "\n".join(lines)


def mean_response(units: Units, prompt: float) -> float:
    """Tokens of a response, where documents are prompt and response."""
    return max(1.0, mean_tokens(units) - prompt)

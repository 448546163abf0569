"""The verb `estimate`: its arguments, and what they stand for."""

import dataclasses
from argparse import ArgumentParser, Namespace
from pathlib import Path

from nemo_srlm.config.schema import Config
from nemo_srlm.data import templates
from nemo_srlm.errors import ConfigError
from nemo_srlm.launch.arguments import fraction, gpu_count, positive
from nemo_srlm.report import estimate
from nemo_srlm.report.estimate import Assumed
from nemo_srlm.train import loop_cost
from nemo_srlm.train.estimate import GPUS, works
from nemo_srlm.train.lengths import MEDIAN, SIGMA
from nemo_srlm.train.loop_cost import TextLengths
from nemo_srlm.train.step_time import EFFICIENCY

PROMPT = 60.0  # tokens
CHARACTERS = 4.8  # per token: the shipped English judge template with SmolLM2's 49,152 pieces


def add_arguments(p: ArgumentParser) -> None:
    p.add_argument("--gpu", default="h100", choices=list(GPUS), help="default: h100")
    p.add_argument("--memory", type=positive, metavar="GIB", help="memory of one GPU, in place of that of --gpu")
    p.add_argument("--peak", type=positive, metavar="TFLOPS", help="peak of one GPU in the precision used, likewise")
    p.add_argument("--network", type=positive, metavar="GB/S", help="what one GPU has to other nodes, likewise")
    p.add_argument(
        "--efficiency", type=fraction, default=EFFICIENCY, help="of the peak, that the computation of a row reaches; padding, "
        f"bubble and communication come on top (default: {EFFICIENCY})",
    )  # fmt: skip
    p.add_argument(
        "--median", type=positive, default=MEDIAN, help=f"tokens of a document, lognormal (default: {MEDIAN:g})"
    )
    p.add_argument("--sigma", type=positive, default=SIGMA, help=f"of the lengths' logarithms (default: {SIGMA:g})")
    p.add_argument("--run", type=Path, metavar="RUN_DIR", help="the lengths of this run's own data, in place of these")
    p.add_argument(
        "--layouts",
        type=gpu_count,
        nargs="+",
        metavar="GPUS",
        help="compare the layouts of so many GPUs by time, as a table; above 8 whole nodes of 8",
    )
    p.add_argument("--decode", type=positive, default=0.0, metavar="TOKENS/S", help="written per GPU when generating")
    p.add_argument("--prefill", type=positive, default=0.0, metavar="TOKENS/S", help="read per GPU when generating")


def run(args: Namespace, cfg: Config) -> str:
    """The text of the estimate."""
    gpu = GPUS[args.gpu]
    gpu = dataclasses.replace(gpu, memory=args.memory or gpu.memory, network=args.network or gpu.network)
    if args.peak:
        gpu = dataclasses.replace(gpu, bf16=args.peak, fp8=args.peak)
    if cfg.precision.fp8 != "none" and not gpu.fp8:
        raise ConfigError(
            "precision.fp8", f"{cfg.precision.fp8} on {args.gpu}", "a GPU with FP8", "set precision.fp8=none"
        )
    units = estimate.sample(cfg, args.median, args.sigma)
    words = f"lognormal, median {args.median:g}, sigma {args.sigma:g}"
    text = TextLengths(PROMPT, estimate.mean_response(units["dpo"], PROMPT))
    if args.run:
        from nemo_srlm.launch.run_lengths import run_lengths

        own, measured = run_lengths(cfg, args.run)
        text = measured or text
        units |= {w.name: estimate.filled_up(own[w.name], w) for w in works(cfg) if own.get(w.name)}
        words = f"those of {args.run} ({', '.join(f'{len(found):,} of {name}' for name, found in own.items())})"
    beginning, *rest = templates.PLACEHOLDER.sub("\0", templates.load(cfg.judge.template, templates.JUDGE)).split("\0")
    text = dataclasses.replace(
        text, judge_prefix=len(beginning) / CHARACTERS, judge_rest=sum(map(len, rest)) / CHARACTERS
    )
    rates = loop_cost.rates(cfg, gpu, args.decode, args.prefill)
    assumed = Assumed(units, words, text, gpu, rates, args.efficiency)
    return estimate.layouts(cfg, assumed, args.layouts) if args.layouts else estimate.text(cfg, assumed)

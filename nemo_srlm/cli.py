"""The command line. Imports nothing heavy: `status` and `--help` answer at once.

Exit codes: 0 done, 1 a stage failed, 2 the user's mistake (one message, no traceback), 130 interrupted.
"""

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from nemo_srlm import __version__
from nemo_srlm.core.pipeline import NAMES
from nemo_srlm.errors import UserError, of_system

OVERRIDES = """Every setting can be given as key=value, in NeMo's and Hydra's way:
  nemo-srlm run dpo.beta=0.2 iterations=4 run.name=beta02
`nemo-srlm config` prints all keys with their values."""


def _config_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config-name", default="tiny", metavar="NAME", help="a file of configs/, without .yaml (default: tiny)"
    )
    parser.add_argument("--config-dir", type=Path, metavar="DIR", help="where it lies, if not in configs/")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings, e.g. dpo.beta=0.2")


def _compose(args: argparse.Namespace):  # type: ignore[no-untyped-def]  # Config, imported late
    from nemo_srlm.config.compose import CONFIGS, compose

    return compose(args.config_name, args.overrides, args.config_dir or CONFIGS)


def latest_run(root: Path = Path("runs")) -> Path:
    """The run directory that was worked on last. Raises UserError when there is none."""
    found = sorted(root.glob("*/config.yaml"), key=lambda p: p.stat().st_mtime)
    if not found:
        raise UserError(root, "no run here", remedy="start one with `nemo-srlm run`, or name a run directory")
    return found[-1].parent


def _run(args: argparse.Namespace) -> int:
    from nemo_srlm.launch.local import StageFailed, run

    cfg = _compose(args)
    started = time.time()
    try:
        run_dir = run(cfg, args.until)
    except StageFailed as error:
        print(f"\n{error}\n  The same command goes on from here.", file=sys.stderr)
        return error.code
    if args.until:
        return 0
    from nemo_srlm.report import terminal_table
    from nemo_srlm.report.display import console

    console().print(terminal_table(run_dir))
    print(f"report: {run_dir}/report.html   ({time.time() - started:.0f} s)")
    return 0


def _stage(args: argparse.Namespace) -> int:
    from nemo_srlm.config.compose import save_resolved_config
    from nemo_srlm.core.pipeline import pipeline
    from nemo_srlm.core.stage import Ref, run_directory, state
    from nemo_srlm.launch.local import StageFailed, locked, run_step
    from nemo_srlm.launch.plan import Step
    from nemo_srlm.report.display import Display
    from nemo_srlm.stages import load

    cfg = _compose(args)
    run_dir, ref = run_directory(cfg), Ref(args.verb, args.iteration)
    if ref not in pipeline(cfg):
        valid = sorted({r.iteration for r in pipeline(cfg) if r.stage == args.verb})
        raise UserError(
            "--iteration",
            str(args.iteration),
            f"{args.verb} belongs to iteration(s) {valid}" if valid else "another config",
        )
    stage = load(ref.stage)
    with locked(run_dir):
        if state(stage, cfg, ref.iteration, run_dir) == "done":
            print(f"{run_dir}/{ref} is up to date")
            return 0
        save_resolved_config(cfg, run_dir)
        try:
            with Display(1) as display:
                run_step(cfg, run_dir, Step((ref,), stage.kind, stage.shards(cfg)), display, 0)
        except StageFailed as error:
            print(error, file=sys.stderr)
            return error.code
    return 0


def _status(args: argparse.Namespace) -> int:
    from nemo_srlm.launch.slurm import status as slurm_status
    from nemo_srlm.report import status

    run_dir = args.run_dir or latest_run()
    if args.json:
        print(json.dumps(status.as_json(run_dir, *slurm_status.rows(run_dir)), indent=1))
        return 0
    from nemo_srlm.report.display import console

    screen = console()
    while True:
        table = status.table(run_dir, *slurm_status.rows(run_dir))
        if args.watch:
            screen.clear()
        screen.print(table)
        if not args.watch:
            return 0
        time.sleep(2)


def _plan(args: argparse.Namespace) -> int:
    from nemo_srlm.launch.slurm import verbs

    return verbs.plan(_compose(args))


def _submit(args: argparse.Namespace) -> int:
    from nemo_srlm.launch.slurm import verbs

    return verbs.supervise(args.supervise) if args.supervise else verbs.submit(_compose(args))


def _cancel(args: argparse.Namespace) -> int:
    from nemo_srlm.launch.slurm import verbs

    return verbs.cancel(args.run_dir or latest_run())


def _logs(args: argparse.Namespace) -> int:
    from nemo_srlm.launch.slurm import verbs
    from nemo_srlm.launch.worker import parse_ref

    return verbs.logs(args.run_dir or latest_run(), parse_ref(args.stage), args.follow)


def _show(args: argparse.Namespace) -> int:
    from nemo_srlm.report import show

    run_dir = args.run_dir or latest_run()
    print(
        json.dumps(show.item(run_dir, args.id), indent=1, ensure_ascii=False)
        if args.json
        else show.text(run_dir, args.id)
    )
    return 0


def _report(args: argparse.Namespace) -> int:
    from nemo_srlm.report import write_report

    run_dirs = args.run_dirs or [latest_run()]
    print(write_report(run_dirs, args.out or run_dirs[0] / "report.html"))
    return 0


def _alpaca(args: argparse.Namespace) -> int:
    from nemo_srlm.evaluate import alpaca_rows

    if (args.run is None) != (args.model is None):
        raise UserError("--run and --model", "one without the other", "both, or none")
    row = alpaca_rows.row_of(args.file, args.calibration)
    print(json.dumps(row, indent=1) if args.json else alpaca_rows.as_text(row))
    if args.run:
        print(f"stored for the report in {alpaca_rows.save_row(args.run, args.model, row)}", file=sys.stderr)
    return 0


def _config(args: argparse.Namespace) -> int:
    from nemo_srlm.config.compose import as_yaml

    print(as_yaml(_compose(args)), end="")
    return 0


def _estimate(args: argparse.Namespace) -> int:
    from dataclasses import replace

    from nemo_srlm.train import estimate

    gpu = estimate.GPUS[args.gpu]
    gpu = replace(gpu, memory=args.memory or gpu.memory)
    if args.peak:
        gpu = replace(gpu, bf16=args.peak, fp8=args.peak)
    print(estimate.report(_compose(args), gpu, args.mfu))
    return 0


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="nemo-srlm", description="Self-Rewarding Language Models: M0 -> M1 -> M2 -> M3, resumable, at any size.",
        epilog=OVERRIDES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    top.add_argument("--version", action="version", version=__version__)
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, function: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        p = verbs.add_parser(
            name, help=text, description=text, epilog=OVERRIDES, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        p.set_defaults(function=function)
        return p

    p = verb(
        "run", _run, "Run all that remains of a run on this machine. Interrupt it anywhere; the same command goes on."
    )
    p.add_argument("--until", default="", choices=["", *NAMES], metavar="STAGE", help="stop after the first such stage")
    _config_arguments(p)
    p = verb("status", _status, "What is done, running, failed and waiting.")
    p.add_argument("run_dir", nargs="?", type=Path, help="default: the run worked on last")
    p.add_argument("--json", action="store_true", help="for programs")
    p.add_argument("--watch", action="store_true", help="again every 2 s")
    p = verb(
        "show", _show, "One item through every stage: prompt, candidates, judgements, pair or the reason for none."
    )
    p.add_argument("id", help="the beginning of a prompt's, candidate's or pair's id")
    p.add_argument("run_dir", nargs="?", type=Path, help="default: the run worked on last")
    p.add_argument("--json", action="store_true", help="for programs")
    p = verb("report", _report, "Write the HTML report of one run, or of several beside each other.")
    p.add_argument("run_dirs", nargs="*", type=Path, help="default: the run worked on last")
    p.add_argument("--out", type=Path, help="default: report.html in the first run's directory")
    p = verb(
        "alpaca", _alpaca, "AlpacaEval 2: win rate, error, discrete and length-controlled win rate of annotations."
    )
    p.add_argument("file", type=Path, metavar="ANNOTATIONS", help="annotations.json (.gz) of the alpaca_eval package")
    p.add_argument(
        "--calibration", type=Path, metavar="FILE", help="df_gamed.csv, or tools/alpaca_calibration.py's JSON"
    )
    p.add_argument("--run", type=Path, metavar="RUN_DIR", help="note the row for the report of this run")
    p.add_argument("--model", metavar="M1", help="the model of that run whose answers were judged")
    p.add_argument("--json", action="store_true", help="for programs")
    p = verb("plan", _plan, "The Slurm jobs that `submit` would submit, as a table.")
    _config_arguments(p)
    p = verb("submit", _submit, "Submit all that remains of a run to Slurm. Safe to repeat: only what is missing.")
    p.add_argument("--supervise", type=Path, metavar="RUN_DIR", help=argparse.SUPPRESS)
    _config_arguments(p)
    p = verb("cancel", _cancel, "Cancel the queued and running Slurm jobs of a run.")
    p.add_argument("run_dir", nargs="?", type=Path, help="default: the run worked on last")
    p = verb("logs", _logs, "The newest log of a stage.")
    p.add_argument("stage", metavar="iterT/STAGE", help="for example iter1/judge")
    p.add_argument("run_dir", nargs="?", type=Path, help="default: the run worked on last")
    p.add_argument("--follow", "-f", action="store_true", help="go on as it grows")
    p = verb(
        "estimate", _estimate, "Memory a GPU, step time, tokens/s, and the smallest layouts that fit, for training."
    )
    p.add_argument("--gpu", default="h100", choices=["a100", "h100", "h200", "b200", "l40s"], help="default: h100")
    p.add_argument("--memory", type=float, metavar="GIB", help="of one GPU, in place of that GPU's")
    p.add_argument(
        "--peak", type=float, metavar="TFLOPS", help="of one GPU in the precision used, in place of that GPU's"
    )
    p.add_argument("--mfu", type=float, default=0.4, help="model FLOPs utilisation to reckon with (default: 0.4)")
    _config_arguments(p)
    p = verb("config", _config, "Print the resolved configuration.")
    _config_arguments(p)
    for name in NAMES:
        if name == "report":
            continue  # the verb above
        p = verb(name, _stage, f"Run the stage `{name}` of one iteration, if its inputs are done.")
        p.add_argument("--iteration", type=int, default=0, metavar="T", help="default 0")
        _config_arguments(p)
    return top


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Settings may stand before and after options: argparse alone takes only the first row of them."""
    top = parser()
    args, rest = top.parse_known_args(argv)
    if rest:
        if not hasattr(args, "overrides") or any("=" not in word or word.startswith("--") for word in rest):
            top.error(f"unrecognized arguments: {' '.join(rest)}")
        args.overrides = [*args.overrides, *rest]
    return args


def main(argv: Sequence[str] | None = None) -> int:
    for number in (signal.SIGINT, signal.SIGTERM):  # in the background too, where shells ignore SIGINT
        signal.signal(number, _interrupt)
    args = parse(argv)
    try:
        return int(args.function(args))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        mistake = of_system(error, Path.cwd())
        if mistake is None:
            raise
        print(f"error: {mistake}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from here", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())

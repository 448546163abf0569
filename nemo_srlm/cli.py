"""The command line. Heavy modules are imported by the verb that needs them: `--help` and `status` answer at once.

Exit codes: 0 done, 1 a stage failed or a fault of the program (its log has the traceback), 2 the user's mistake (one
message, no traceback), 130 interrupted.
"""

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from nemo_srlm import __version__
from nemo_srlm.config.schema import Config
from nemo_srlm.core.commands import about
from nemo_srlm.core.exit_codes import guarded
from nemo_srlm.core.pipeline import NAMES, pipeline
from nemo_srlm.core.stage import Ref
from nemo_srlm.core.terminal import console, print_log, say
from nemo_srlm.errors import UserError
from nemo_srlm.launch import estimate, redo
from nemo_srlm.launch.arguments import count_or_zero, stage_ref
from nemo_srlm.report import verbs as verbs_of_results

OVERRIDES = """Every setting can be given as key=value, in NeMo's and Hydra's way:
  nemo-srlm run dpo.beta=0.2 iterations=4 run.name=beta02
A text with a line break is in double quotes inside single ones, as in YAML: 'chat.user_suffix="\\nAnswer:"'
`nemo-srlm config` prints all keys with their values, `nemo-srlm config --describe` what each may hold."""
WATCH_SECONDS = 2  # `status --watch`
STAGES = [name for name in NAMES if name != "report"]  # of which there is a verb that also reports on unfinished runs


def _config_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config-name", default="tiny", metavar="NAME", help="a file of configs/, without .yaml (default: tiny)"
    )
    parser.add_argument(
        "--config-dir", type=Path, metavar="DIR",
        help="a directory of your own with it, whose files may build on those of configs/",
    )  # fmt: skip
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings, e.g. dpo.beta=0.2")


def _compose(args: argparse.Namespace) -> Config:
    from nemo_srlm.config.compose import compose
    from nemo_srlm.config.shipped import CONFIGS
    from nemo_srlm.convert.describe import describe

    return compose(args.config_name, args.overrides, args.config_dir or CONFIGS, describe)


def _words(args: argparse.Namespace) -> list[str]:
    """The words from which `_compose` makes the config, for another command about it."""
    folder = ["--config-dir", str(args.config_dir)] if args.config_dir else []
    return ["--config-name", args.config_name, *folder, *args.overrides]


def latest_run() -> Path:
    """The run directory under runs/ whose config was written last. Raises UserError when there is none."""
    root = Path("runs")
    found = sorted(root.glob("*/config.yaml"), key=lambda p: p.stat().st_mtime)
    if not found:
        raise UserError(root, "no run here", remedy="start one with `nemo-srlm run`, or name a run directory")
    return found[-1].parent


def _run(args: argparse.Namespace) -> int:
    from nemo_srlm.launch.launcher import launcher_named

    cfg = _compose(args)
    stages = list(dict.fromkeys(ref.stage for ref in pipeline(cfg)))
    if args.until and args.until not in stages:
        raise UserError("--until", args.until, f"a stage of this run: {', '.join(stages)}")
    if args.redo_lost:
        redo.redo_lost(cfg)
    return launcher_named(args.launcher).start(cfg, args.until)


def _stage(args: argparse.Namespace) -> int:
    from nemo_srlm.launch import local

    cfg, ref = _compose(args), Ref(args.name, args.iteration)
    if ref not in pipeline(cfg):
        valid = sorted({r.iteration for r in pipeline(cfg) if r.stage == args.name})
        if not valid:
            raise UserError(args.name, "no stage of a run with these settings", "one that `nemo-srlm plan` lists")
        raise UserError("--iteration", str(args.iteration), f"{args.name} belongs to iteration(s) {valid}")
    try:
        local.run_stage(cfg, ref, _words(args))
    except local.StageFailed as error:
        say(error, error=True)
        return error.code
    return 0


def _status(args: argparse.Namespace) -> int:
    from nemo_srlm.launch.launcher import launcher_of
    from nemo_srlm.report import status

    run_dir, screen = args.run_dir or latest_run(), console()
    launcher = launcher_of(run_dir)
    if args.json:
        look = status.Look(run_dir)
        say(json.dumps(status.as_json(look, *launcher.rows(look)), indent=1))
        return 0
    while True:
        look = status.Look(run_dir)
        table = status.table(look, *launcher.rows(look))
        if args.watch:
            screen.clear()
        screen.print(table)
        if not args.watch:
            return 0
        time.sleep(WATCH_SECONDS)


def _plan(args: argparse.Namespace) -> int:
    from nemo_srlm.launch.slurm import verbs

    return verbs.plan(_compose(args))


def _submit(args: argparse.Namespace) -> int:
    from nemo_srlm.launch.launcher import SLURM
    from nemo_srlm.launch.slurm import verbs

    if args.supervise:
        return verbs.supervise(args.supervise)
    cfg = _compose(args)
    if args.redo_lost:
        redo.redo_lost(cfg)
    return SLURM.start(cfg, "")


def _redo(args: argparse.Namespace) -> int:
    return redo.run(args, latest_run)


def _verify(args: argparse.Namespace) -> int:
    from nemo_srlm.launch.verify import verify

    return verify(args.run_dir or latest_run())


def _cancel(args: argparse.Namespace) -> int:
    from nemo_srlm.launch.slurm import verbs

    return verbs.cancel(args.run_dir or latest_run())


def _logs(args: argparse.Namespace) -> int:
    """Prints the newest log of a stage after the names of all; --follow continues as it grows."""
    from nemo_srlm.config.compose import require_run
    from nemo_srlm.launch.launcher import launcher_of

    run_dir = args.run_dir or latest_run()
    found = launcher_of(run_dir).logs(run_dir, args.stage)
    if not found:
        require_run(run_dir)
        raise UserError(f"{run_dir}/{args.stage}", "no logs yet", remedy=f"see `{about('status', run_dir)}`")
    say("\n".join(map(str, found)), error=True)
    print_log(found[-1], args.follow)
    return 0


def _show(args: argparse.Namespace) -> int:
    from nemo_srlm.report import show

    run_dir, wanted = args.run_dir, args.id
    if wanted and run_dir is None and Path(wanted, "config.yaml").exists():  # `show runs/tiny`
        run_dir, wanted = Path(wanted), None
    run_dir = run_dir or latest_run()
    if not wanted:
        found = show.examples(run_dir)
        say(json.dumps(found, indent=1, ensure_ascii=False) if args.json else show.examples_text(run_dir, found))
        return 0
    say(
        json.dumps(show.item(run_dir, wanted), indent=1, ensure_ascii=False)
        if args.json
        else show.text(run_dir, wanted)
    )
    return 0


def _report(args: argparse.Namespace) -> int:
    from nemo_srlm.report.write import write_report

    run_dirs = args.run_dirs or [latest_run()]
    say(write_report(run_dirs, args.out or run_dirs[0] / "report.html"))
    return 0


def _config(args: argparse.Namespace) -> int:
    from nemo_srlm.config.compose import as_yaml

    if args.describe is not None:
        from nemo_srlm.config.describe import describe

        say(describe(args.describe))
        return 0
    say(as_yaml(_compose(args)).rstrip("\n"))
    return 0


def _estimate(args: argparse.Namespace) -> int:
    say(estimate.run(args, _compose(args)))
    return 0


def _doctor(args: argparse.Namespace) -> int:
    from nemo_srlm.doctor.verb import doctor

    return doctor(args.dir, args.quick, args.json)


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
        "run", _run, "Run the unfinished stages of a run on this machine. Safe to interrupt: the same command resumes."
    )
    p.add_argument("--until", default="", choices=["", *NAMES], metavar="STAGE", help="stop after the first such stage")
    p.add_argument(
        "--launcher",
        default="local",
        metavar="NAME",
        help="how its stages are run (default: local; a wrong NAME lists all)",
    )
    p.add_argument("--redo-lost", action="store_true", help=redo.LOST)
    _config_arguments(p)
    p = verb("status", _status, "The state of every stage: done, running, failed, waiting.")
    p.add_argument("run_dir", nargs="?", type=Path, help="default: the latest run")
    p.add_argument("--json", action="store_true", help="print JSON")
    p.add_argument("--watch", action="store_true", help=f"refresh every {WATCH_SECONDS} s")
    p = verb(
        "show", _show, "One item through every stage: prompt, candidates, judgements, pair or the reason for none."
    )
    p.add_argument(
        "id", nargs="?", help="the beginning of a prompt's, candidate's or pair's id; without it: some prompts with their ids"
    )  # fmt: skip
    p.add_argument("run_dir", nargs="?", type=Path, help="default: the latest run")
    p.add_argument("--json", action="store_true", help="print JSON")
    p = verb("report", _report, "Write the HTML report of one run, or of several beside each other.")
    p.add_argument("run_dirs", nargs="*", type=Path, help="default: the latest run")
    p.add_argument("--out", type=Path, help="default: report.html in the first run's directory")
    verbs_of_results.add(verb, latest_run)
    p = verb("plan", _plan, "The Slurm jobs that `submit` would submit, as a table.")
    _config_arguments(p)
    p = verb(
        "submit",
        _submit,
        "Submit the unfinished stages of a run to Slurm. Safe to repeat: submits only what is missing.",
    )
    p.add_argument("--supervise", type=Path, metavar="RUN_DIR", help=argparse.SUPPRESS)
    p.add_argument("--redo-lost", action="store_true", help=redo.LOST)
    _config_arguments(p)
    p = verb(
        "redo", _redo, "Remove stages and everything that depends on them, after showing the list, to make them again."
    )
    redo.add_arguments(p)
    p = verb("verify", _verify, "Read every output of the finished stages and compare it with its recorded digest.")
    p.add_argument("run_dir", nargs="?", type=Path, help="default: the latest run")
    p = verb("cancel", _cancel, "Cancel the queued and running Slurm jobs of a run.")
    p.add_argument("run_dir", nargs="?", type=Path, help="default: the latest run")
    p = verb("logs", _logs, "The newest log of a stage.")
    p.add_argument("stage", type=stage_ref, metavar="iterT/STAGE", help="for example iter1/judge")
    p.add_argument("run_dir", nargs="?", type=Path, help="default: the latest run")
    p.add_argument("--follow", "-f", action="store_true", help="continue as the log grows")
    p = verb(
        "estimate", _estimate, "Memory, useful tokens, pipeline bubble and time of the training, GPU-hours of every stage of "
        "an iteration, the smallest layouts that fit.",
    )  # fmt: skip
    estimate.add_arguments(p)
    _config_arguments(p)
    p = verb(
        "config",
        _config,
        "Print the resolved configuration; with --describe, what the settings mean. Those marked identity enter the "
        "fingerprints of stages; those marked execution only say how a run is executed.",
    )
    p.add_argument(
        "--describe", nargs="?", const="", metavar="KEY",
        help="print type, default, allowed values and help of a section (dpo), a key (dpo.beta) or, without KEY, of all",
    )  # fmt: skip
    _config_arguments(p)
    p = verb(
        "doctor",
        _doctor,
        "Is this machine fit? What is installed, and short checks of communication, training, resuming, conversion and "
        "vLLM, each in a process of its own with a time limit. Exit code 0 when nothing that applies here failed.",
    )
    p.add_argument("--quick", action="store_true", help="fewer steps; without resume, vllm and layer")
    p.add_argument("--json", type=Path, metavar="FILE", help="write everything that was found to FILE")
    p.add_argument(
        "--dir", type=Path, default=Path("runs/doctor"), metavar="DIR",
        help="where the checks work, on the file system of the runs (default: runs/doctor): new, or the doctor's own",
    )  # fmt: skip
    p = verb(
        "stage", _stage, "Run one stage of one iteration here, if its inputs are done; `run` does it for every stage."
    )
    p.add_argument("name", metavar="NAME", choices=STAGES, help=f"one of {', '.join(STAGES)}")
    p.add_argument("--iteration", type=count_or_zero, default=0, metavar="T", help="default 0")
    _config_arguments(p)
    return top


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Settings may be given before and after options: argparse alone takes only the first group of them."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in STAGES:  # `nemo-srlm judge`, which job scripts of users hold: `nemo-srlm stage judge`
        words.insert(0, "stage")
    top = parser()
    args, rest = top.parse_known_args(words)
    if rest:
        if "overrides" not in args or any(
            ("=" not in word and word[:1] != "~") or word.startswith("--") for word in rest
        ):
            top.error(f"unrecognized arguments: {' '.join(rest)}")
        args.overrides = [*args.overrides, *rest]
    return args


def main(argv: Sequence[str] | None = None) -> int:
    for number in (signal.SIGINT, signal.SIGTERM):  # in the background too, where shells ignore SIGINT
        signal.signal(number, _interrupt)
    args = parse(argv)
    return guarded(lambda: int(args.function(args)), "\ninterrupted; run the same command again to resume")


if __name__ == "__main__":
    sys.exit(main())

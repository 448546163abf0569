"""The verbs by which results leave a run: `nemo-srlm export-data`, `model-card` and `alpaca`."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

from nemo_srlm.core.terminal import say
from nemo_srlm.errors import UserError

Run = Callable[[argparse.Namespace], int]


def add(verb: Callable[[str, Run, str], argparse.ArgumentParser], latest_run: Callable[[], Path]) -> None:
    """Adds the three to a command line. `verb`: (name, what it runs, help) -> its parser; `latest_run`: the default run."""

    def of_data(args: argparse.Namespace) -> int:
        run_dir = args.run_dir or latest_run()
        return export_data(run_dir, args.out or run_dir / "data")

    p = verb("export-data", of_data, "Write a run's preference pairs, IFT and EFT data as data sets with a card.")
    p.add_argument("run_dir", nargs="?", type=Path, help="default: the latest run")
    p.add_argument("--out", type=Path, metavar="DIR", help="a new folder (default: data in the run's directory)")
    p = verb("model-card", model_card, "Print the card of an exported model with its figures as far as they are measured, or "
             "bring the figures in the cards of all exports up to date.")  # fmt: skip
    p.add_argument("run_dir", type=Path, help="the run's directory")
    p.add_argument("model", metavar="MODEL", nargs="?", help="M1, M2, ...: print its card")
    p.add_argument(
        "--write", action="store_true", help="write figures and limits into README.md of every export of the run"
    )
    p = verb("alpaca", alpaca, "AlpacaEval 2: win rate, error and discrete win rate of annotations; with --calibration, and all "
             "of the evaluation set annotated, the length-controlled one.")  # fmt: skip
    p.add_argument("file", type=Path, metavar="ANNOTATIONS", help="annotations.json (.gz) of the alpaca_eval package")
    p.add_argument(
        "--calibration", type=Path, metavar="FILE", help="df_gamed.csv, or tools/alpaca_calibration.py's JSON"
    )
    p.add_argument(
        "--instructions", type=Path, metavar="FILE", help="the evaluation set in its order: needed for df_gamed.csv; without a "
        "calibration it says which instructions are all (default: 805)",
    )  # fmt: skip
    p.add_argument("--run", type=Path, metavar="RUN_DIR", help="keep the row for the report of this run")
    p.add_argument("--model", metavar="M1", help="the model of that run whose responses were judged")
    p.add_argument("--json", action="store_true", help="print JSON")


def export_data(run_dir: Path, out: Path) -> int:
    from nemo_srlm.report import export_data as writing

    found = writing.export_data(run_dir, out)
    for name, splits in found.items():
        say(f"{name}: {', '.join(f'{split} {number:,}' for split, number in splits.items())}")
    say(f"written to {out}; fill in the licence in {out / 'README.md'} before you publish it", error=True)
    return 0


def model_card(args: argparse.Namespace) -> int:
    """Prints the card of a model, or refreshes those of all exports. Raises UserError for a model that the run does not have."""
    from nemo_srlm.report import cards
    from nemo_srlm.report.collect import collect
    from nemo_srlm.report.run_files import RunFiles

    if args.write == bool(args.model):
        raise UserError("MODEL and --write", "both" if args.write else "neither", "one of them")
    files = RunFiles(args.run_dir)
    if args.write:
        changed = cards.refresh(files, collect(args.run_dir))
        say("\n".join(map(str, changed)) or "every card is up to date")
        return 0
    if args.model not in (known := cards.card_models(files.cfg)):
        raise UserError("MODEL", args.model, f"one of {', '.join(known)}")
    say(cards.model_card(files, args.model))
    return 0


def alpaca(args: argparse.Namespace) -> int:
    from nemo_srlm.evaluate import alpaca_rows

    if (args.run is None) != (args.model is None):
        raise UserError("--run and --model", "one without the other", "both, or none")
    row = alpaca_rows.row_of(args.file, args.calibration, args.instructions)
    if args.run:
        alpaca_rows.check_generator(args.run, args.model, row)
    shown = {name: value for name, value in row.items() if name != "preferences"}
    say(json.dumps(shown, indent=1) if args.json else alpaca_rows.as_text(row))
    if args.run:
        say(f"stored for the report in {alpaca_rows.save_row(args.run, args.model, row)}", error=True)
    return 0

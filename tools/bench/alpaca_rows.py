"""Rows of AlpacaEval 2's leaderboard, computed anew from a clone of tatsu-lab/alpaca_eval with our own fit.

    python tools/bench/alpaca_rows.py CLONE CALIBRATION.json

CALIBRATION: of tools/alpaca_calibration.py. A row per model whose annotations are in the clone and complete: the published
length-controlled win rate and what ours differs by, with the folds of the authors' machine, with those of another, and with the
penalty that comes nearest. What the last column leaves is the tolerance of the package's own solver.
"""

import argparse
import csv
from pathlib import Path

import numpy as np

from nemo_srlm.errors import DataError
from nemo_srlm.evaluate import alpaca, alpaca_files, alpaca_folds

JUDGE = "weighted_alpaca_eval_gpt4_turbo"
COLUMNS = ("authors' folds", "other folds", "either", "nearest penalty")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clone", type=Path)
    parser.add_argument("calibration", type=Path)
    args = parser.parse_args()
    calibration = alpaca_files.read_calibration(args.calibration)
    board = args.clone / "src/alpaca_eval/leaderboards/data_AlpacaEval_2" / f"{JUDGE}_leaderboard.csv"
    with board.open(newline="", encoding="utf-8") as f:
        published = {row[""]: float(row["length_controlled_winrate"]) for row in csv.DictReader(f)}
    differences: list[list[float]] = []
    for path in sorted((args.clone / "results").glob(f"*/{JUDGE}/annotations.json")):
        name = path.parts[-3]
        if name not in published or not path.stat().st_size:
            continue
        try:
            design = alpaca.design(alpaca_files.read_annotations(path), calibration)
        except DataError as error:
            print(f"{name:40} left out: {error}")
            continue
        if not design.length.any():
            continue  # the baseline against itself
        found = [alpaca.at_penalty(design, calibration, alpaca.choose_penalty(design, calibration, folds))
                 for folds in (alpaca_folds.shuffled, alpaca_folds.in_order)]  # fmt: skip
        every = [alpaca.at_penalty(design, calibration, penalty) for penalty in alpaca.PENALTIES]
        away = [100 * float(rates.mean()) - published[name] for _, rates in (*found, *every)]
        differences.append([away[0], away[1], min(away[:2], key=abs), min(away[2:], key=abs)])
        print(f"{name:40} {published[name]:8.4f}  " + "  ".join(f"{v:+.4f}" for v in differences[-1]))
    table = np.abs(np.array(differences))
    for column, title in enumerate(COLUMNS):
        within = ", ".join(f"{(table[:, column] < limit).sum()} within {limit}" for limit in (0.01, 0.02))
        print(f"{title}: of {len(table)} rows {within}, largest {table[:, column].max():.4f}")


if __name__ == "__main__":
    main()

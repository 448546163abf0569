"""Computes the calibration of AlpacaEval 2's length control from a clone of the repository tatsu-lab/alpaca_eval.

    python tools/alpaca_calibration.py CLONE OUT.json [--without MODEL ...]

The authors' df_gamed.csv is on a data hub, not in the repository. The repository determines what a fit needs of it:
- difficulty d_i of instruction i: some annotation files hold the fitted preference g_i = sigmoid(w_model + w_difficulty d_i),
  and the package's weights file holds that model's w, so d_i follows exactly;
- lengths of the two gamed baselines: their model_outputs.json;
- labels of the gamed baselines: a fit uses them through two sums only. The gradient is 0 at the published optimum of
  every other model, which gives both sums. The median over the models is used; `--without` excludes models, so that the
  result can be tested on them.
The labels themselves are needed only to choose the penalty: the published weights of the gamed models predict them.
"""

import argparse
import csv
import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np

from nemo_srlm.evaluate.alpaca import instruction_key

BASELINE, GAMED, JUDGE = "gpt4_1106_preview", ("verbose", "concise"), "weighted_alpaca_eval_gpt4_turbo"
WEIGHTS = f"src/alpaca_eval/metrics/weights/{JUDGE}/length_controlled_v1/baseline_{BASELINE}.csv"


def sigmoid(z: Any) -> Any:
    return 1 / (1 + np.exp(-z))


def load(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clone", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--without", nargs="*", default=[])
    args = parser.parse_args()
    with (args.clone / WEIGHTS).open(newline="") as f:
        weights = {row[0]: np.array(row[1:], dtype=float) for row in list(csv.reader(f))[1:]}
    results = args.clone / "results"
    outputs = {n: load(results / n / "model_outputs.json") for n in (BASELINE, *(f"{BASELINE}_{g}" for g in GAMED))}
    place = {row["instruction"]: i for i, row in enumerate(outputs[BASELINE])}
    length = {n: np.zeros(len(place)) for n in outputs}
    for name, rows in outputs.items():
        for row in rows:
            length[name][place[row["instruction"]]] = len(row["output"])
    deltas = [length[BASELINE] - length[f"{BASELINE}_{g}"] for g in GAMED]

    difficulty, used = None, ""
    own = {}
    for path in sorted(results.glob(f"*/**/{JUDGE}/annotations.json")):
        name = path.relative_to(results).parts[0]
        if name not in weights or name in args.without or name == BASELINE:
            continue
        rows = load(path)
        if len(rows) != len(place) or any(row["preference"] is None for row in rows):
            continue
        if difficulty is None and "glm_preference" in rows[0]:
            g = np.zeros(len(place))
            for row in rows:
                g[place[row["instruction"]]] = row["glm_preference"]
            difficulty, used = (np.log(g / (1 - g)) - weights[name][2]) / weights[name][1], name
        own[name] = rows
    if difficulty is None:
        raise SystemExit("no annotation file with glm_preference in this clone")
    gamed = np.concatenate([np.stack([np.tanh(d / d.std(ddof=1)), difficulty], axis=1) for d in deltas])
    sums = []
    for name, rows in own.items():
        y = np.array([0.5 if row["preference"] == 0 else row["preference"] - 1 for row in rows])
        d = np.array([len(row["output_1"]) - len(row["output_2"]) for row in rows], dtype=float)
        if d.std() == 0:
            continue
        order = [place[row["instruction"]] for row in rows]
        x, w = np.stack([np.tanh(d / d.std(ddof=1)), difficulty[order], np.ones(len(d))], axis=1), weights[name]
        gradient = x.T @ (y - sigmoid(x @ w))
        penalty = abs(gradient[2])  # no gamed row has the model's term: its gradient is the L1 penalty alone
        if min(abs(penalty - 10 ** (-4 / 9)), abs(penalty - 10 ** (-12 / 9))) < 0.002:  # converged, at a known penalty
            sums.append(gamed.T @ sigmoid(gamed @ w[:2]) - 10 * (gradient[:2] - np.sign(w[:2]) * penalty))
    data = {
        "source": f"tatsu-lab/alpaca_eval (data: CC BY-NC 4.0); difficulty from {used}, sums from {len(sums)} models",
        "instructions": [instruction_key(text) for text in place],
        "difficulty": [round(float(v), 6) for v in difficulty],
        "gamed_length_deltas": [[int(v) for v in d] for d in deltas],
        "gamed_weights": [[float(v) for v in weights[f"{BASELINE}_{g}"]] for g in GAMED],
        "sums": [round(statistics.median(float(s[k]) for s in sums), 3) for k in range(2)],
    }
    args.out.write_text(json.dumps(data) + "\n", encoding="utf-8")
    print(f"{args.out}: {data['source']}, sums {data['sums']}")


if __name__ == "__main__":
    main()

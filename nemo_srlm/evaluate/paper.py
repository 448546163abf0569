"""The published results of "Self-Rewarding Language Models" (arXiv 2401.10020), shown in the report beside a run's own.

All are of Llama 2 70B: they show the direction and the size of an effect, and are no target for another model. Percentages
are stored as fractions; correlations, MT-Bench scores (out of 10) and lengths (characters) are as published.
"""

from dataclasses import dataclass

MODELS = ("baseline", "M1", "M2", "M3")

# Table 4: the judge against human rankings on the held-out EFT set. Names as in reward_metrics.py.
REWARD: dict[str, dict[str, float]] = {
    "pairwise_accuracy": {"baseline": 0.651, "M1": 0.787, "M2": 0.804, "M3": 0.817},
    "five_best": {"baseline": 0.396, "M1": 0.415, "M2": 0.443, "M3": 0.432},
    "exact_match": {"baseline": 0.101, "M1": 0.131, "M2": 0.143, "M3": 0.143},
    "spearman": {"baseline": 0.253, "M1": 0.279, "M2": 0.331, "M3": 0.349},
    "kendall": {"baseline": 0.233, "M1": 0.253, "M2": 0.315, "M3": 0.324},
}


@dataclass(frozen=True)
class Versus:
    """Shares of one model's wins, ties and losses against another; they may not add up to 1 by rounding."""

    model: str
    other: str
    win: float
    tie: float
    loss: float


# Figure 3: 256 test prompts, GPT-4 as judge in both orders.
HEAD_TO_HEAD = (
    Versus("M1", "baseline", 0.305, 0.387, 0.309),
    Versus("M2", "baseline", 0.492, 0.363, 0.145),
    Versus("M3", "baseline", 0.625, 0.277, 0.098),
    Versus("M2", "M1", 0.555, 0.328, 0.117),
    Versus("M3", "M2", 0.477, 0.398, 0.125),
    Versus("M3", "M1", 0.688, 0.227, 0.086),
)

# AlpacaEval 2.0 (Table 1): win rate over GPT-4 Turbo on 805 prompts.
ALPACA_WIN_RATE = {"M1": 0.0994, "M2": 0.1538, "M3": 0.2044}
ALPACA_LENGTH = {"M1": 1092, "M2": 1552, "M3": 2552}  # mean characters of a response
# MT-Bench (Table 2): overall score out of 10.
MT_BENCH = {"baseline": 6.85, "M1": 6.78, "M2": 7.01, "M3": 7.25}

# Table 3: NLP benchmarks. M0 is Llama 2 70B as released.
BENCHMARKS: dict[str, dict[str, float]] = {
    "ARC-Challenge": {"M0": 0.5740, "baseline": 0.5597, "M1": 0.5751, "M2": 0.5451, "M3": 0.5313},
    "HellaSwag": {"M0": 0.8530, "baseline": 0.8517, "M1": 0.8499, "M2": 0.8427, "M3": 0.8329},
    "GSM8K": {"M0": 0.5680, "baseline": 0.5072, "M1": 0.6027, "M2": 0.5929, "M3": 0.5770},
    "MMLU": {"M0": 0.6890, "baseline": 0.6976, "M1": 0.6934, "M2": 0.6931, "M3": 0.6937},
    "Natural Questions": {"M0": 0.2530, "baseline": 0.3435, "M1": 0.3548, "M2": 0.3307, "M3": 0.3186},
}


def head_to_head(model: str, other: str) -> Versus | None:
    """The published comparison, with win and loss swapped where the paper states it as `other` against `model`; else None."""
    for row in HEAD_TO_HEAD:
        if (row.model, row.other) == (model, other):
            return row
        if (row.other, row.model) == (model, other):
            return Versus(model, other, row.loss, row.tie, row.win)
    return None

"""The charts of the report: from report.json's data to the series that plots.py draws."""

from collections.abc import Callable

from nemo_srlm.evaluate import paper
from nemo_srlm.evaluate.statistics import Z95
from nemo_srlm.report.plots import Axes, Chart, Curve, Point, Series, bars, dots, lines
from nemo_srlm.report.run_files import Data, figure

Get = Callable[[Data], "tuple[float, float | None] | None"]
NUM_STYLES = 6
CHARTS: tuple[tuple[str, str, tuple[str, ...]], ...] = (  # title, unit, metrics of metrics.jsonl that share a chart
    ("Log-probabilities of the batch’s responses", "nats per response", ("chosen_logp", "rejected_logp")),
    ("Implicit rewards: beta x log-ratio to the reference", "nats x beta", ("chosen_reward", "rejected_reward")),
    ("Margin: chosen reward minus rejected", "nats x beta", ("margin",)),
    ("Accuracy: chosen reward above rejected", "share of pairs", ("accuracy",)),
    ("Loss", "nats", ("loss",)),
    ("Preference loss (sigmoid: ln 2 at the first step)", "nats", ("dpo_loss",)),
    ("Validation loss", "nats", ("validation_loss",)),
    ("Validation accuracy", "share of pairs", ("validation_accuracy",)),
    ("Gradient norm", "L2 norm", ("grad_norm",)),
    ("Learning rate", "per step", ("lr",)),
    ("Speed", "tokens per second", ("tokens_per_s",)),
)
GROUPS = (
    ("Preference training (DPO)", ("dpo",)),
    ("Supervised fine-tuning", ("baseline", "sft", "sft_chosen")),
    ("Pretraining", ("pretrain",)),
)


def labels(runs: list[Data]) -> list[str]:
    """The models of all runs, in order, that any run has a measurement of."""
    longest = max(runs, key=lambda r: len(r["models"]))
    return [
        m["name"]
        for i, m in enumerate(longest["models"])
        if any(i < len(r["models"]) and _evaluated(r["models"][i]) for r in runs)
    ]


def _evaluated(model: Data) -> bool:
    return any(model[section] is not None for section in ("oracle", "reward", "responses"))


def run_style(index: int) -> str:
    return f"s{index % NUM_STYLES}"


def _series(runs: list[Data], get: Get) -> list[Series]:
    found = []
    for i, run in enumerate(runs):
        points = {}
        for model in run["models"]:
            if (value := get(model)) is not None:
                half = None if value[1] is None else Z95 * value[1]
                points[model["name"]] = Point(
                    value[0], None if half is None else value[0] - half, None if half is None else value[0] + half
                )
        if points:
            found.append(Series(run["label"], run_style(i), points))
    return found


def _measured(model: Data, section: str, name: str, error: str = "") -> tuple[float, float | None] | None:
    """(value, standard error or None) of a model's measurement; None where it was not measured."""
    value = figure(model[section], name)
    return None if value is None else (value, figure(model[section], error) if error else None)


def _reward(name: str) -> Callable[[list[Data]], list[Series]]:
    def build(runs: list[Data]) -> list[Series]:
        found = []
        for i, run in enumerate(runs):
            points = {}
            for model in run["models"]:
                if (value := figure(model["reward"], name)) is not None:
                    interval = model["reward"]["intervals"][name] or (None, None)
                    points[model["name"]] = Point(value, *interval)
            if points:
                found.append(Series(run["label"], run_style(i), points))
        if found and name in paper.REWARD:
            published = {k: Point(v) for k, v in paper.REWARD[name].items()}
            found.append(Series("paper (70B)", "paper", published))
        return found

    return build


def _published_mt(runs: list[Data]) -> list[Series]:
    if not any(m["mt_bench"] for run in runs for m in run["models"]):
        return []
    return [Series("paper (70B)", "paper", {name: Point(value) for name, value in paper.MT_BENCH.items()})]


def all_of(runs: list[Data]) -> dict[str, Chart | None]:
    """Charts by name; None for one with nothing to show. Each run needs a "label"."""
    x = labels(runs)

    def share(v: float) -> str:
        return f"{v:.0%}"

    def two(v: float) -> str:
        return f"{v:.2f}"

    def one(v: float) -> str:
        return f"{v:.1f}"

    def three(v: float) -> str:
        return f"{v:.3f}"

    def plain(v: float) -> str:
        return f"{v:g}"

    def measured(section: str, name: str, error: str = "") -> list[Series]:
        return _series(runs, lambda m: _measured(m, section, name, error))

    def estimated(name: str) -> list[Series]:
        return [
            Series(
                run["label"],
                run_style(i),
                {model: Point(e["value"], e["low"], e["high"]) for model, e in found.items()},
            )
            for i, run in enumerate(runs)
            if (found := run["estimates"].get(name))
        ]

    kl = estimated("kl") or measured("kl", "kl", "se_kl")
    accuracy, exact, kendall = (_reward(name)(runs) for name in ("pairwise_accuracy", "exact_match", "kendall"))
    charts: dict[str, tuple[str, str, list[Series], Callable[[float], str], Callable[[float], str]]] = {
        "oracle": ("oracle score by model", "score, 0 to 5", estimated("oracle"), two, plain),
        "full": ("full marks by model", "share of responses", estimated("full"), share, share),
        "correct": ("correctness by model", "share of the correct answer", estimated("correct"), share, share),
        "pairwise": ("pairwise accuracy by model", "share of pairs", accuracy, share, share),
        "kendall": ("Kendall tau by model", "Kendall τ, −1 to 1", kendall, two, plain),
        "exact": ("exact match by model", "share of instructions", exact, share, share),
        "words": ("words per response by model", "words per response", estimated("words"), one, plain),
        "self_bleu": ("self-BLEU by model", "self-BLEU, 0 to 1", measured("responses", "self_bleu"), two, plain),
        "kl": (
            "KL to the previous policy by model",
            "nats per token",
            kl,
            three,
            plain,
        ),
        "mt_bench": ("MT-Bench by model", "grade, 1 to 10", [*estimated("mt_bench"), *_published_mt(runs)], two, plain),
        "distinct": ("distinct-2 by model", "share of pairs of words", measured("responses", "distinct_2"), two, plain),
    }
    return {
        name: dots(label, Axes("model", unit), x, series, value, tick)
        for name, (label, unit, series, value, tick) in charts.items()
    }


def histogram(made: Data) -> Chart | None:
    """Mean judge scores of the candidates of one iteration (an item of "preference_data"); None before they are judged."""
    if made["judging"] is None:
        return None
    counts = {str(k): 0 for k in range(6)} | made["judging"]["mean_histogram"]
    return bars(f"mean scores that {made['policy']} gave", Axes("mean score, rounded", "share of candidates"), counts)


def training(run: Data) -> list[Data]:
    """Groups of training stages, each with charts that show its models together.

    [{"title", "charts": [{"title", "chart", "legend": [(name, style)]}], "preferences": whether it is DPO}]
    """
    found = []
    for title, stages in GROUPS:
        here = [c for c in run["curves"] if c["stage"] in stages]
        here.sort(key=lambda c: (c["iteration"], stages.index(c["stage"])))
        charts = [chart for name, unit, metrics in CHARTS if (chart := _chart(name, unit, metrics, here))]
        if charts:
            found.append({"title": title, "charts": charts, "preferences": "dpo" in stages})
    return found


def _chart(title: str, unit: str, metrics: tuple[str, ...], stages: list[Data]) -> Data | None:
    curves = []
    for k, stage in enumerate(stages):
        for metric in metrics:
            if metric in stage["series"]:
                second = metric.startswith("rejected")
                name = f"{stage['title']}, {metric.split('_')[0]}" if len(metrics) > 1 else stage["title"]
                curves.append(
                    Curve(name, run_style(k) + (" dashed" if second else ""), stage["steps"], stage["series"][metric])
                )
    chart = lines(f"{title}, over training steps", Axes("training step", unit), curves)
    legend = [(c.name, c.style) for c in curves] if len(curves) > 1 else []
    return {"title": title, "chart": chart, "legend": legend} if chart else None

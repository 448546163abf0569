"""The summary at the top of the report: on each axis, is the last model better than the first, and how sure is that.

The first model is the oldest policy (M1, or an instruct M0), the last the newest; the comparison is paired (units.py), and
a verdict is that of statistics.py. A head-to-head in which a model judges its own responses never leads.
"""

from pathlib import PurePath

from nemo_srlm.evaluate.statistics import MIN_UNITS, Estimate, verdict
from nemo_srlm.report.compare import first_to_last
from nemo_srlm.report.numbers import interval, percent, signed
from nemo_srlm.report.run_files import Data, figure
from nemo_srlm.report.units import FIGURES

UP, DOWN = "up", "down"
H2H_MARGIN = 0.02  # of the win rate above one half, as for the other shares


def _value(run: Data, model: Data, name: str) -> Data | None:
    """A model's figure with its interval; where its records are gone, the figure of the manifest alone."""
    if (found := run["estimates"].get(name, {}).get(model["name"])) is not None:
        return dict(found)
    section, field = {
        "oracle": ("oracle", "mean"),
        "correct": ("oracle", "correct"),
        "words": ("responses", "words"),
    }.get(name, ("reward", name))
    value = figure(model[section], field)
    return None if value is None else {"value": value, "low": None, "high": None, "num": 0}


def _axis(run: Data, title: str, name: str, good: str | None, help_text: str) -> Data | None:
    """One tile: every model's value, and the change from the first policy to the last."""
    values = [(m["name"], found) for m in run["models"] if (found := _value(run, m, name)) is not None]
    if not values:
        return None
    policies = [model for model, _ in values if model != "baseline"] or [values[0][0]]
    return {
        "title": title,
        "unit": FIGURES[name].unit,
        "help": help_text,
        "values": [{"model": model, **found} for model, found in values],
        "latest": policies[-1],
        "first": policies[0],
        "change": first_to_last(run, name),
        "margin": FIGURES[name].margin,
        "good": good,
        "beside": "",
    }


def axes(run: Data) -> list[Data]:
    """The tiles of a run, most important first; what was not measured has none."""
    found = [
        _axis(run, "Following instructions", "oracle", UP, "mean oracle score of held-out responses, 0 to 5"),
        _axis(run, "Correct answers", "correct", UP, "how much of the correct answer the response contains, whatever its style"),
        _axis(run, "Judging", "pairwise_accuracy", UP, f"pairs of held-out replies that the judge orders as {ranker(run)}"),
        _axis(run, "Response length", "words", None, "mean words of held-out responses"),
    ]  # fmt: skip
    if found[0] is None and (versus := _versus_tile(run)) is not None:
        found[0] = versus
    return [axis for axis in found if axis is not None]


def ranker(run: Data) -> str:
    """Who ranked the held-out replies: in the tiny world the oracle, here without the noise that it adds to seed data."""
    return "the oracle does" if run["world"] else "the data does"


def self_judged(row: Data) -> bool:
    """Whether a model decides a comparison of its own responses."""
    return str(row["judge"]).endswith(" itself")


def _versus_tile(run: Data) -> Data | None:
    """Without an oracle, following instructions is the newest model's head-to-head against the oldest it was compared with."""
    names = [m["name"] for m in run["models"]]
    decided = [c for c in run["head_to_head"] if c["win_rate"] is not None and c["model"] in names]
    found = [c for c in decided if not self_judged(c)]
    if not found:
        return None
    best = max(found, key=lambda c: (names.index(c["model"]), -names.index(c["other"])))
    low, high = best["net_interval"]
    change = Estimate(best["net"] / 2, low / 2, high / 2, best["prompts"])
    same = sorted((c for c in found if c["other"] == best["other"]), key=lambda c: names.index(c["model"]))
    return {
        "title": "Following instructions",
        "unit": "share",
        "help": f"win rate against {written(best['other'])}, ties as half; the change is against one half. {beside(best)}",
        "values": [{"model": c["model"], "value": c["win_rate"], "low": None, "high": None, "num": c["prompts"]} for c in same],
        "latest": best["model"],
        "first": best["other"],
        "change": {**change.to_json(), "first": best["other"], "last": best["model"], "verdict": verdict(change, H2H_MARGIN),
                   "left_out": 0},
        "margin": H2H_MARGIN,
        "good": UP,
        "beside": beside(best),
    }  # fmt: skip


def beside(row: Data) -> str:
    """What belongs beside every head-to-head: judge, prompts, comparisons without a verdict, order bias."""
    unjudged, bias = row["counts"]["unjudged"], row["order_bias"]
    parts = [f"Judge: {judge_of(row)}" + (" (self-judged: no evidence)" if self_judged(row) else "")]
    parts += [f"{row['prompts']:,} prompts", f"{unjudged:,} unjudged"]
    if bias is not None:
        parts.append(
            f"first place preferred {percent(bias['share_first'], 0)}, orders disagree {percent(bias['contradictions'], 0)}"
        )
    return ", ".join(parts) + "."


def judge_of(row: Data) -> str:
    """The judge of a head-to-head, a directory by its name."""
    return public(str(row["judge"]))


def public(path: str) -> str:
    """A path without the folders of this machine; what is no path, or one that every checkout has, as it is."""
    return PurePath(path).name if path.startswith(("/", ".", "~")) else path


def written(model: str) -> str:
    """A model's name in a sentence."""
    return "the SFT baseline" if model == "baseline" else model


def headline(run: Data) -> str:
    """One to three plain sentences."""
    if not any(m["trained"] for m in run["models"]):
        return "No model of this run is trained yet."
    tiles = {t["title"]: t for t in axes(run)}
    others = [t for name in ("Correct answers", "Judging") if (t := tiles.get(name))]
    following = tiles.get("Following instructions")
    if following is None or following["change"] is None:
        sentences = [_undecided(run, following)]
        others = [tile for tile in others if tile["change"]]
    else:
        sentences = [_sentence(following)]
    sentences += _others(others)
    if any(a["name"] == "length_growth" for a in run["alarms"]):
        sentences.append("Responses grew longer fast.")
    return " ".join(sentences)


def _undecided(run: Data, following: Data | None) -> str:
    """Why nothing can be said about following instructions: no result, nothing to compare with, or not compared yet."""
    if following is not None:
        wait = " so far" if run["state"]["missing"] else ""
        return f"Only {written(following['latest'])} is evaluated{wait}, so there is nothing to compare it with."
    if any(c["win_rate"] is not None for c in run["head_to_head"]):
        return "Whether responses got better is not known: only the models themselves compared their responses."
    asked = sum(sum(c["counts"].values()) for c in run["head_to_head"])
    if asked:
        return f"Whether responses got better is not known: the judge decided none of the {asked:,} comparisons between models."
    if run["state"]["missing"]:
        return "No two models of this run are compared yet."
    return "Whether responses got better is not known: no two models of this run were compared."


def lineage(run: Data) -> str:
    """What the models were trained on, in one sentence."""
    start = {
        "base": "The SFT baseline is tuned on instructions only, M1 also on judging",
        "instruct": "M0 is the given instruct model, M1 is M0 tuned on judging",
    }[run["start"]]
    if run["eft_source"] == "none":
        start = "M1 is M0 tuned on instructions" if run["start"] == "base" else "M1 is the given instruct model"
    later = {
        "external": "every later model is trained on preferences that files bring",
        "sft_only": "every later model is M0 tuned on the same data and on the chosen responses",
        "oracle": "every later model is trained on the oracle's preferences among responses of the previous one",
    }.get(run["arm"], "every later model is trained on preferences of the previous one")
    return f"{start}; {later}."


def comparing(run: Data) -> str:
    """Who decides the head-to-head comparisons, and how."""
    judges = list(dict.fromkeys(judge_of(row) for row in run["head_to_head"]))
    if judges in ([], ["oracle"]):
        return "The oracle compares the two responses."
    own = all(self_judged(row) for row in run["head_to_head"])
    who = "The first model is the judge itself: a first look, no evidence." if own else f"Judge: {', '.join(judges)}."
    if run["h2h_by"] == "score":
        return f"{who} Each response is scored alone, and the higher score wins."
    return f"{who} The judge sees both orders; when they disagree it is a tie."


def _sentence(tile: Data) -> str:
    change, first, last = tile["change"], written(tile["first"]), written(tile["latest"])
    text = {
        "up": f"{last} follows instructions better than {first}",
        "down": f"{last} follows instructions worse than {first}",
        "same": f"{last} follows instructions as well as {first}, within {amount(tile['margin'], tile['unit'])}",
        "unclear": f"Whether {last} follows instructions better than {first} is not clear",
        "too_few": f"Whether {last} follows instructions better than {first} cannot be said from {change['num']} prompts",
    }[change["verdict"]]
    return f"{text}{_figures(tile)}. {tile['beside']}".strip()


def _figures(tile: Data) -> str:
    """The change with its interval, in brackets of a sentence."""
    change = tile["change"]
    return f" ({signed(change['value'], tile['unit'])} {interval(change, tile['unit'])})"


def amount(value: float, unit: str) -> str:
    """A margin in words: `2.0 points`."""
    return signed(value, unit).lstrip("+").replace(" pts", " points")


def _others(tiles: list[Data]) -> list[str]:
    """A sentence for each of the other axes."""
    sentences = []
    for tile in tiles:
        subject, change = SUBJECTS[tile["title"]], tile["change"]
        if change is None:
            sentences.append(f"{subject} cannot be compared yet.")
            continue
        verb = {
            "up": "rose", "down": "fell", "same": f"did not change by more than {amount(tile['margin'], tile['unit'])}",
            "unclear": "may have changed either way", "too_few": f"cannot be compared: {change['num']} of {MIN_UNITS} units",
        }[change["verdict"]]  # fmt: skip
        sentences.append(f"{subject} {verb}{_figures(tile)}.")
    return sentences


SUBJECTS = {"Correct answers": "Correctness", "Judging": "Judging"}


def control_sentence(run: Data, others: list[Data]) -> str | None:
    """What the control arms reach on the first axis, each change with its interval: over the seeds where there are several, else
    of the runs beside this one that are comparable. None without any.
    """
    if found := _over_seeds(run):
        return found
    base = {other["label"] for other in run["between"] if other["base"] == run["label"] and not other["unlike"]}
    beside_it = [other for other in others if other["arm"] != run["arm"] and other["label"] in base]
    return _of_oracle(run, beside_it) or _of_versus(run, beside_it)


def _over_seeds(run: Data) -> str | None:
    rows = [row for row in run["over_seeds"] if row["figure"] == "oracle"]
    if not rows:
        return None
    arms = [
        f"{arms_of(row)} {signed(row['value'], 'score')} {interval(row, 'score')}".strip() + f" (n = {row['num']})"
        for row in rows
    ]
    return f"Oracle score from {written(rows[0]['first'])} to {rows[0]['last']}, mean over seeds: {', '.join(arms)}"


def arms_of(row: Data) -> str:
    """The arm of a row over seeds in words, or the difference of two."""
    return " minus ".join(ARMS.get(part, part) for part in str(row["arm"]).split(" - "))


def _of_oracle(run: Data, others: list[Data]) -> str | None:
    own, parts, gaps = first_to_last(run, "oracle"), [], []
    for other in others:
        change = first_to_last(other, "oracle")
        if change is None or own is None:
            continue
        parts.append(f"{ARMS[other['arm']]} {signed(change['value'], 'score')} {interval(change, 'score')}")
        gap: list[Data] = next(
            (b["figures"].get("oracle", []) for b in run["between"] if b["label"] == other["label"]), []
        )
        gaps += [f"{row['model']} above that of {ARMS[other['arm']]} by {signed(row['value'], 'score')} {interval(row, 'score')}"
                 for row in gap if row["model"] == own["last"]]  # fmt: skip
    if not parts or own is None:
        return None
    gain = f"{ARMS[run['arm']]} {signed(own['value'], 'score')} {interval(own, 'score')}"
    text = f"Oracle score from {written(own['first'])} to {own['last']}: {', '.join([gain, *parts])}"
    return f"{text}; {', '.join(gaps)}" if gaps else text


def _of_versus(run: Data, others: list[Data]) -> str | None:
    """Without an oracle: the win rate of the last model over the first in each run, above one half."""
    own, parts = _versus_tile(run), []
    for other in others:
        theirs = _versus_tile(other)
        if own and theirs and (theirs["first"], theirs["latest"]) == (own["first"], own["latest"]):
            parts.append(f"{ARMS[other['arm']]}{_figures(theirs)}")
    if own is None or not parts:
        return None
    gain = f"{ARMS[run['arm']]}{_figures(own)}"
    text = f"Win rate of {own['latest']} against {written(own['first'])}, above one half: {', '.join([gain, *parts])}"
    return f"{text}. {own['beside']}".rstrip(".")


ARMS = {
    "self": "self-rewarding",
    "random": "random scores (control)",
    "oracle": "oracle rewards (upper bound)",
    "sft_only": "SFT only (control)",
    "external": "external preferences",
}

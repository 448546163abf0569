"""The summary at the top of the report: on each axis, is the last model better than the first, and is that significant.

Significant: the 95% interval of the difference excludes 0. The errors of the two models are treated as independent; since
both get the same prompts, that makes the interval wider, if anything.
"""

import math
from typing import Any

from nemo_srlm.evaluate.headtohead import Z95
from nemo_srlm.report.numbers import signed
from nemo_srlm.report.run_files import Data, figure

UP, DOWN, FLAT = "up", "down", "flat"


def measured(model: Data, section: str, name: str, error: str = "") -> tuple[float, float | None] | None:
    """(value, standard error or None) of a model's measurement; None where it was not measured."""
    value = figure(model[section], name)
    return None if value is None else (value, figure(model[section], error) if error else None)


def interval_error(model: Data, name: str) -> tuple[float, float | None] | None:
    """A reward metric with the standard error that its bootstrap interval corresponds to."""
    value = figure(model["reward"], name)
    if value is None:
        return None
    interval = model["reward"]["intervals"][name]
    return value, None if interval is None else (interval[1] - interval[0]) / (2 * Z95)


def change(first: tuple[float, float | None], last: tuple[float, float | None]) -> Data:
    """{"delta", "half": half width of its 95% interval or None, "direction": up, down, flat or None when unknowable}."""
    delta = last[0] - first[0]
    if first[1] is None or last[1] is None:
        return {"delta": delta, "half": None, "direction": None}
    half = Z95 * math.hypot(first[1], last[1])
    return {"delta": delta, "half": half, "direction": FLAT if abs(delta) <= half else UP if delta > 0 else DOWN}


def _axis(run: Data, title: str, unit: str, get: Any, good: str | None, help_text: str) -> Data | None:
    """One tile: every model's value, and the change from M1 (or the first model that was measured) to the last."""
    values = [(m["name"], found) for m in run["models"] if (found := get(m)) is not None]
    if not values:
        return None
    policies = [v for v in values if v[0] != "baseline"] or values
    (first_name, first), (last_name, last) = policies[0], policies[-1]
    return {
        "title": title,
        "unit": unit,
        "help": help_text,
        "values": [{"model": name, "value": value, "error": error} for name, (value, error) in values],
        "latest": last_name,
        "first": first_name,
        "change": change(first, last) if last_name != first_name else None,
        "good": good,
    }


def axes(run: Data) -> list[Data]:
    """The tiles of a run, most important first; what was not measured has none."""
    found = [
        _axis(run, "Following instructions", "score", lambda m: measured(m, "oracle", "mean", "se_mean"), UP,
              "mean oracle score of held-out responses, 0 to 5"),
        _axis(run, "Correct answers", "share", lambda m: measured(m, "oracle", "correct", "se_correct"), UP,
              "how much of the correct answer the response contains, whatever its style"),
        _axis(run, "Judging", "share", lambda m: interval_error(m, "pairwise_accuracy"), UP,
              "pairs of held-out ranked replies that the judge orders as the data does"),
        _axis(run, "Response length", "words", lambda m: measured(m, "responses", "words", "words_se"), None,
              "mean words of held-out responses"),
    ]  # fmt: skip
    if found[0] is None and (versus := _versus_tile(run)) is not None:
        found[0] = versus
    return [axis for axis in found if axis is not None]


def _versus_tile(run: Data) -> Data | None:
    """Without an oracle, following instructions is the newest model's head-to-head against the oldest it was compared with."""
    names = [m["name"] for m in run["models"]]
    found = [c for c in run["head_to_head"] if c["win_rate"] is not None and c["model"] in names]
    if not found:
        return None
    best = max(found, key=lambda c: (names.index(c["model"]), -names.index(c["other"])))
    low, high = best["net_interval"]
    half = (high - low) / 2
    direction = FLAT if low <= 0 <= high else UP if best["net"] > 0 else DOWN
    same = sorted((c for c in found if c["other"] == best["other"]), key=lambda c: names.index(c["model"]))
    return {
        "title": "Following instructions",
        "unit": "share",
        "help": f"win rate against {written(best['other'])}, ties as half",
        "values": [{"model": c["model"], "value": c["win_rate"], "error": None} for c in same],
        "latest": best["model"],
        "first": best["other"],
        "change": {"delta": best["net"] / 2, "half": half / 2, "direction": direction},
        "good": UP,
    }


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
    """Why nothing can be said about following instructions: no result, nothing to compare with, or not evaluated yet."""
    if following is not None:
        wait = " so far" if run["state"]["missing"] else ""
        return f"Only {written(following['latest'])} is evaluated{wait}, so there is nothing to compare it with."
    asked = sum(sum(c["counts"].values()) for c in run["head_to_head"])
    if asked:
        return f"Whether responses got better is not known: the judge decided none of the {asked:,} comparisons between models."
    if run["state"]["missing"]:
        return "No model of this run is evaluated yet."
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
    judges = list(dict.fromkeys(row["judge"] for row in run["head_to_head"]))
    if judges in ([], ["oracle"]):
        return "The oracle compares the two responses."
    own = all(judge.endswith(" itself") for judge in judges)
    who = "The first model is the judge itself: a first look, no evidence." if own else f"Judge: {', '.join(judges)}."
    if run["h2h_by"] == "score":
        return f"{who} Each response is scored alone, and the higher score wins."
    return f"{who} The judge sees both orders; when they disagree it is a tie."


def _sentence(tile: Data) -> str:
    direction = tile["change"]["direction"]
    first, last = written(tile["first"]), written(tile["latest"])
    if direction == UP:
        return f"{last} follows instructions better than {first}."
    if direction == DOWN:
        return f"{last} follows instructions worse than {first}."
    return f"{last} follows instructions about as well as {first}."


def _others(tiles: list[Data]) -> list[str]:
    """The other axes, those with the same direction in one sentence."""
    by_verb: dict[str, list[str]] = {}
    for tile in tiles:
        direction = tile["change"]["direction"] if tile["change"] else None
        by_verb.setdefault(VERBS[direction], []).append(SUBJECTS[tile["title"]])
    sentences = []
    for verb, subjects in by_verb.items():
        if verb == VERBS[FLAT] and len(subjects) == 2:
            text = f"neither {subjects[0]} nor {subjects[1]} moved measurably"
        else:
            text = f"{' and '.join(subjects)} {verb}"
        sentences.append(text[0].upper() + text[1:] + ".")
    return sentences


SUBJECTS = {"Correct answers": "correctness", "Judging": "judging"}
VERBS = {UP: "rose", DOWN: "fell", FLAT: "did not move measurably", None: "cannot be compared yet"}


def control_sentence(run: Data, others: list[Data]) -> str | None:
    """The change of the control arms on the first axis, in one sentence; None without any."""
    own, parts = _following(run), []
    for other in others:
        tile = _following(other)
        if other["arm"] != run["arm"] and tile and tile["change"]:
            parts.append(f"{ARMS[other['arm']]} {signed(tile['change']['delta'], tile['unit'])}")
    if not parts or own is None or own["change"] is None:
        return None
    gain = f"{ARMS[run['arm']]} {signed(own['change']['delta'], own['unit'])}"
    return f"From {written(own['first'])} to {own['latest']}: {', '.join([gain, *parts])}"


def _following(run: Data) -> Data | None:
    return next((t for t in axes(run) if t["title"] == "Following instructions"), None)


ARMS = {
    "self": "self-rewarding",
    "random": "random scores (control)",
    "oracle": "oracle rewards (upper bound)",
    "sft_only": "SFT only (control)",
    "external": "external preferences",
}

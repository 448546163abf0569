"""Charts: SVG that is well formed, axes with names, and the same numbers as a table and as a description."""

from xml.etree import ElementTree

import pytest

from nemo_srlm.report.plots import Axes, Chart, Curve, Point, Series, bars, dots, lines, nice_ticks

AXES = Axes("model", "nats per token")
SVG = "{http://www.w3.org/2000/svg}"


def parsed(chart: Chart | None) -> ElementTree.Element:
    assert chart is not None
    assert "nan" not in chart.svg
    return ElementTree.fromstring(chart.svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-2.3, 7.1), (3.1, 3.1), (0, 0), (1e-6, 2e-4), (0, 1e9)])
def test_ticks_cover_the_range_and_are_few(low: float, high: float):
    ticks = nice_ticks(low, high)
    assert ticks[0] <= low
    assert ticks[-1] >= high
    assert 2 <= len(ticks) <= 7


def test_charts_with_nothing_or_one_value_are_fine():
    assert dots("x", AXES, ["a"], [], str, str) is None
    assert lines("x", AXES, []) is None
    assert bars("x", AXES, {"a": 0}) is None
    for chart in (
        dots("x", AXES, ["a"], [Series("<s>", "s0", {"a": Point(1.0)})], str, str),
        lines("x", AXES, [Curve("c", "s0", [5], [None]), Curve("d", "s1", [5], [2.0])]),
        bars('a "quoted" label', AXES, {"a": 3, "b": 0}),
    ):
        parsed(chart)


def test_a_chart_names_its_axes_and_says_its_numbers_in_words_and_as_a_table():
    series = [
        Series("self", "s0", {"M1": Point(0.5, 0.25, 0.75), "M2": Point(1.0)}),
        Series("control", "s1", {"M1": Point(2.0)}),
    ]
    chart = dots("KL by model", AXES, ["M1", "M2"], series, "{:g}".format, str)
    svg = parsed(chart)
    assert svg.attrib["aria-label"] == "KL by model"
    assert [t.text for t in svg.iter(f"{SVG}text") if t.attrib["class"] == "axis"] == ["nats per token", "model"]
    assert svg.find(f"{SVG}desc").text == ("Nats per token by model. self: M1 0.5 (0.25 to 0.75), M2 1. control: M1 2.")
    assert chart.header == ["", "M1", "M2"]
    assert chart.rows == [["self", "0.5 (0.25 to 0.75)", "1"], ["control", "2", ""]]


def test_a_curve_is_described_by_its_first_lowest_highest_and_last_value():
    chart = lines("x", Axes("training step", "nats"), [Curve("M2, chosen", "s0", [1, 2, 3, 4], [3.0, None, 1.0, 2.0])])
    assert chart is not None
    assert chart.rows == [["M2, chosen", "3", "1", "3", "2"]]
    assert "M2, chosen: first 3, lowest 1, highest 3, last 2." in parsed(chart).find(f"{SVG}desc").text

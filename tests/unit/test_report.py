"""The report on finished, unfinished, empty and several runs."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from nemo_srlm.errors import ConfigError, DataError
from nemo_srlm.report import summary, training_data
from nemo_srlm.report.benchmarks import plain
from nemo_srlm.report.collect import collect
from nemo_srlm.report.numbers import compact, decimal, points
from nemo_srlm.report.plots import tick_text
from nemo_srlm.report.render import html
from nemo_srlm.report.text import markdown
from nemo_srlm.report.write import read_runs, terminal_table, write_report
from tests.synthetic_run import SCRIPT, build


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def run(root: Path) -> Path:
    return build(root)


class _Tags(HTMLParser):
    """Collects tags with their attributes, and checks that every tag is closed."""

    VOID = frozenset({"meta", "link", "br", "img", "input", "hr", "polyline", "line"})

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open, f"</{tag}> without a start"
            assert self.open.pop() == tag


def parse(html: str) -> _Tags:
    page = _Tags()
    page.feed(html)
    assert page.open == []
    return page


def test_a_finished_run_gives_all_three_files_and_the_numbers_are_in_each(run: Path, tmp_path: Path):
    out = write_report([run], tmp_path / "report.html")
    html, md = out.read_text(encoding="utf-8"), out.with_suffix(".md").read_text(encoding="utf-8")
    data = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
    for text in (html, md):
        for wanted in (
            "3.75",
            "M3 follows instructions better than M1",
            "65.1%",
            "rouge" if text is html else "pairwise",
        ):
            assert wanted in text
    assert [m["name"] for m in data["runs"][0]["models"]] == ["baseline", "M1", "M2", "M3"]


def test_the_page_is_well_formed_and_asks_for_nothing_from_outside(run: Path, tmp_path: Path):
    html = write_report([run], tmp_path / "report.html").read_text(encoding="utf-8")
    page = parse(html)
    for tag, attributes in page.tags:
        for name in ("src", "href"):
            if (value := attributes.get(name)) is not None:
                assert value.startswith(("#", "data:")), (tag, value)
        assert not [name for name in attributes if name.startswith("on")], "an inline handler"
    assert "@import" not in html
    assert not re.search(r"url\((?!#)", html)


def test_generated_text_is_shown_and_not_run(run: Path, tmp_path: Path):
    html = write_report([run], tmp_path / "report.html").read_text(encoding="utf-8")
    assert SCRIPT not in html
    assert "&lt;/script&gt;&lt;img src=x onerror=alert(1)&gt;" in html
    assert html.count("<script>") == 1


def test_links_of_the_contents_lead_somewhere(run: Path, tmp_path: Path):
    page = parse(write_report([run], tmp_path / "report.html").read_text(encoding="utf-8"))
    targets = {a["id"] for _, a in page.tags if "id" in a}
    links = {str(a["href"])[1:] for tag, a in page.tags if tag == "a"}
    assert links <= targets
    assert {"models", "versus", "judging", "data", "responses", "same-prompt", "samples", "training", "time"} <= links


@pytest.mark.parametrize("until", [-1, 0, 1])
def test_an_unfinished_run_shows_what_is_there_and_says_what_is_missing(root: Path, tmp_path: Path, until: int):
    run = build(root, f"until{until}", until=until)
    html = write_report([run], tmp_path / "r.html").read_text(encoding="utf-8")
    parse(html)
    assert "unfinished" in html
    assert ("3.62" in html) == (until == 1)
    Console(file=open("/dev/null", "w")).print(terminal_table(run))  # noqa: SIM115


def test_a_run_may_stop_anywhere(root: Path, tmp_path: Path):
    run = build(root, "shrinking", iterations=1)
    manifests = sorted(run.glob("iter*/*/manifest.json"), key=lambda p: p.stat().st_mtime_ns, reverse=True)
    for k, path in enumerate(manifests):
        path.unlink()
        if k % 4:
            continue  # only every fourth is checked, to save time
        parse(write_report([run], tmp_path / "r.html").read_text(encoding="utf-8"))


def test_a_run_without_the_tiny_world_has_no_oracle_and_leads_with_the_head_to_head(root: Path, tmp_path: Path):
    run = build(root, "real", world=False)
    html = write_report([run], tmp_path / "r.html").read_text(encoding="utf-8")
    assert "Oracle score" not in html
    assert "M3 follows instructions better than the SFT baseline" in html


def test_several_runs_stand_beside_each_other_with_the_control_in_the_summary(root: Path, run: Path, tmp_path: Path):
    random = build(root, "control", "random")
    html = write_report([run, random], tmp_path / "r.html").read_text(encoding="utf-8")
    parse(html)
    sentence = re.search(r'<p class="control">(.*?)</p>', html)[1]
    interval = r"\[[+−][\d.]+, [+−][\d.]+\]"
    assert re.fullmatch(
        rf"Oracle score from M1 to M3: self-rewarding \+0.67 {interval}, random scores \(control\) −0.03 {interval}; "
        rf"M3 above that of random scores \(control\) by \+0.70 {interval}\.",
        sentence,
    )
    assert "No control arm" not in html


def test_runs_of_one_name_are_told_apart_by_their_path(root: Path, run: Path):
    other = build(root / "elsewhere", "tiny", seed=1)
    labels = [r["label"] for r in read_runs([run, other])]
    assert labels == [str(run), str(other)]


def test_what_is_not_a_run_is_the_users_mistake(tmp_path: Path):
    with pytest.raises(ConfigError, match="directory of a run"):
        write_report([tmp_path], tmp_path / "r.html")


def test_a_broken_record_names_its_file_and_line(root: Path, tmp_path: Path):
    run = build(root, "broken", iterations=1)
    path = run / "iter1/judge/judgements.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text(
        "".join([*lines[:-1], "[" + lines[-1][1:]]), encoding="utf-8"
    )  # of the same size: a file of another is lost
    with pytest.raises(DataError, match=r"judgements\.jsonl:240"):
        write_report([run], tmp_path / "r.html")


def test_the_terminal_table_has_a_row_per_model_and_the_headline(run: Path):
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(terminal_table(run))
    text = console.export_text()
    for wanted in ("baseline", "M1", "M2", "M3", "3.75 [", "M3 follows instructions better than M1"):
        assert wanted in text


def test_the_funnel_adds_up(run: Path):
    for r in collect(run)["preference_data"]:
        f = r["funnel"]
        assert f["attempts"] == f["accepted"] + sum(f["rejected"].values())
        assert f["accepted"] == f["pairs"] + sum(f["dropped"].values())
        assert f["candidates"] == f["judged"] == 4 * f["accepted"]


def test_samples_show_pairs_and_reasons_and_are_the_same_every_time(run: Path):
    first, second = collect(run)["samples"], collect(run)["samples"]
    assert first == second
    items = first[0]["items"]
    assert {i["reason"] is None for i in items} == {True, False}
    paired = next(i for i in items if i["reason"] is None)
    assert [c["role"] for c in paired["candidates"]].count("chosen") == 1
    assert [c["role"] for c in paired["candidates"]].count("rejected") == 1
    scores = [c["score"] for c in paired["candidates"] if c["score"] is not None]
    assert scores == sorted(scores, reverse=True)


def test_curves_are_thinned_without_losing_their_ends(run: Path):
    pretrain = next(c for c in collect(run)["curves"] if c["stage"] == "pretrain")
    assert pretrain["num_steps"] == 900
    assert len(pretrain["steps"]) <= 240
    assert pretrain["steps"][-1] == 900


def test_the_headline_speaks_of_a_fall_too(root: Path):
    data = read_runs([build(root, "fallen")])[0]
    for name, value in (("oracle", -0.58), ("correct", -0.2)):
        for change in data["changes"][name]:
            change |= {"value": value, "low": value - 0.1, "high": value + 0.1, "verdict": "down"}
    text = summary.headline(data)
    assert "M3 follows instructions worse than M1 (−0.58 [−0.68, −0.48])." in text
    assert "Correctness fell (−20.0 pts [−30.0, −10.0])." in text


def test_numbers_are_written_for_people():
    assert (decimal(-0.001), decimal(None), decimal(-1.5, 1)) == ("0.00", "–", "−1.5")
    assert (points(0.0004), points(-0.031)) == ("+0.0", "−3.1")
    assert (compact(999), compact(5.4e6), compact(1.2e12)) == ("999", "5.4M", "1.2T")
    assert (tick_text(1.5e-4), tick_text(0.25), tick_text(20000)) == ("1.5e-4", "0.25", "20,000")


def unmeasured(root: Path, name: str) -> dict:
    """A finished run without an oracle, whose head-to-head judge decided nothing."""
    data = read_runs([build(root, name)])[0]
    for model in data["models"]:
        model["oracle"] = None
    data["estimates"].pop("oracle")
    data["changes"].pop("oracle")
    empty = dict.fromkeys(("win", "tie", "loss", "net", "win_rate", "net_interval", "sign_p", "words", "other_words"))
    counts = {"win": 0, "tie": 0, "loss": 0, "unjudged": 60}
    data["head_to_head"] = [
        {**row, **empty, "judged": 0, "prompts": 0, "counts": counts} for row in data["head_to_head"]
    ]
    return data


def test_the_headline_of_a_finished_run_says_what_is_not_known_and_why(root: Path):
    data = unmeasured(root, "undecided")
    text = summary.headline(data)
    number = 60 * len(data["head_to_head"])
    assert f"the judge decided none of the {number} comparisons" in text
    assert "Judging" in text  # what was measured is said all the same
    data["head_to_head"] = []
    assert "no two models of this run were compared" in summary.headline(data)
    data["state"]["missing"] = ["iter2/eval_h2h"]
    assert "No two models of this run are compared yet" in summary.headline(data)


def test_the_head_to_head_names_its_judge_and_how_it_decides(root: Path):
    data = read_runs([build(root, "judges")])[0]
    assert summary.comparing(data) == "The oracle compares the two responses."
    for judge, by, said in (
        (
            "M2 itself",
            "score",
            "The first model is the judge itself: a first look, no evidence. Each response is scored alone",
        ),
        ("M2 itself", "verdict", "no evidence. The judge sees both orders"),
        ("gpt-4", "verdict", "Judge: gpt-4. The judge sees both orders"),
    ):
        rows = [{**row, "judge": judge} for row in data["head_to_head"]]
        shown = {**data, "head_to_head": rows, "h2h_by": by}
        assert said in html([shown])
        assert said in markdown([shown])


def test_the_external_arm_does_not_speak_of_judging_that_it_does_not_do(root: Path, tmp_path: Path):
    run = build(root, "external-pairs")
    data = read_runs([run])[0]
    data["arm"], data["eft_source"] = "external", "none"
    for model in data["models"]:
        model["reward"] = None
    for name in ("pairwise_accuracy", "exact_match", "kendall"):
        del data["estimates"][name], data["changes"][name]
    for made in data["preference_data"]:
        made["judging"] = None
    page, text = html([data]), markdown([data])
    assert "cannot tell whether a change comes from the preferences." in page
    assert "own judgements" not in page
    assert "preferences that files bring" in page
    assert not [words for words in ("responds and judges", " judged", "unparsed", "tuned on judging") if words in text]
    assert "responds and judges" not in page
    assert "M1 is M0 tuned on instructions" in page


def test_the_yield_of_each_eft_source_and_dropped_examples_stand_in_the_report(run: Path):
    data = collect(run)
    judging = {"pairwise_accuracy": 0.546, "intervals": {"pairwise_accuracy": [0.48, 0.61]}, "counts": {"pairs": 251}}
    left = {"unparsed": 40, "disagrees": 300, "duplicate": 0}
    data["eft"] = {"source": "baseline", "replies": 600, "parsed": 560, "examples": 260, "asked": 1630, "left_out": left,
                   "judging": judging, "judge": "the SFT baseline", "comparisons": 90, "meta": 0}  # fmt: skip
    data["models"][1]["training"]["data"] = {"used": {"ift": 16}, "dropped": {"too_long": 24}}
    data["label"] = "run"
    eft, examples = (plain(table) for table in training_data.tables([data]))
    row = dict(zip(*[eft[0], eft[1][0]], strict=True))
    assert row["ranked replies"] == "600"
    assert row["kept"] == "260 of 1,630 asked, and 90 that compare two replies"
    assert row["targets, pairwise"] == "54.6% [48.0%, 61.0%], 251 pairs"
    assert row["M1, pairwise"].endswith("pairs")
    assert row["left out"] == "40 unparsed, 300 disagrees"
    assert ["M1", "16 ift", "24 too long"] in examples[1]
    assert "Learning to judge (EFT)" in html([data])
    assert "54.6% [48.0%, 61.0%], 251 pairs" in markdown([data])

"""What the report may say: no control arm, self-judged comparisons, too few prompts, runs of an older version."""

import json
import re
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest

from nemo_srlm.core import manifest
from nemo_srlm.core.files import write_json, write_records
from nemo_srlm.core.records import Judgement, Prompt, RankedReply
from nemo_srlm.evaluate import headtohead
from nemo_srlm.evaluate.headtohead import Comparison
from nemo_srlm.report import families, model_tables, summary, units
from nemo_srlm.report.benchmarks import plain
from nemo_srlm.report.collect import of_run
from nemo_srlm.report.render import html
from nemo_srlm.report.run_files import RunFiles
from nemo_srlm.report.text import markdown
from nemo_srlm.report.write import read_runs
from nemo_srlm.tiny_world import words
from nemo_srlm.tiny_world.questions import parse
from tests.synthetic_run import build


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def run(root: Path) -> Path:
    return build(root)


def test_a_run_without_a_control_says_so_before_any_figure(run: Path):
    data = read_runs([run])
    for text in (html(data), markdown(data)):
        assert (
            0
            < text.index("No control arm stands beside this run")
            < text.index("Oracle score" if text[0] != "#" else "oracle")
        )


def test_a_model_that_judges_its_own_responses_does_not_lead(root: Path):
    data = read_runs([build(root, "own-judge", world=False)])[0]
    data["head_to_head"] = [{**row, "judge": f"{row['model']} itself"} for row in data["head_to_head"]]
    text = summary.headline(data)
    assert "Whether responses got better is not known: only the models themselves compared their responses." in text
    assert "follows instructions" not in text
    assert [tile["title"] for tile in summary.axes(data)] == ["Judging", "Response length"]
    assert html([data]).count(">self-judged<") == len(data["head_to_head"])
    assert "M3 itself (self-judged)" in markdown([data])


def test_beside_a_head_to_head_stand_judge_prompts_unjudged_and_order_bias(root: Path):
    row = read_runs([build(root, "beside", world=False)])[0]["head_to_head"][-1]
    row |= {"judge": "gpt-4", "order_bias": {"share_first": 0.61, "contradictions": 0.2}}
    row["counts"]["unjudged"] = 3
    assert summary.beside(row) == (
        "Judge: gpt-4, 256 prompts, 3 unjudged, first place preferred 61%, orders disagree 20%."
    )  # fmt: skip


def test_every_value_of_a_model_has_its_interval_and_its_difference(run: Path):
    data = read_runs([run])
    bracket = r"\[[+−]?[\d.]+%?, [+−]?[\d.]+%?\]"
    change = rf"[+−][\d.]+( pts)? {bracket} from (M1|the SFT baseline), (up|down|equal|not clear)"
    for table in (*model_tables.models(data), *model_tables.judging(data)):
        header, rows = plain(table)
        for row in rows:
            for name, model, text in zip(header[1:], [row[0]] * len(row) if header[0] == "model" else header[1:], row[1:],
                                         strict=False):  # fmt: skip
                if row[0] in model_tables.COUNTS.values() or name == "against previous":
                    continue
                wanted = rf"−?[\d.]+%? {bracket}"
                if model != "baseline" and row[0] != "5-best":
                    wanted += f" {change}"
                assert re.fullmatch(rf"{wanted}( \(paper .*\))?", text), (row[0], name, text)
    page, md = html(data), markdown(data)
    assert "from M1, up" in page
    assert "5-best counts the replies" in page
    assert "5-best counts the replies" in md


def test_a_family_of_questions_has_intervals_and_differences_too(root: Path):
    run = build(root, "families")
    others = combinations((animal for animal in words.ANIMALS if animal != "fox"), 2)
    asked = [Prompt(f"p{n}", f"Which animal has the color red: fox, {a}, {b}?") for n, (a, b) in enumerate(others)]
    parsed = [parse(p.text) for p in asked]
    keys = [question.combination for question in parsed if question is not None]
    assert len(set(keys)) == len(asked)
    values = {
        "M1": dict.fromkeys(keys, (0.3, 1.0)),
        "M2": {key: (0.9 - n % 2 / 2, 1.0) for n, key in enumerate(keys)},
    }
    measured = dict.fromkeys(families.FIGURES, values)
    row = families.read(measured)[0]
    change = row["figures"]["oracle"]["changes"][0]
    assert (row["family"], change["first"], change["last"], change["num"]) == ("who", "M1", "M2", len(asked))
    data = {**read_runs([run])[0], "families": [row]}
    text = plain(model_tables.by_family([data])[0])[1][0]
    assert text[0] == "who, score"
    assert re.search(r"from M1, up$", text[2])


def test_wordings_of_one_question_of_the_tiny_world_are_one_unit(root: Path):
    """Their sums are added; prompts that are no question of the world stay, and so do those of a real run."""
    run = build(root, "wordings")
    texts = [
        "Which animal has the color red: fox, bear?",
        "Which animal has the color red: bear, fox?",
        "Hello. Reverse these words: hammer, car, cocoa.",
    ]
    write_records(run / "iter0/held_out/eval_prompts.jsonl", (Prompt(f"p{n}", text) for n, text in enumerate(texts)))
    files = RunFiles(run)
    files.lost.clear()
    asked = units.questions(files)
    assert [asked[f"p{n}"] for n in range(3)] == [
        "who color red bear fox",
        "who color red bear fox",
        "reverse hammer car cocoa",
    ]
    own = {"p0": (1.0, 2.0), "p1": (2.0, 2.0), "p2": (0.0, 2.0), "elsewhere": (1.0, 1.0)}
    assert units.merged(own, asked) == {
        "who color red bear fox": (3.0, 4.0),
        "reverse hammer car cocoa": (0.0, 2.0),
        "elsewhere": (1.0, 1.0),
    }
    compared = [
        Comparison(f"c{n}", prompt, "M2", "M1", outcome, category="all")
        for n, (prompt, outcome) in enumerate((("p0", "win"), ("p1", "win"), ("p2", "loss")))
    ]
    write_records(run / "iter1/eval_h2h/comparisons.jsonl", compared)
    found = of_run(files, units.read(files))["head_to_head"]
    row = next(c for c in found if (c["model"], c["other"]) == ("M2", "M1"))
    by_question = headtohead.summary(compared, asked)
    assert row["intervals"] == row["categories"]["all"]["intervals"] == by_question["intervals"]
    assert by_question["intervals"] != headtohead.summary(compared)["intervals"]
    real = build(root, "real", world=False)
    write_records(real / "iter0/held_out/eval_prompts.jsonl", [Prompt("p0", texts[0])])
    assert units.questions(RunFiles(real)) == {}


def test_models_are_compared_on_each_preference_file(root: Path):
    run = build(root, "preferences", world=False)
    name = "ultrafeedback_test_prefs.parquet"
    replies = [RankedReply(f"{i}.{rank}", str(i), "q", "a", rank) for i in range(60) for rank in range(2)]
    for t in range(3):
        directory = run / f"iter{t}/eval_preferences"
        right = 20 + 15 * t  # of the 40 instructions that the file has
        scores = {r.id: 4.0 - r.rank if int(r.instruction_id) < right else 3.0 + r.rank for r in replies}
        write_records(directory / "ranked.jsonl", replies)
        write_records(directory / "judgements.jsonl", (Judgement(r.id, r.instruction_id, (scores[r.id],) * 3, ("",) * 3,
                                                                 ("stop",) * 3) for r in replies))  # fmt: skip
        write_json(directory / "files.json", {name: [r.id for r in replies if int(r.instruction_id) < 40]})
    data = read_runs([run])
    last = next(
        c for c in data[0]["preference_changes"][name]["pairwise_accuracy"] if (c["first"], c["last"]) == ("M1", "M3")
    )
    assert (last["value"], last["num"], last["verdict"]) == (pytest.approx(0.5), 40, "up")
    table = next(
        line for line in markdown(data).split(f"### Judging {name}")[1].splitlines() if line.startswith("| M3")
    )
    assert re.search(r"\+50\.0 pts \[[^]]*\] from M1, up", table)


def test_grades_that_each_model_gives_itself_are_not_compared(root: Path):
    run = build(root, "graded", world=False)
    for t in range(3):
        path = run / f"iter{t}/eval_mt_bench/manifest.json"
        data = json.loads(path.read_text(encoding="utf-8"))
        del data["digest"]
        data["metrics"]["judge"] = "itself"
        path.write_text(json.dumps(data), encoding="utf-8")
    made = read_runs([run])
    assert "mt_bench" not in made[0]["changes"]
    assert "itself self-judged: no evidence" in markdown(made)


def test_few_prompts_get_no_verdict(run: Path):
    files = RunFiles(run)
    few = {
        figure: {model: dict(list(found.items())[:15]) for model, found in models.items()}
        for figure, models in units.read(files).items()
    }
    text = summary.headline(of_run(files, few))
    assert "Whether M3 follows instructions better than M1 cannot be said from 15 prompts" in text


def test_comparisons_of_an_old_run_get_todays_intervals(root: Path):
    run = build(root, "old")
    path = run / "iter2/eval_h2h/manifest.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    del data["digest"]  # old manifests have none
    for row in data["metrics"]["comparisons"]:
        row["net_interval"] = [row["net"], row["net"]]
        del row["prompts"]
    path.write_text(json.dumps(data), encoding="utf-8")
    for row in read_runs([run])[0]["head_to_head"]:
        assert row["net_interval"][0] < row["net"] < row["net_interval"][1]
        assert row["prompts"] == 256


def test_the_report_has_the_alarms_that_status_has(root: Path):
    run = build(root, "alarms")
    done = manifest.read(run / "iter1/pairs")
    assert done is not None
    made = done.metrics["pairs"]
    manifest.write(run / "iter1/pairs", replace(done, metrics={**done.metrics, "asked": 10 * made}))
    found = [alarm["text"] for alarm in read_runs([run])[0]["alarms"] if alarm["name"] == "short"]
    assert f"{made} of {10 * made} preference pairs that were asked for" in found

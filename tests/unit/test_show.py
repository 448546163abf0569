"""`nemo-srlm show <id>`: one item through every stage, and why a prompt is not among the pairs."""

from pathlib import Path

import pytest

from nemo_srlm import cli
from nemo_srlm.config.schema import Config
from nemo_srlm.core.files import read_records, write_records
from nemo_srlm.core.progress import Progress
from nemo_srlm.core.records import Candidate, Judgement, PreferencePair, Prompt, content_id
from nemo_srlm.core.stage import Context
from nemo_srlm.errors import ConfigError, DataError
from nemo_srlm.report import show
from nemo_srlm.stages import pairs

SCORES = {
    "p0": ((5.0, 4.0, 5.0), (1.0, None, 1.0)),
    "p1": ((4.0,) * 3, (4.0,) * 3),
    "p2": ((None, None, 4.0), (1.0,) * 3),
}


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """The files of an iteration as the stages write them: a pair, a tie, and a failed judgement."""
    names = ("prompts", "candidates", "judge", "pairs")
    where = {name: tmp_path / "run" / "iter1" / name for name in names}
    for directory in where.values():
        directory.mkdir(parents=True)
    (tmp_path / "run" / "config.yaml").touch()
    prompts = [Prompt(p, f"Question {p}?", demonstrations=("Shown one.", "Shown two.")) for p in SCORES]
    made = [Candidate(content_id(p, n), p, n, f"Answer {n} to {p}", "stop", 7) for p in SCORES for n in range(2)]
    draws = {content_id(p, n): draws for p, both in SCORES.items() for n, draws in enumerate(both)}
    judged = [
        Judgement(c.id, c.prompt_id, draws[c.id], tuple(f"Because. Score: {s}" for s in draws[c.id]), ("stop",) * 3)
        for c in made
    ]
    judged[-1] = Judgement(made[-1].id, "p2", (), (), (), error="too_long: 9 > 8")
    write_records(where["prompts"] / "prompts.jsonl", prompts)
    write_records(where["candidates"] / "candidates.jsonl", made)
    write_records(where["judge"] / "judgements.jsonl", judged)
    inputs = {name: where[name] for name in names[:3]}
    pairs.STAGE.run(Context(Config(), 1, where["pairs"], inputs, Progress(where["pairs"])))
    return tmp_path / "run"


def test_a_prompt_is_shown_with_all_that_became_of_it(run_dir: Path) -> None:
    text = show.text(run_dir, "p0")
    for part in ("Question p0?", "2 demonstrations", "Shown two.", "Answer 1 to p0", "7 tokens, stop", "score 4.67, spread 0.47",
                 "[5] Because.",
                 "[-] Because. Score: None", "chosen 4.66", "rejected 1.0", "+ Answer 0 to p0", "- Answer 1 to p0"):  # fmt: skip
        assert part in text


@pytest.mark.parametrize(("wanted", "reason"), [("p1", "no pair: tie"), ("p2", "no pair: too_few_eligible")])
def test_why_a_prompt_is_not_in_the_pairs(run_dir: Path, wanted: str, reason: str) -> None:
    assert reason in show.text(run_dir, wanted)
    assert show.item(run_dir, wanted)["pairs"] == []


def test_a_failed_judgement_is_shown_with_its_reason(run_dir: Path) -> None:
    assert "not judged: too_long: 9 > 8" in show.text(run_dir, "p2")


def test_votes_and_judge_are_both_shown(run_dir: Path) -> None:
    votes = [
        Judgement(content_id("p0", n), "p0", (share,), (f"answer {n}",), ("",)) for n, share in enumerate((0.75, 0.25))
    ]
    (run_dir / "iter1" / "votes").mkdir()
    write_records(run_dir / "iter1" / "votes" / "judgements.jsonl", votes)
    text = show.text(run_dir, "p0")
    for part in (
        "votes:\n",
        "[0.75] answer 0",
        "[0.25] answer 1",
        "judge:\n    score 4.67, spread 0.47",
        "[5] Because.",
    ):
        assert part in text
    assert {row["stage"] for row in show.item(run_dir, "p0")["judgements"]} == {"votes", "judge"}
    assert "judge:" not in show.text(run_dir, "p1"), "where one stage scored, nothing is to be told apart"


@pytest.mark.parametrize("stage", ["oracle_scores", "checker"])
def test_scores_of_no_judge_are_shown(run_dir: Path, stage: str) -> None:
    (run_dir / "iter1" / "judge").rename(run_dir / "iter1" / stage)
    assert "score 4.67" in show.text(run_dir, "p0")


def test_candidates_and_pairs_lead_to_their_prompt(run_dir: Path) -> None:
    (pair,) = read_records(run_dir / "iter1" / "pairs" / "pairs.jsonl", PreferencePair)
    for wanted in (content_id("p0", 1), pair.id, pair.id[:10]):
        assert show.item(run_dir, wanted)["prompt"]["id"] == "p0"
    with pytest.raises(DataError, match="no item whose id begins with 'zzz'"):
        show.item(run_dir, "zzz")


def test_the_command_prints_it(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["show", "p1", str(run_dir)]) == 0
    assert "no pair: tie" in capsys.readouterr().out
    assert cli.main(["show", "p0", str(run_dir), "--json"]) == 0
    assert '"dropped": []' in capsys.readouterr().out


def test_without_an_id_some_prompts_are_listed_with_what_became_of_them(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    found = {row["id"]: row["what"] for row in show.examples(run_dir)}
    assert found == {"p0": "pair", "p1": "no pair: tie", "p2": "no pair: too_few_eligible"}
    for words in (["show", str(run_dir)], ["show", str(run_dir), "--json"]):
        assert cli.main(words) == 0
        assert "Question p1?" in capsys.readouterr().out
    assert show.examples_text(run_dir, []) == f"{run_dir} has no prompts of its own yet"
    monkeypatch.chdir(run_dir.parent)
    with pytest.raises(ConfigError):
        show.examples(run_dir.parent / "absent")


def test_responses_and_pairs_of_other_methods_are_shown_each_with_its_own_judgement(run_dir: Path) -> None:
    """A worse response and an anchor have the id of the prompt's first candidate."""
    iteration, own_id = run_dir / "iter1", content_id("p0", 0)
    for stage in ("anchors", "judge_anchors", "worse_responses", "judge_worse", "judge_previous", "judge_pairs"):
        (iteration / stage).mkdir()
    for made, scored in (("anchors", "judge_anchors"), ("worse_responses", "judge_worse")):
        write_records(iteration / made / "candidates.jsonl", [Candidate(own_id, "p0", 0, f"Of {made}", "stop", 7)])
        rows = [Judgement(own_id, "p0", (2.0,), (f"Text of {scored}. Score: 2",), ("stop",))]
        write_records(iteration / scored / "judgements.jsonl", rows)
    before = [Judgement(own_id, "p0", (3.0,), ("M1 says. Score: 3",), ("stop",))]
    write_records(iteration / "judge_previous" / "judgements.jsonl", before)
    judge_pair = PreferencePair("jp0123", "p0", "Judge this.", "Right. Score: 4", "Wrong. Score: 1", 4.0, 1.0)
    write_records(iteration / "judge_pairs" / "pairs.jsonl", [judge_pair])
    found = show.text(run_dir, "jp01")
    for part in (
        "judge pair jp0123: chosen 4.0, rejected 1.0",
        "+ Right. Score: 4",
        "judge_previous:",
        "M1 says. Score: 3",
    ):
        assert part in found
    for name, made, scored in (
        ("anchor", "anchors", "judge_anchors"),
        ("worse response", "worse_responses", "judge_worse"),
    ):
        shown = found.partition(f"  {name} 0  {own_id}")[2].split("\n\n")[0]
        assert f"Of {made}" in shown
        assert "score 2.00" in shown
        assert f"Text of {scored}." in shown
        assert "Because" not in shown

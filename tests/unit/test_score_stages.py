"""What orders the candidates in the judge's place: votes, the judge with votes, a user's checker; from candidates to pairs."""

from pathlib import Path

import pytest

from nemo_srlm.config.compose import compose
from nemo_srlm.config.schema import Config
from nemo_srlm.core.files import read_json_lines, read_records, write_records
from nemo_srlm.core.parts import part_files
from nemo_srlm.core.pipeline import pipeline
from nemo_srlm.core.progress import Progress
from nemo_srlm.core.records import Candidate, Judgement, PreferencePair, Prompt, content_id
from nemo_srlm.core.stage import Context, Ref
from nemo_srlm.errors import ConfigError, DataError
from nemo_srlm.report import cards
from nemo_srlm.report.run_files import RunFiles
from nemo_srlm.stages import load

TEXTS = {"What is 6 x 7?": ("It is 42.", "42", "I think 41", "Who knows?"), "2 + 2?": ("4", "5", "6", "7")}


def write(root: Path, texts: dict[str, tuple[str, ...]], stage: str = "candidates") -> list[Candidate]:
    prompts = [Prompt(content_id("prompt", text), text) for text in texts]
    made = [
        Candidate(content_id("candidate", p.id, i), p.id, i, text, "stop", 3, "" if text else "engine: boom")
        for p in prompts
        for i, text in enumerate(texts[p.text])
    ]
    for name in ("prompts", stage):
        (root / name).mkdir(exist_ok=True)
    write_records(root / "prompts" / "prompts.jsonl", prompts)
    write_records(root / stage / "candidates.jsonl", made)
    return made


def context(cfg: Config, root: Path, stage: str, iteration: int = 1) -> Context:
    directory = root / stage
    directory.mkdir(exist_ok=True)
    inputs = {name: root / ref.stage for name, ref in load(stage).inputs(cfg, iteration).items()}
    return Context(cfg, iteration, directory, inputs, Progress(directory))


def run(cfg: Config, root: Path, stage: str, iteration: int = 1) -> dict[str, object]:
    ctx = context(cfg, root, stage, iteration)
    load(stage).run(ctx)
    return load(stage).finalize(ctx)


def judged(root: Path, stage: str, made: list[Candidate], scores: list[float | None]) -> None:
    (root / stage).mkdir(exist_ok=True)
    rows = [
        Judgement(c.id, c.prompt_id, (s,) * 3, ("t",) * 3, ("stop",) * 3)
        for c, s in zip(made, scores, strict=True)
        if not c.error
    ]
    write_records(root / stage / "judgements.jsonl", rows)


def pairs_of(root: Path) -> tuple[list[PreferencePair], list[str]]:
    dropped = [row["reason"] for _, row in read_json_lines(root / "pairs" / "dropped.jsonl")]
    return list(read_records(root / "pairs" / "pairs.jsonl", PreferencePair)), dropped


def test_scpo_chooses_the_answer_of_most_responses_weighs_by_the_margin_of_votes_and_drops_prompts_without_agreement(
    tmp_path: Path,
):
    cfg = compose(
        "tiny", ["pairs.score=vote", "pairs.weight=margin", "pairs.min_best=0.5", "pairs.pool_equal_texts=false"]
    )
    write(tmp_path, TEXTS)
    metrics = run(cfg, tmp_path, "votes")
    assert (metrics["no_answer"], metrics["prompts"]) == (1, {"plurality": 2})
    run(cfg, tmp_path, "pairs")
    (pair,), dropped = pairs_of(tmp_path)
    assert (pair.chosen, pair.rejected, pair.chosen_score, pair.rejected_score) == (
        "It is 42.",
        "I think 41",
        0.5,
        0.25,
    )
    assert pair.weight == 0.25  # (V(chosen) - V(rejected)) / k
    assert dropped == ["best_too_low"]


def test_the_judge_and_the_votes_are_added_and_both_are_needed(tmp_path: Path):
    cfg = compose("tiny", ["pairs.score=judge_vote", "pairs.vote_weight=4", "pairs.pool_equal_texts=false"])
    made = write(tmp_path, {"What is 6 x 7?": ("It is 42.", "42", "I think 41", "Who knows?")})
    judged(tmp_path, "judge", made, [3.0, 2.0, 4.5, 0.0])
    run(cfg, tmp_path, "votes")
    run(cfg, tmp_path, "pairs")
    ((pair,), _) = pairs_of(tmp_path)
    assert (pair.chosen, pair.chosen_score) == ("I think 41", 5.5)  # 4.5 + 4 / 4, against 3 + 4 / 2
    assert (pair.rejected, pair.rejected_score) == ("42", 4.0)  # the one without an answer has no score


def test_a_users_function_extracts_the_answers(tmp_path: Path):
    (tmp_path / "mine.py").write_text(
        "def last(prompt, response):\n    return response.split()[-1] if 'fox' in prompt else None\n"
    )
    named = f"{tmp_path}/mine.py:last"
    cfg = compose("tiny", ["pairs.score=vote", f"pairs.answer={named}", "pairs.pool_equal_texts=false"])
    write(tmp_path, {"a fox": ("x y", "z y", "y x"), "a bear": ("x", "y", "z")})
    assert run(cfg, tmp_path, "votes")["no_answer"] == 3
    run(cfg, tmp_path, "pairs")
    pairs, dropped = pairs_of(tmp_path)
    assert [(p.chosen, p.rejected) for p in pairs] == [("x y", "y x")]
    assert dropped == ["too_few_eligible"]
    before = load("votes").identity(cfg, 1)
    (tmp_path / "mine.py").write_text("def last(prompt, response):\n    return 1 / 0\n")
    assert load("votes").identity(cfg, 1) != before
    broken = compose("tiny", ["pairs.score=vote", f"pairs.answer={tmp_path}/mine.py:first"])
    with pytest.raises(ConfigError, match=r"pairs\.answer: .*mine\.py has no function first"):
        run(broken, tmp_path, "votes")
    gone = compose("tiny", ["pairs.score=vote", f"pairs.answer={tmp_path}/gone.py:first"])
    with pytest.raises(ConfigError, match=r"pairs\.answer: no such file"):
        load("votes").identity(gone, 1)


def test_responses_without_any_answer_stop_the_stage(tmp_path: Path):
    write(tmp_path, {"Why?": ("because", "no idea")})
    with pytest.raises(DataError, match=r"not one of 2 responses has an answer by pairs\.answer=number"):
        run(compose("tiny", ["pairs.score=vote"]), tmp_path, "votes")


CHECK = """
from __future__ import annotations
from dataclasses import dataclass
@dataclass
class Kept:  # dataclasses look for the module of such a class by its name
    text: str
def score(prompt, response):
    if Kept(response).text == "boom":
        raise RuntimeError("out of luck")
    if response == "none":
        return None
    return {"nan": float("nan"), "text": "4"}.get(response, float(len(response)))
"""


def test_a_checker_function_scores_and_its_failures_are_reasons(tmp_path: Path):
    (tmp_path / "mine.py").write_text(CHECK)
    cfg = compose("tiny", ["pairs.score=checker", f"checker.function={tmp_path}/mine.py:score", "checker.workers=2"])
    made = write(tmp_path, {"p": ("aaaa", "b", "boom", "none", "nan", "text", "")})
    metrics = run(cfg, tmp_path, "checker")
    found = {j.id: j for j in read_records(tmp_path / "checker" / "judgements.jsonl", Judgement)}
    assert [found[c.id].scores for c in made if not c.error] == [(4.0,), (1.0,), (), (None,), (), ()]
    assert found[made[2].id].error == "checker: RuntimeError: out of luck"
    assert found[made[5].id].error == "checker: '4' (str) is no finite number"
    assert (metrics["errors"], metrics["no_score"]) == ({"checker": 3}, 1)
    run(cfg, tmp_path, "pairs")
    ((pair,), _) = pairs_of(tmp_path)
    assert (pair.chosen, pair.rejected) == ("aaaa", "b")


def test_a_score_outside_the_scale_is_an_error_where_pairs_weigh_by_it(tmp_path: Path):
    (tmp_path / "s.py").write_text("def score(prompt, response):\n    return float(response)\n")
    settings = ["pairs.score=checker", f"checker.function={tmp_path}/s.py:score", "checker.max_score=2"]
    cfg = compose("tiny", [*settings, "pairs.weight=margin"])
    made = write(tmp_path, {"p": ("0", "2", "2.5", "-1")})
    run(cfg, tmp_path, "checker")
    found = {j.id: j for j in read_records(tmp_path / "checker" / "judgements.jsonl", Judgement)}
    assert [found[c.id].scores for c in made] == [(0.0,), (2.0,), (), ()]
    assert found[made[2].id].error == "checker: 2.5 is not within 0 and checker.max_score, 2"
    assert load("checker").identity(cfg, 1) != load("checker").identity(compose("tiny", settings), 1)


def test_a_checker_resumes_and_a_finished_response_is_not_checked_again(tmp_path: Path):
    log = tmp_path / "log"
    (tmp_path / "mine.py").write_text(
        f"def score(prompt, response):\n    open({str(log)!r}, 'a').write(response + '\\n')\n    return 1\n"
    )
    cfg = compose("tiny", ["pairs.score=checker", f"checker.function={tmp_path}/mine.py:score", "checker.workers=1"])
    write(tmp_path, {"p": tuple(f"text {i}" for i in range(6))})
    run(cfg, tmp_path, "checker")
    (part,) = part_files(tmp_path / "checker")
    part.write_bytes(b"".join(part.read_bytes().splitlines(keepends=True)[:4]) + b'{"id": "cut')
    log.unlink()
    run(cfg, tmp_path, "checker")
    assert len(log.read_text().splitlines()) == 2


PROGRAM = """
given=$(cat)
case "$given" in
    '{"prompt": "p", "response": "slow"}') sleep 60 ;;
    '{"prompt": "p", "response": "wrong"}') echo "assertion failed" >&2; exit 1 ;;
    '{"prompt": "p", "response": "none"}') echo null ;;
    *) echo "checking"; echo 4 ;;
esac
"""


def test_a_checker_program_reads_json_prints_a_score_and_is_killed_after_its_time(tmp_path: Path):
    (tmp_path / "check.sh").write_text(PROGRAM)
    command = f"checker.command=[sh,{tmp_path}/check.sh]"
    cfg = compose("tiny", ["pairs.score=checker", command, "checker.timeout=2", "checker.workers=2"])
    made = write(tmp_path, {"p": ("aaaa", "wrong", "slow", "none")})
    metrics = run(cfg, tmp_path, "checker")
    found = {j.id: j for j in read_records(tmp_path / "checker" / "judgements.jsonl", Judgement)}
    assert [found[c.id].scores for c in made] == [(4.0,), (), (), (None,)]
    assert [found[c.id].error for c in made] == [
        "",
        "checker_exit: code 1: assertion failed",
        "checker_timeout: 2 s",
        "",
    ]
    assert metrics["errors"] == {"checker_exit": 1, "checker_timeout": 1}
    before = load("checker").identity(cfg, 1)
    (tmp_path / "check.sh").write_text(PROGRAM + "\n# changed\n")
    assert load("checker").identity(cfg, 1) != before


def test_a_program_that_is_not_there_is_refused_before_the_run():
    gone = compose("tiny", ["pairs.score=checker", "checker.command=[no-such-program]"])
    with pytest.raises(ConfigError, match=r"checker\.command: no program no-such-program"):
        load("checker").check(gone)
    load("checker").check(compose("tiny", ["pairs.score=checker", "checker.command=[sh]"]))
    load("checker").check(compose("tiny", ["pairs.score=checker", "checker.command=[x]", "cluster.check_paths=false"]))


def test_a_checker_that_fails_on_everything_stops_the_run(tmp_path: Path):
    cfg = compose("tiny", ["pairs.score=checker", "checker.command=[/bin/false]"])
    write(tmp_path, {"p": ("a", "b")})
    with pytest.raises(DataError, match="not one of 2 responses was scored; the first: checker_exit: code 1"):
        run(cfg, tmp_path, "checker")


# --- models of other iterations ---------------------------------------------------------------------------------------


def test_consistency_is_the_agreement_of_two_models_rankings(tmp_path: Path):
    made = write(tmp_path, {"p": ("a", "b", "c"), "q": ("d", "e", "f"), "r": ("g", "h")})
    judged(tmp_path, "judge", made, [3.0, 2.0, 1.0, 3.0, 2.0, 1.0, 4.0, 1.0])
    judged(
        tmp_path, "judge_previous", made, [3.0, 2.0, 1.0, 1.0, 2.0, 2.0, 4.0, None]
    )  # q: two of three turned, one tie
    mean = (1.0 + 1 / 6) / 2  # r has one score only and gets it
    wanted = {"prompt": [1.0, (-2 / 3 + 1) / 2, mean], "mean": [mean] * 3}
    for kind, certainty in wanted.items():
        metrics = run(compose("tiny", [f"pairs.consistency={kind}"]), tmp_path, "pairs", iteration=2)
        assert metrics["certainty"] == {"mean": pytest.approx(mean), "unknown": 1}
        pairs, _ = pairs_of(tmp_path)
        assert [pair.certainty for pair in pairs] == pytest.approx(certainty)
    assert "judge_previous" not in load("pairs").inputs(compose("tiny", ["pairs.consistency=mean"]), 1)


def test_copies_of_a_text_count_once_in_the_certainty(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    made = write(tmp_path, {"p": ("a", "a", "a", "b", "c")})
    judged(tmp_path, "judge", made, [3.0, 3.0, 3.0, 2.0, 1.0])
    judged(tmp_path, "judge_previous", made, [1.0, 1.0, 1.0, 2.0, 0.0])  # a and b turned, c stays last: tau 1/3
    for pooled, wanted in ((True, 2 / 3), (False, (1 / 10 + 1) / 2)):
        cfg = compose("tiny", ["pairs.consistency=mean", f"pairs.pool_equal_texts={str(pooled).lower()}"])
        assert run(cfg, tmp_path, "pairs", iteration=2)["certainty"]["mean"] == pytest.approx(wanted)
    judged(tmp_path, "judge_previous", made, [None] * 5)
    assert run(cfg, tmp_path, "pairs", iteration=2)["certainty"] == {"mean": 1.0, "unknown": 1}
    assert "no pair has a certainty" in capsys.readouterr().err


def test_anchored_pairs_stand_against_the_worst_response_of_m1(tmp_path: Path):
    made = write(tmp_path, {"p": ("same", "same"), "q": ("d", "e"), "r": ("f", "g")})
    judged(tmp_path, "judge", made, [3.0, 3.0, 4.0, 1.0, 1.0, 0.0])
    old = write(tmp_path, {"p": ("x", "y"), "q": ("d", "w"), "r": ("u", "v")}, "anchors")
    judged(tmp_path, "judge_anchors", old, [2.0, 1.0, 4.0, None, 5.0, 2.0])
    cfg = compose("tiny", ["pairs.rejected_from=m1"])
    run(cfg, tmp_path, "pairs", iteration=2)
    pairs, dropped = pairs_of(tmp_path)
    assert [(p.chosen, p.rejected) for p in pairs] == [("same", "y")]  # equal candidates cost nothing here
    assert dropped == ["same_text", "margin"]  # q: the only scored anchor is the chosen text; r: M1 was better
    assert set(load("pairs").inputs(cfg, 1)) == {"prompts", "candidates", "judge"}


# --- the graph --------------------------------------------------------------------------------------------------------


def names(overrides: list[str], iteration: int) -> list[str]:
    made = [ref.stage for ref in pipeline(compose("tiny", overrides)) if ref.iteration == iteration]
    return [name for name in made if not name.startswith("eval_")]


@pytest.mark.parametrize(
    ("overrides", "first", "second"),
    [
        (["pairs.score=vote"], ["votes"], ["votes"]),
        (["pairs.score=judge_vote"], ["judge", "votes"], ["judge", "votes"]),
        (["pairs.score=checker", "checker.command=[x]"], ["checker"], ["checker"]),
        (["pairs.consistency=mean"], ["judge"], ["judge", "judge_previous"]),
        (["pairs.rejected_from=m1"], ["judge"], ["judge", "anchors", "judge_anchors"]),
        (["run.arm=oracle"], ["judge", "oracle_scores"], ["judge", "oracle_scores"]),
        ([], ["judge"], ["judge"]),
    ],
)
def test_a_run_has_the_stages_of_its_method_and_no_others(overrides: list[str], first: list[str], second: list[str]):
    for iteration, wanted in ((1, first), (2, second)):
        assert names(overrides, iteration) == ["prompts", "candidates", *wanted, "pairs", "dpo", "export", "report"]


def test_iterations_that_a_setting_does_not_change_are_those_of_the_default():
    default = compose("tiny", [])
    for overrides in (["pairs.consistency=mean"], ["pairs.rejected_from=m1"]):
        cfg = compose("tiny", overrides)
        assert load("pairs").identity(cfg, 1) == load("pairs").identity(default, 1)
        assert load("pairs").identity(cfg, 2) != load("pairs").identity(default, 2)
    previous = load("judge_previous").inputs(compose("tiny", ["pairs.consistency=mean"]), 2)
    assert previous["model"] == Ref("export", 0)


def test_the_report_reads_the_scores_that_made_the_pairs(tmp_path: Path):
    cfg = compose("tiny", ["pairs.score=vote", f"run.root={tmp_path}"])
    assert RunFiles(tmp_path, cfg).min_valid == 1
    assert RunFiles(tmp_path, compose("tiny", [])).min_valid == 2


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["pairs.score=checker"], r"pairs\.score: checker with no checker"),
        (["checker.command=[x]"], r"checker\.command: \['x'\] with pairs\.score=judge"),
        (["pairs.score=checker", "checker.command=[x]", "checker.function=x.py:y"], r"pairs\.score: checker with checker\.fu"),
        (["pairs.score=vote", "run.arm=oracle"], r"pairs\.score: vote with run\.arm=oracle"),
        (["pairs.weight=margin", "run.arm=sft_only"], r"pairs\.weight: margin with run\.arm=sft_only"),
        (["pairs.consistency=mean", "pairs.score=vote"], r"pairs\.consistency: mean with pairs\.score=vote"),
        (["pairs.consistency=mean", "dpo.label_smoothing=0.1"], r"pairs\.consistency: mean with dpo\.label_smoothing"),
        (["pairs.rejected_from=m1", "pairs.max_per_prompt=2"], r"pairs\.rejected_from: m1 with pairs\.max_per_prompt=2"),
        (["pairs.rejected_from=m1", "run.arm=sft_only"], r"pairs\.rejected_from: m1 with run\.arm=sft_only"),
        (["pairs.score=vote", "judge.shape=pairwise"], r"judge\.shape: pairwise with pairs\.score=vote"),
        (["pairs.vote_weight=2"], r"pairs\.vote_weight: 2\.0 with pairs\.score=judge"),
        (["checker.max_score=2"], r"checker\.max_score: 2\.0 with pairs\.score=judge"),
        (["judge_training.share=0.2"], r"judge_training\.share: 0\.2 with judge_training\.method=none"),
        (["pairs.answer=words"], r"pairs\.answer"),
        (["pairs.score=checker", "checker.function=x.py"], r"checker\.function"),
    ],
)  # fmt: skip
def test_what_would_be_ignored_is_refused(overrides: list[str], message: str):
    with pytest.raises(ConfigError, match=message):
        compose("tiny", overrides)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ([], "judged by M1 itself, 3 draws, template prompts/tiny_judge.txt."),
        (["pairs.score=vote"], "scored by the share of equal final answers (number); nothing is judged."),
        (["pairs.score=judge_vote"], "template prompts/tiny_judge.txt, and 5 x the share of equal final answers."),
        (["pairs.score=checker", "checker.command=[sh,check.sh]"], "scored by sh check.sh; nothing is judged."),
        (["judge.shape=pairwise", "judge.equal_texts=each"], "by two by M1 itself, template prompts/tiny_compare.txt."),
    ],
)
def test_the_data_card_says_what_ordered_the_responses(overrides: list[str], words: str):
    assert cards._judge(compose("tiny", overrides), "M1").endswith(words)

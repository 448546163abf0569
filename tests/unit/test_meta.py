"""Judge pairs: the rules against hand-worked numbers, and the stages meta_judge and judge_pairs on a fake engine."""

import math
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from nemo_srlm.config.compose import compose
from nemo_srlm.config.methods import JudgeTrainingSection
from nemo_srlm.config.schema import Config
from nemo_srlm.core.files import read_json_lines, read_records, write_records
from nemo_srlm.core.parts import part_files
from nemo_srlm.core.pipeline import pipeline
from nemo_srlm.core.progress import Progress
from nemo_srlm.core.records import Candidate, Judgement, PreferencePair, Prompt
from nemo_srlm.core.stage import Context, Ref
from nemo_srlm.errors import ConfigError
from nemo_srlm.judge import meta
from nemo_srlm.judge.meta import Battle, Draw
from nemo_srlm.stages import load
from nemo_srlm.stages.common import preference_examples
from tests.unit.generation_stages import use


def judged(name: str, prompt: str, *scores: float | None, cut: int = -1) -> Judgement:
    texts = tuple(f"{name} draw {i}. Score: {s}" for i, s in enumerate(scores))
    reasons = tuple("length" if i == cut else "stop" for i in range(len(scores)))
    return Judgement(name, prompt, scores, texts, reasons)


def test_the_response_whose_scores_differ_most_is_compared_and_draws_that_state_none_are_not():
    even, wide = judged("a", "p", 2.0, 2.0, 2.0), judged("b", "p", 1.0, None, 4.0)
    assert meta.least_certain([even, judged("c", "p", 1.0, 2.0, 1.0), wide]) is wide
    assert [draw.score for draw in meta.draws(wide)] == [1.0, 4.0]
    assert meta.compared(wide) == [(0, 1)]
    assert meta.least_certain([even, judged("d", "p", 1.0, 5.0, cut=1)]) is None  # the cut one may not be finished
    # a cut draw widens no choice: of those that may be trained on, f's differ more
    cut, near = judged("e", "p", 2.0, 3.0, 0.0, cut=2), judged("f", "p", 2.0, 4.0, 3.0)
    assert meta.least_certain([cut, near]) is near
    given = [replace(near, spread=0.1), replace(cut, spread=0.2)]  # of a distribution, where one was read
    assert meta.least_certain(given) is given[1]
    twice = Judgement("t", "p", (1.0, 1.0, 3.0), ("same", "same", "other"), ("stop",) * 3)
    assert [draw.text for draw in meta.draws(twice)] == ["same", "other"]


def test_a_draw_that_is_not_trained_on_has_a_reason():
    texts = ("Good. Score: 4", "Gut\ufffd. Score: 3", "Good", "Cut. Score: 1", "Good. Score: 4", "Bad. Score: 0")
    reasons = ("stop", "stop", "stop", "length", "stop", "stop")
    judgement = Judgement("c", "p", (4.0, 3.0, None, 1.0, 4.0, 0.0), texts, reasons)
    assert meta.why_unusable(judgement) == ["", "broken_character", "unparsed", "cut_off", "repeated", ""]
    assert [draw.score for draw in meta.draws(judgement)] == [4.0, 0.0]


@pytest.mark.parametrize("method", ["any_draw", "meta"])
def test_judgements_with_broken_characters_are_in_no_pair_and_counted(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    cfg = compose("tiny", [f"judge_training.method={method}", "judge_training.max_rise=1"])
    write(tmp_path)
    path = tmp_path / "judge" / "judgements.jsonl"
    rows = path.read_text("utf-8").replace("c01 draw 0.", "c01 draw 0\ufffd.")
    path.write_text(rows, "utf-8")
    use(monkeypatch, prefers_low)
    if method == "meta":
        run(cfg, tmp_path, "meta_judge")
    found = run(cfg, tmp_path, "judge_pairs")
    made = list(read_records(tmp_path / "judge_pairs" / "pairs.jsonl", PreferencePair))
    assert found["draws_broken_character"] == 1
    assert made
    assert not any("\ufffd" in p.chosen + p.rejected for p in made)


def test_a_place_that_always_wins_is_weighed_down():
    """The paper's weights: 6 wins in place A and 2 in place B weigh 2/8 and 6/8, so that both places win alike: 1.5."""
    battles = [Battle(0, 1, "A", "A")] * 3 + [Battle(0, 1, "B", "B")]
    assert meta.position_weights(battles) == (0.25, 0.75)
    assert meta.position_weights([Battle(0, 1, "tie", "")]) == (0.5, 0.5)
    won = meta.wins([Battle(0, 1, "A", "A"), Battle(0, 1, "A", "B"), Battle(1, 0, "tie", "")], 2, (0.25, 0.75))
    # first: 0 wins in A, 1 wins in A; second: 0 wins in A and in B; third: half a win for each in its place
    assert won == [[0.0, 0.25 + 0.25 + 0.75 + 0.5 * 0.75], [0.25 + 0.5 * 0.25, 0.0]]


def test_elo_of_two_is_the_logarithm_of_their_wins_and_of_three_is_transitive():
    strong, weak = meta.elo([[0.0, 3.0], [1.0, 0.0]])
    assert strong - weak == pytest.approx(math.log(3.1 / 1.1))
    a, b, c = meta.elo([[0.0, 2.0, 2.0], [0.0, 0.0, 2.0], [0.0, 0.0, 0.0]])
    assert a > b > c
    assert math.isfinite(a)
    assert a + b + c == pytest.approx(0.0)
    total = [[0.0, 2.1, 2.1], [0.1, 0.0, 2.1], [0.1, 0.1, 0.0]]  # at the greatest likelihood expected wins are the wins
    for i, own in enumerate((a, b, c)):
        expected = sum(
            (total[i][j] + total[j][i]) / (1 + math.exp(other - own)) for j, other in enumerate((a, b, c)) if j != i
        )
        assert expected == pytest.approx(sum(total[i]))
    assert meta.win_shares([[0.0, 3.0], [1.0, 0.0]]) == [0.75, 0.25]


def test_best_against_worst_unless_undecided_or_too_long():
    found = [Draw("one two three", 1.0), Draw("four", 4.0), Draw("five six", 2.0)]
    assert meta.best_and_worst(found, [0.5, -1.0, 0.0]) == (found[0], found[1])
    assert meta.best_and_worst(found, [0.0, 0.0, 0.0]) == "undecided"
    assert [meta.is_too_long(found[0], most) for most in (0, 2, 3)] == [False, True, False]


def pairs(up: int, down: int) -> list[PreferencePair]:
    made = [PreferencePair(f"u{i}", "p", "j", "good", "bad", 4.0, 1.0) for i in range(up)]
    return made + [PreferencePair(f"d{i}", "p", "j", "good", "bad", 1.0, 4.0) for i in range(down)]


@pytest.mark.parametrize(
    ("max_rise", "share", "responses", "kept"),
    [
        (0.5, 0.5, 100, (10, 10)),  # as many that raise the score as that lower it
        (0.75, 0.5, 100, (30, 10)),
        (1.0, 0.5, 100, (40, 10)),
        (0.0, 0.5, 100, (0, 10)),
        (1.0, 0.2, 100, (20, 5)),  # 25 of 125 pairs are judge pairs, rising ones as many as before
        (0.5, 0.5, 11, (5, 6)),  # the bound on rising ones holds for what is left
        (0.75, 0.5, 10, (7, 3)),
        (0.5, 0.5, 0, (0, 0)),
    ],
)
def test_the_guard_bounds_pairs_that_raise_the_score_and_the_share_bounds_all(max_rise, share, responses, kept):
    made = pairs(40, 10)
    found, reasons = meta.guarded(made, JudgeTrainingSection(max_rise=max_rise, share=share), responses)
    up = sum(map(meta.rises, found))
    assert (up, len(found) - up) == kept
    assert [pair for pair in made if pair.id not in reasons] == found
    assert sum(reason == "inflation" for reason in reasons.values()) == 40 - min(
        40, round(max_rise / (1 - max_rise + 1e-9) * 10)
    )


def test_the_control_takes_two_draws_of_different_scores_in_any_order():
    found = [Draw("a", 1.0), Draw("b", 4.0), Draw("c", 4.0)]
    seen = [meta.any_two(found, f"j{i}") for i in range(400)]
    assert all(chosen.score != rejected.score for chosen, rejected in seen)
    assert 150 < sum(chosen.score > rejected.score for chosen, rejected in seen) < 250
    assert meta.any_two(found, "j1") == seen[1]


# --- the stages -------------------------------------------------------------------------------------------------------


def write(root: Path, number: int = 3) -> None:
    """Prompts with two responses each; the judge wavers about the second one, but for the last prompt."""
    prompts = [Prompt(f"p{i}", f"Question {i}?") for i in range(number)]
    candidates = [Candidate(f"c{i}{k}", f"p{i}", k, f"response {k}", "stop", 2) for i in range(number) for k in (0, 1)]
    judgements = []
    for i in range(number):
        judgements += [judged(f"c{i}0", f"p{i}", 3.0, 3.0, 3.0)]
        judgements += [
            judged(f"c{i}1", f"p{i}", 1.0, 4.0, 2.0) if i < number - 1 else judged(f"c{i}1", f"p{i}", 2.0, 2.0)
        ]
    for name in ("prompts", "candidates", "judge", "pairs", "model"):
        (root / name).mkdir(exist_ok=True)
    write_records(root / "prompts" / "prompts.jsonl", prompts)
    write_records(root / "candidates" / "candidates.jsonl", candidates)
    write_records(root / "judge" / "judgements.jsonl", judgements)
    write_records(root / "pairs" / "pairs.jsonl", pairs(20, 0))


def context(cfg: Config, root: Path, stage: str) -> Context:
    directory = root / stage
    directory.mkdir(exist_ok=True)
    inputs = {name: root / name for name in load(stage).inputs(cfg, 1)}
    return Context(cfg, 1, directory, inputs, Progress(directory))


def run(cfg: Config, root: Path, stage: str) -> dict[str, object]:
    ctx = context(cfg, root, stage)
    load(stage).run(ctx)
    return load(stage).finalize(ctx)


def prefers_low(text: str, seed: int) -> str:
    """Prefers the judgement with the lower score, in either place."""
    a, b = (float(m) for m in re.findall(r"draw \d\. Score: (\d\.\d)", text))
    return f"It is stricter.\nBetter: {'A' if a < b else 'B'}"


def test_judgements_are_compared_in_both_orders_and_the_best_stands_against_the_worst(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    cfg = compose("tiny", ["judge_training.method=meta"])
    write(tmp_path)
    engine = use(monkeypatch, prefers_low)
    metrics = run(cfg, tmp_path, "meta_judge")
    assert len(engine.requests) == 2 * 3 * 2  # two prompts with a wavering judge, three pairs of draws, both orders
    assert (metrics["consistent"], metrics["unparsed"]) == (1.0, 0.0)
    assert "Question 0?" in engine.requests[0].text or "Question 1?" in engine.requests[0].text
    assert "Rate this answer" in engine.requests[0].text  # the judge's whole input, with its rubric
    found = run(cfg, tmp_path, "judge_pairs")
    made = list(read_records(tmp_path / "judge_pairs" / "pairs.jsonl", PreferencePair))
    assert [(p.chosen, p.rejected) for p in made] == [
        (f"c{i}1 draw 0. Score: 1.0", f"c{i}1 draw 1. Score: 4.0") for i in (0, 1)
    ]
    assert "response 1" in made[0].prompt
    assert (found["found"], found["rising_found"], found["dropped_no_spread"]) == (2, 0, 1)
    dropped = [row for _, row in read_json_lines(tmp_path / "judge_pairs" / "dropped.jsonl")]
    assert dropped == [{"id": "p2", "reason": "no_spread", "stage": "prompts"}]


def test_a_meta_judge_that_prefers_a_place_decides_nothing_and_one_that_inflates_is_held_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    cfg = compose("tiny", ["judge_training.method=meta", "judge_training.rank=wins"])
    write(tmp_path)
    use(monkeypatch, lambda text, seed: "Better: A")
    assert run(cfg, tmp_path, "meta_judge")["consistent"] == 0.0
    found = run(cfg, tmp_path, "judge_pairs")
    assert (found["pairs"], found["dropped_undecided"]) == (0, 2)
    for part in part_files(tmp_path / "meta_judge"):
        part.unlink()
    use(monkeypatch, lambda text, seed: "Better: B" if prefers_low(text, seed).endswith("A") else "Better: A")
    run(cfg, tmp_path, "meta_judge")
    found = run(cfg, tmp_path, "judge_pairs")
    assert (found["found"], found["rising_found"], found["pairs"], found["dropped_inflation"]) == (2, 2, 0, 2)
    dropped = [(row["id"], row["reason"]) for _, row in read_json_lines(tmp_path / "judge_pairs" / "dropped.jsonl")]
    assert dropped == [("p2", "no_spread"), ("c01", "inflation"), ("c11", "inflation")]


@pytest.mark.parametrize(("most", "pairs_made"), [(4, 0), (5, 2)])
def test_a_long_preferred_judgement_makes_no_pair_with_any_method(tmp_path: Path, most: int, pairs_made: int):
    cfg = compose("tiny", ["judge_training.method=any_draw", f"judge_training.max_words={most}"])
    write(tmp_path)
    found = run(cfg, tmp_path, "judge_pairs")  # "c01 draw 0. Score: 1.0" are five words
    assert (found["found"], found.get("dropped_too_long", 0)) == (pairs_made, 2 - pairs_made)


def test_a_killed_meta_judge_resumes_without_asking_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    cfg = compose("tiny", ["judge_training.method=meta"])
    write(tmp_path)
    use(monkeypatch, prefers_low, stop_after=5)
    with pytest.raises(KeyboardInterrupt):
        run(cfg, tmp_path, "meta_judge")
    engine = use(monkeypatch, prefers_low)
    run(cfg, tmp_path, "meta_judge")
    assert len(engine.requests) == 7


def test_judge_pairs_join_the_dpo_of_their_iteration(tmp_path: Path):
    cfg = compose("tiny", ["judge_training.method=any_draw"])
    write(tmp_path)
    run(cfg, tmp_path, "judge_pairs")
    made = list(read_records(tmp_path / "judge_pairs" / "pairs.jsonl", PreferencePair))
    inputs = {"pairs": tmp_path / "pairs", "judge_pairs": tmp_path / "judge_pairs"}
    found = list(preference_examples.records(Context(cfg, 1, tmp_path, inputs, Progress(tmp_path)), Counter()))
    assert found == [*(("pairs", pair) for pair in pairs(20, 0)), *(("judge_pairs", pair) for pair in made)]
    refs = pipeline(cfg)
    assert refs.index(Ref("pairs", 1)) < refs.index(Ref("judge_pairs", 1)) < refs.index(Ref("dpo", 1))
    assert Ref("meta_judge", 1) not in refs
    both = compose("tiny", ["judge_training.method=meta", "dpo.pairs_from=all"])
    assert Ref("meta_judge", 2) in pipeline(both)
    assert {"judge_pairs", "judge_pairs_1", "pairs_1"} <= set(load("dpo").inputs(both, 2))
    assert load("dpo").inputs(compose("tiny", []), 1).keys() == {"pairs", "policy", "tokenizer", "eft"}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["run.arm=sft_only"], r"meta with run\.arm=sft_only"),
        (["pairs.score=vote"], r"meta with pairs\.score=vote"),
        (["judge.draws=1", "judge.min_valid=1"], r"meta with judge\.method=sampled and 1 draws"),
        (["judge.method=expected"], r"meta with judge\.method=expected"),
    ],
)
def test_judge_training_is_refused_where_there_are_no_judgements_to_compare(overrides: list[str], message: str):
    with pytest.raises(ConfigError, match=rf"judge_training\.method: {message}"):
        compose("tiny", ["judge_training.method=meta", *overrides])

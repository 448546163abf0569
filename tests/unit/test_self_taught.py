"""Self-taught judge pairs: the rule by hand, and its stages on a fake engine."""

from pathlib import Path

import pytest

from nemo_srlm.config.compose import compose
from nemo_srlm.config.schema import Config
from nemo_srlm.core.files import read_json_lines, read_records, write_records
from nemo_srlm.core.pipeline import pipeline
from nemo_srlm.core.progress import Progress
from nemo_srlm.core.records import Candidate, Judgement, PreferencePair, Prompt
from nemo_srlm.core.stage import Context, Ref
from nemo_srlm.errors import DataError
from nemo_srlm.generate.requests import Completion, Failure
from nemo_srlm.judge.meta import Draw
from nemo_srlm.judge.self_taught import right_against_wrong
from nemo_srlm.stages import load
from nemo_srlm.stages.common.modified import ModifiedPrompt
from nemo_srlm.stages.modified_prompts import modified, most_alike
from tests.unit.generation_stages import use


def draws(*scores: float) -> list[Draw]:
    return [Draw(f"draw {i}", score) for i, score in enumerate(scores)]


@pytest.mark.parametrize(
    ("own", "other", "better", "found"),
    [
        ((2.0, 4.0, 3.0), (2.0, 3.0), True, (1, 0)),  # right about 0, 2 and 1 of the two
        ((2.0, 4.0, 3.0), (2.0, 3.0), False, (0, 1)),  # the worse one: right about 1, 0 and 0, the first of equals
        ((4.0, 5.0), (1.0, 2.0), True, "undecided"),
        ((1.0, 2.0), (3.0, 3.0), True, "never_right"),
        ((3.0, 3.0), (3.0,), True, "never_right"),  # equal scores are not right
        ((4.0,), (1.0,), True, "too_few_draws"),
        ((4.0, 1.0), (), True, "too_few_draws"),
    ],
)
def test_the_draw_that_is_right_most_often_stands_against_the_one_that_is_least_often(own, other, better: bool, found):
    mine = draws(*own)
    expected = found if isinstance(found, str) else (mine[found[0]], mine[found[1]])
    assert right_against_wrong(mine, draws(*other), better) == expected


def test_the_most_similar_other_prompt_stands_for_a_modified_instruction():
    texts = (
        "list two fruits",
        "list two tools",
        "what is the color of the bear",
        "what is the color of the fox",
        "list two fruits",
    )
    found = list(most_alike([Prompt(f"p{i}", text) for i, text in enumerate(texts)]))
    assert [m.text for m in found] == [texts[1], texts[0], texts[3], texts[2], texts[1]]
    spelled = [Prompt("a", "Name two."), Prompt("b", "name  two"), Prompt("c", "Count to ten.")]
    assert [m.text for m in most_alike(spelled)] == ["Count to ten.", "Count to ten.", "name  two"]
    assert [m.error for m in most_alike([Prompt("a", "same"), Prompt("b", "same")])] == ["no_other", "no_other"]


def test_what_is_no_other_instruction_has_a_reason():
    prompt = Prompt("p", "Name two fruits.")

    def of(text: str, reason: str = "stop") -> ModifiedPrompt:
        return modified(prompt, [Completion(text, 3, reason, (1,))])

    assert of(" Name two tools.\n") == ModifiedPrompt("p", "Name two tools.")
    assert of("Name two fruits!").error == "unchanged"
    assert [of("name two fruits. ").error, of(" ").error, of("Name two", "length").error] == [
        "unchanged",
        "empty",
        "cut_off",
    ]
    assert of("Sure! Here is a modified instruction:\n\nName two tools.").text == "Name two tools."
    assert of("Hier ist eine ähnliche Anweisung: Nenne zwei.").text == "Nenne zwei."
    assert of("Name two \ufffdtools.").error == "broken_character"
    assert modified(prompt, Failure("too_long: 9 > 8")).error == "too_long: 9 > 8"


def context(cfg: Config, root: Path, stage: str) -> Context:
    for name in (stage, *(inputs := load(stage).inputs(cfg, 1))):
        (root / name).mkdir(exist_ok=True)
    places = {name: root / (name if name == "model" else ref.stage) for name, ref in inputs.items()}
    return Context(cfg, 1, root / stage, places, Progress(root / stage))


def run(cfg: Config, root: Path, stage: str) -> dict[str, object]:
    ctx = context(cfg, root, stage)
    load(stage).run(ctx)
    return load(stage).finalize(ctx)


def test_from_a_modified_instruction_to_pairs_of_judgements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    cfg = compose("tiny", ["judge_training.method=self_taught", "judge_training.modified=written"])
    (tmp_path / "prompts").mkdir()
    prompts = [Prompt("p0", "Name two fruits."), Prompt("p1", "Name two tools.")]
    write_records(tmp_path / "prompts" / "prompts.jsonl", prompts)
    use(monkeypatch, lambda text, seed: "Name two fruits." if "fruits" in text else "Name two drinks.")
    assert run(cfg, tmp_path, "modified_prompts")["errors"] == {"unchanged": 1}
    use(monkeypatch, lambda text, seed: f"response to {text}")
    (tmp_path / "modified").symlink_to(tmp_path / "modified_prompts")
    run(cfg, tmp_path, "worse_responses")
    (worse,) = read_records(tmp_path / "worse_responses" / "candidates.jsonl", Candidate)
    assert (worse.prompt_id, worse.text) == ("p1", "response to Name two drinks.")
    engine = use(monkeypatch, lambda text, seed: f"Draw {seed % 64}. Score: {1 + seed % 64}")
    ctx = Context(
        cfg, 1, tmp_path / "judge_worse",
        {"prompts": tmp_path / "prompts", "candidates": tmp_path / "worse_responses", "model": tmp_path}, Progress(tmp_path),
    )  # fmt: skip
    ctx.dir.mkdir()
    load("judge_worse").run(ctx)
    load("judge_worse").finalize(ctx)
    assert "Name two tools. A: response to Name two drinks." in engine.requests[0].text  # judged for the original

    good = Candidate("c", "p1", 0, "Here are two tools.", "stop", 5)
    for name in ("candidates", "judge", "pairs"):
        (tmp_path / name).mkdir()
    write_records(tmp_path / "candidates" / "candidates.jsonl", [good])
    texts = ("low. Score: 1", "high. Score: 3")
    write_records(tmp_path / "judge" / "judgements.jsonl", [Judgement("c", "p1", (1.0, 3.0), texts, ("stop",) * 2)])
    write_records(tmp_path / "pairs" / "pairs.jsonl", [PreferencePair(f"{i}", "p1", "q", "a", "b") for i in range(4)])
    counts = run(cfg, tmp_path, "judge_pairs")
    pairs = list(read_records(tmp_path / "judge_pairs" / "pairs.jsonl", PreferencePair))
    # the worse response has the scores 1, 2 and 3: its draw of 1 is right about one of (1, 3), that of 3 about none
    assert [(p.chosen, p.rejected) for p in pairs] == [
        ("high. Score: 3", "low. Score: 1"), ("Draw 0. Score: 1", "Draw 2. Score: 3"),
    ]  # fmt: skip
    assert "Here are two tools." in pairs[0].prompt
    assert "response to Name two drinks." in pairs[1].prompt
    assert (counts["found"], counts["rising_found"], counts["pairs"]) == (2, 1, 2)
    dropped = [row for _, row in read_json_lines(tmp_path / "judge_pairs" / "dropped.jsonl")]
    assert dropped == [{"id": "p0", "reason": "no_response", "stage": "prompts"}]
    cfg.judge_training.max_words = (
        1  # all are too long, and the worse response's id is that of the prompt's first candidate
    )
    run(cfg, tmp_path, "judge_pairs")
    dropped = [row for _, row in read_json_lines(tmp_path / "judge_pairs" / "dropped.jsonl")]
    assert dropped[1:] == [
        {"id": "c", "reason": "too_long", "stage": "candidates"},
        {"id": worse.id, "reason": "too_long", "stage": "worse_responses"},
    ]


def test_a_model_that_modifies_nothing_is_told_of_the_other_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    cfg = compose("tiny", ["judge_training.method=self_taught", "judge_training.modified=written"])
    (tmp_path / "prompts").mkdir()
    write_records(tmp_path / "prompts" / "prompts.jsonl", [Prompt("p0", "Name two fruits.")])
    use(monkeypatch, lambda text, seed: "name two fruits.")
    with pytest.raises(DataError, match=r"not one of 1 instructions was modified .*judge_training\.modified=other"):
        run(cfg, tmp_path, "modified_prompts")


def test_the_graph_has_the_stages_in_order_and_no_others():
    refs = pipeline(compose("tiny", ["judge_training.method=self_taught"]))
    order = ("candidates", "judge", "modified_prompts", "worse_responses", "judge_worse", "pairs", "judge_pairs", "dpo")
    assert [r.stage for r in refs if r.iteration == 1 and r.stage in order] == list(order)
    assert Ref("meta_judge", 1) not in refs
    assert "model" not in load("modified_prompts").inputs(compose("tiny", ["judge_training.method=self_taught"]), 1)

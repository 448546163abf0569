"""Held-out means held out: copies and near copies of evaluation prompts reach no training set and no written prompt."""

import json
from collections import Counter
from pathlib import Path

import pytest

from nemo_srlm.config.schema import Config, EftSection, SeedSection
from nemo_srlm.core.files import read_records, write_records
from nemo_srlm.core.progress import Progress
from nemo_srlm.core.records import Prompt, SftExample
from nemo_srlm.core.stage import Context
from nemo_srlm.data.near_copies import HeldOut, same_text
from nemo_srlm.data.oasst import FirstTurn, Reply
from nemo_srlm.data.splits import split
from nemo_srlm.errors import DataError
from nemo_srlm.stages import held_out, prompts, seed
from tests.unit.generation_stages import config, context, run, sentence, use
from tests.unit.test_oasst import message, tree, write


@pytest.mark.parametrize(
    "other",
    ["name a BEAR", "Name  a bear?", "«Name a bear»", "\uff2eame a bear.", "Name a\u200b bear", "Name\u00a0a\nbear!"],
)
def test_case_spacing_punctuation_and_unicode_form_make_no_other_instruction(other: str):
    assert same_text(other) == same_text("Name a bear.")
    assert HeldOut(["Name a bear."], 1.0).reasons([other]) == ["held_out"]


@pytest.mark.parametrize(
    ("text", "other"),
    [("東京はどこ、何県ですか", "東京はどこ 何県ですか？"), ("东京，在哪？", "东京在哪"), ("จงอธิบาย แมว", "จงอธิบายแมว"),
     ("Name a bear", "Na\u00adme a be\u200bar"), ("用 Python 排序", "用Python排序")],
)  # fmt: skip
def test_blanks_are_no_part_of_a_text_in_a_script_without_blanks_nor_what_is_not_seen(text: str, other: str):
    assert same_text(text) == same_text(other)
    assert HeldOut([text], 1.0).reasons([other]) == ["held_out"]


def test_symbols_accents_and_texts_of_punctuation_alone_stay_different():
    texts = ["Explain C", "Explain C++", "What is 1+1?", "What is 11?", "Si", "Sí", "?!", "..."]
    assert len({same_text(text) for text in texts}) == len(texts)
    assert same_text("cafe\u0301") == same_text("caf\u00e9")


def test_a_near_copy_is_one_above_the_threshold():
    found = HeldOut(["Name three long rivers of Europe."], 0.7)
    near, far = "Name three very long rivers of Europe", "Name three painters from Spain"
    assert found.reasons([near, far, "", "name three long rivers of europe"]) == ["near_held_out", "", "", "held_out"]
    assert HeldOut(["Name three long rivers of Europe."], 1.0).reasons([near]) == [""]


def test_near_copies_of_the_held_out_instructions_of_a_split_are_trained_on_nowhere():
    turns = [
        FirstTurn(
            f"t{i}", f"Tell me about {sentence(i)} {end}", (Reply(f"a{i}{end}", "A", 0), Reply(f"b{i}{end}", "B", 1))
        )
        for i in range(60)
        for end in ("now", "today")
    ]
    counts: Counter[str] = Counter()
    made = split(turns, SeedSection(num_ift=0), EftSection(num_train=0), counts)
    held_out = HeldOut([*(p.text for p in made.eval_prompts), *(r.instruction for r in made.ranked_valid)], 0.7)
    trained = [*(e.prompt for e in made.ift), *(r.instruction for r in made.ranked_train)]
    assert trained
    assert not any(held_out.reasons(trained))
    assert counts["instruction_near_held_out"] > 0
    with_near = split(turns, SeedSection(num_ift=0, rouge_max=1.0), EftSection(num_train=0), Counter())
    assert len(with_near.ift) + len(with_near.ranked_train) > len(trained)


def own_prompts(cfg: Config, root: Path) -> None:
    (root / "own.jsonl").write_text(json.dumps({"prompt": "question A"}) + "\n")
    (root / "choose.jsonl").write_text(json.dumps({"prompt": "Question B!"}) + "\n")
    cfg.eval.prompts, cfg.select.prompts, cfg.select.every = str(root / "own.jsonl"), str(root / "choose.jsonl"), 10


def seed_stage(tmp_path: Path, cfg: Config) -> Context:
    rows = [
        tree(name, message(f"r{name}", "Yes.", name, 0), message(f"s{name}", "No.", name, 1)) for name in "ABCDEFGHIJ"
    ]
    cfg.seed.files, cfg.seed.rouge_max, cfg.eft.source = [str(write(tmp_path / "x.trees.jsonl", rows))], 1.0, "none"
    (tmp_path / "seed").mkdir()
    return Context(cfg, 0, tmp_path / "seed", {}, Progress(tmp_path / "seed"))


def test_the_users_evaluation_and_selection_prompts_are_in_no_training_set(tmp_path: Path):
    cfg = Config()
    own_prompts(cfg, tmp_path)
    ctx = seed_stage(tmp_path, cfg)
    seed.STAGE.check(cfg)
    seed.STAGE.run(ctx)
    metrics = seed.STAGE.finalize(ctx)
    assert metrics["instruction_held_out"] == 2
    trained = {same_text(e.prompt) for e in read_records(ctx.dir / "ift.jsonl", SftExample)}
    assert trained
    assert not trained & {"question a", "question b"}
    assert [p.text for p in read_records(ctx.dir / "held_out.jsonl", Prompt)] == ["question A", "Question B!"]


def test_which_prompts_are_held_out_is_part_of_what_the_seed_stage_computes(tmp_path: Path):
    cfg = Config()
    without = seed_stage(tmp_path, cfg).cfg
    assert "held_out" not in seed.STAGE.identity(without, 0)
    own_prompts(cfg, tmp_path)
    digests = seed.STAGE.identity(cfg, 0)["held_out"]
    assert len(digests) == 2
    # a finished run, evaluated on other prompts: it names the files that it was trained without
    cfg.seed.held_out = [cfg.eval.prompts, "select.prompts"]
    cfg.eval.prompts = str(tmp_path / "later.jsonl")
    assert seed.STAGE.identity(cfg, 0)["held_out"] == digests
    cfg.seed.held_out = [str(tmp_path / "absent.jsonl")]
    with pytest.raises(DataError, match=r"absent\.jsonl.*no such file"):
        seed.STAGE.check(cfg)


def test_an_overlap_with_a_training_set_is_counted_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    cfg = Config()
    ctx = seed_stage(tmp_path, cfg)
    cfg.seed.held_out = []  # as of a run that was trained before these prompts were chosen
    seed.STAGE.run(ctx)
    cfg.seed.rouge_max = 0.6
    trained = {e.prompt for e in read_records(ctx.dir / "ift.jsonl", SftExample)}
    rows = [{"prompt": f"{sorted(trained)[0]}?!"}, {"prompt": f"A {sorted(trained)[1]}"}, {"prompt": "Something else"}]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    cfg.eval.prompts = str(tmp_path / "own.jsonl")
    (tmp_path / "held_out").mkdir()
    made = Context(cfg, 0, tmp_path / "held_out", {"seed": ctx.dir}, Progress(tmp_path / "held_out"))
    held_out.STAGE.run(made)
    found = held_out.STAGE.finalize(made)["set"]
    assert (found["also_in_ift"], found["near_to_ift"], found["rows"]) == (1, 1, 3)
    assert "instructions of the evaluation are in the training data" in capsys.readouterr().err


def test_written_prompts_are_compared_with_the_users_held_out_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    held_out = "Describe the old harbour of a small town in winter"
    texts = [held_out + "?", held_out.replace("old ", "very old ")]
    use(monkeypatch, lambda text, number: texts[number // 64 % 3] if number // 64 % 3 < 2 else sentence(number))
    ctx = context(config(), tmp_path, "out")
    write_records(tmp_path / "seed" / "held_out.jsonl", [Prompt("x", held_out, "eval")])
    metrics = run(prompts.STAGE, ctx)
    rejected = metrics["rejected"]
    assert isinstance(rejected, dict)
    assert min(rejected["held_out"], rejected["near_held_out"]) > 0
    assert not any("harbour" in p.text for p in read_records(ctx.dir / "prompts.jsonl", Prompt))

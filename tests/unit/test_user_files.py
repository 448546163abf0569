"""The user's own files: prompts for the iterations, conversations for SFT, and what is held out of both."""

import gzip
import json
import re
from collections import Counter
from pathlib import Path

import pytest

from nemo_srlm.config.schema import Config
from nemo_srlm.core.files import read_records, write_records
from nemo_srlm.core.progress import Progress
from nemo_srlm.core.records import Conversation, Prompt
from nemo_srlm.core.stage import Context
from nemo_srlm.data.chat import StringChat
from nemo_srlm.data.conversations import read_conversations
from nemo_srlm.data.near_copies import same_text
from nemo_srlm.data.oasst import read_first_turns
from nemo_srlm.data.prompt_sets import file_prompts, read_prompt_set
from nemo_srlm.errors import ConfigError, DataError
from nemo_srlm.judge.scores import parse_score
from nemo_srlm.launch.plan import check_stage
from nemo_srlm.stages import prompts, seed
from nemo_srlm.stages.common import training
from tests.unit.fake_engine import Characters
from tests.unit.generation_stages import config, run, sentence, use
from tests.unit.generation_stages import context as stage_context
from tests.unit.test_oasst import message, tree, write

ROOT = Path(__file__).resolve().parents[2]


def turns(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


SYSTEM = {"role": "system", "content": "Be brief."}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.jsonl", '{"prompt": "Name a bear."}\n\n{"instruction": "Go."}\n{"prompt": "Name a bear."}\n'),
        ("a.jsonl", "".join(json.dumps({"messages": turns(*t)}) + "\n" for t in (
            ["Name a bear.", "Bruno.", "Another?"], ["Go.", "No."], ["Name a bear."]))),
        ("my.txt.jsonl", '{"prompt": "Name a bear."}\n{"instruction": "Go."}\n{"prompt": "Name a bear."}\n'),
        ("my.jsonl.txt.gz", "Name a bear.\nGo.\nName a bear."),
        ("a.json", '[{"text": "Name a bear."}, {"prompt": "Go."}, {"prompt": "Name a bear."}]'),
        ("a.txt", "Name a bear.\n\n  Go.\nName a bear.\n"),
        ("a.txt", "\ufeffName a bear.\nGo.\nName a bear.\n"),
        ("a.txt.gz", "\ufeffName a bear.\nGo.\nName a bear."),
    ],
)  # fmt: skip
def test_prompts_are_read_from_every_format(name: str, text: str, tmp_path: Path):
    path, counts = tmp_path / name, Counter[str]()
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    assert [entry.prompt.text for entry in read_prompt_set(path, counts)] == ["Name a bear.", "Go."]
    assert counts == {"rows": 3, "duplicate": 1}


def test_prompts_of_parquet_and_prompts_with_a_system_message(tmp_path: Path):
    from datasets import Dataset

    rows = [{"messages": turns("Name a bear.", "Bruno.")}, {"messages": [SYSTEM, *turns("Go.")]}]
    Dataset.from_list(rows).to_parquet(tmp_path / "a.parquet")
    counts = Counter[str]()
    assert [entry.prompt.text for entry in read_prompt_set(tmp_path / "a.parquet", counts)] == ["Name a bear."]
    assert counts["system_message"] == 1


@pytest.mark.parametrize(
    ("name", "text", "wrong"),
    [
        (
            "a.jsonl",
            '{"prompt": "x"}\n{"question": "y"}\n',
            r"a\.jsonl:2: no prompt among \['question'\]; expected .*messages",
        ),
        ("a.jsonl", '{"messages": "hello"}\n', r"a\.jsonl:1: no messages"),
        ("a.txt", "\n\n", r"a\.txt: no prompt"),
        ("a.txt", "Name a bear.\n\0\n", r"a\.txt:2: a NUL character"),
        ("a.csv", "x\n", r"a\.csv: not JSON"),
    ],
)
def test_a_file_without_prompts_is_named_with_its_line(name: str, text: str, wrong: str, tmp_path: Path):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=wrong):
        read_prompt_set(tmp_path / name, Counter())


def test_prompts_of_files_are_apart_from_what_is_held_out_in_any_order_of_the_files(tmp_path: Path):
    for name, numbers in (("a", range(40)), ("b", range(20, 60))):
        (tmp_path / f"{name}.txt").write_text("".join(f"Question {i}?\n" for i in numbers) + "QUESTION  5?\n")
    paths, counts = [tmp_path / "a.txt", tmp_path / "b.txt"], Counter[str]()
    apart = [f"question {i}" for i in range(0, 60, 10)]  # the same but for case and punctuation
    kept, held_out = file_prompts(paths, apart, 1.0, 256, counts)
    assert (len(kept), len(held_out)) == (54 - 6, 6)
    assert len({same_text(p.text) for p in [*kept, *held_out]} - set(apart)) == 54
    assert {p.source for p in kept} == {"file"}
    assert counts == {
        "file_prompts": 48, "eval_prompts": 6, "file_prompts_held_out": 6, "file_prompts_rows": 82, "file_prompts_duplicate": 22,
    }  # fmt: skip
    again = file_prompts(paths[::-1], apart, 1.0, 256, Counter())
    assert {p.text.casefold() for p in again[1]} == {p.text.casefold() for p in held_out}


@pytest.mark.parametrize("column", ["input", "context"])
def test_a_part_of_the_prompt_in_another_column_is_refused_with_its_line(column: str, tmp_path: Path):
    rows = [{"instruction": "Sum up.", column: ""}, {"instruction": "Sum up.", column: "Bears sleep."}]
    path = tmp_path / "alpaca.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(
        DataError, match=rf"alpaca\.jsonl:2: {column}: 'Bears sleep.'; .*; join {column} and the prompt"
    ):
        read_prompt_set(path, Counter())
    path.write_text(json.dumps(rows[0]) + "\n")
    assert [entry.prompt.text for entry in read_prompt_set(path, Counter())] == ["Sum up."]


def test_a_system_column_is_counted_beside_a_prompt_and_refused_beside_a_conversation(tmp_path: Path):
    path, counts = tmp_path / "a.jsonl", Counter[str]()
    path.write_text('{"prompt": "Go.", "system": "Be brief."}\n{"prompt": "Name a bear.", "system": null}\n')
    assert [entry.prompt.text for entry in read_prompt_set(path, counts)] == ["Name a bear."]
    assert counts["system_message"] == 1
    path.write_text(json.dumps({"messages": turns("a", "b"), "system": "Be brief."}) + "\n")
    with pytest.raises(DataError, match=r"a\.jsonl:1: system: 'Be brief.'"):
        list(read_conversations([path], Counter()))


# --- conversations ----------------------------------------------------------------------------------------------------


def test_conversations_are_kept_or_counted_by_reason(tmp_path: Path):
    rows = [
        turns("a", "b"), [SYSTEM, *turns("a", "b", "c", "d")], turns("a", "b"), turns("a", "b", "c"), turns("a"),
        turns("a", " "), [*turns("a", "b"), *turns("c", "d")[1:]], [{"role": "tool", "content": "x"}, *turns("a", "b")],
    ]  # fmt: skip
    path, counts = tmp_path / "chat.jsonl", Counter[str]()
    path.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    found = list(read_conversations([path], counts))
    assert [c.texts for c in found] == [("a", "b"), ("Be brief.", "a", "b", "c", "d")]
    assert found[1].messages() == rows[1]
    assert counts == {
        "chat_rows": 8, "chat_duplicate": 2, "chat_last_user_turn_cut": 2, "chat_no_assistant_turn": 1, "chat_empty_turn": 1,
        "chat_wrong_order": 2,
    }  # fmt: skip
    path.write_text('{"messages": [{"role": "user"}]}\n')
    with pytest.raises(DataError, match=r"chat\.jsonl:1, message 0"):
        list(read_conversations([path], counts))


def test_turns_that_say_more_than_role_and_content_are_not_trained_on(tmp_path: Path):
    user, reply = turns("a", "b")
    rows = [
        [user, {**reply, "weight": 0}], [user, {**reply, "weight": 1, "tool_calls": None}], [user, {**reply, "tool_calls": [{}]}],
        [{**user, "weight": 0}, {**reply, "content": "c"}],
    ]  # fmt: skip
    path, counts = tmp_path / "chat.jsonl", Counter[str]()
    path.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    assert [c.texts for c in read_conversations([path], counts)] == [("a", "b"), ("a", "c")]
    assert counts == {"chat_rows": 4, "chat_weighted_turn": 1, "chat_tool_calls": 1}


def test_the_loss_is_on_every_assistant_turn():
    chat = StringChat(Characters(), "<", ">")  # type: ignore[arg-type]
    document = chat.conversation(turns("hi", "yo", "so", "no"))
    assert Characters().decode(list(document.ids)) == "\x01<hi>yo\x02\x01<so>no\x02"
    assert list(document.weights) == [0, 0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 1, 1, 1]
    assert chat.conversation(turns("hi", "yo")).ids.tolist() == chat.document("hi", "yo").ids.tolist()


# --- the stages -------------------------------------------------------------------------------------------------------


def instruct() -> Config:
    cfg = config()
    cfg.run.start, cfg.eft.source, cfg.prompts.source, cfg.prompts.num_prompts = "instruct", "none", "file", 0
    return cfg


def seed_context(cfg: Config, root: Path) -> Context:
    (root / "seed").mkdir(exist_ok=True)
    return Context(cfg, 0, root / "seed", {}, Progress(root / "seed"))


def test_an_instruct_model_needs_a_file_of_prompts_and_nothing_else(tmp_path: Path):
    (tmp_path / "p.txt").write_text("\n".join(f"Question {i}?" for i in range(41)))
    (tmp_path / "eval.jsonl").write_text('{"prompt": "question 3?"}\n')
    cfg = instruct()
    cfg.prompts.files, cfg.eval.prompts = [str(tmp_path / "p.txt")], str(tmp_path / "eval.jsonl")
    metrics = run(seed.STAGE, seed_context(cfg, tmp_path))
    assert metrics["summary"] == "0 ift, 40 file_prompts, 0 ranked_train, 0 ranked_valid, 0 eval_prompts"
    parts = []
    for t in (1, 2):
        (tmp_path / f"prompts{t}").mkdir()
        ctx = Context(cfg, t, tmp_path / f"prompts{t}", {"seed": tmp_path / "seed"}, Progress(tmp_path))
        assert run(prompts.STAGE, ctx)["summary"] == "20 prompts of files"
        parts.append({p.text for p in read_records(ctx.dir / "prompts.jsonl", Prompt)})
    assert parts[0] | parts[1] == {f"Question {i}?" for i in range(41) if i != 3}
    assert prompts.STAGE.inputs(cfg, 2).keys() == {"seed"}  # no writer
    before = seed.STAGE.identity(cfg, 0)
    (tmp_path / "eval.jsonl").write_text('{"prompt": "question 4?"}\n')
    assert seed.STAGE.identity(cfg, 0) != before


def test_too_few_prompts_are_found_before_the_first_iteration(tmp_path: Path):
    (tmp_path / "p.txt").write_text("\n".join(f"Question {i}?" for i in range(8)))
    cfg = instruct()
    cfg.prompts.files, cfg.prompts.num_prompts = [str(tmp_path / "p.txt")], 4
    with pytest.raises(
        DataError, match=r"7 prompts that are not held out; expected 4 for each of 2 iterations.*num_prompts=0"
    ):
        seed.STAGE.run(seed_context(cfg, tmp_path))


def test_near_copies_of_held_out_prompts_are_named_as_the_reason(tmp_path: Path):
    (tmp_path / "p.txt").write_text("\n".join(f"Write {i} words about the cold grey sea in winter." for i in range(8)))
    cfg = instruct()
    cfg.prompts.files = [str(tmp_path / "p.txt")]
    with pytest.raises(
        DataError, match=r"0 prompts that .*left out: 7 near copies of held-out prompts \(ROUGE-L above seed.r"
    ):
        seed.STAGE.run(seed_context(cfg, tmp_path))


def test_prompts_that_do_not_suffice_for_more_iterations_are_told_before_they_begin(tmp_path: Path):
    (tmp_path / "p.txt").write_text("\n".join(f"Question {i}?" for i in range(9)))
    cfg = instruct()
    cfg.run.root, cfg.run.name, cfg.iterations = str(tmp_path), "r", 2
    cfg.prompts.files, cfg.prompts.num_prompts = [str(tmp_path / "p.txt")], 4
    (tmp_path / "r/iter0/seed").mkdir(parents=True)
    run(seed.STAGE, Context(cfg, 0, tmp_path / "r/iter0/seed", {}, Progress(tmp_path)))
    check_stage(prompts.STAGE, cfg, 1)
    cfg.iterations = 3
    with pytest.raises(DataError, match=r"8 prompts that are not held out; expected 4 for each of 3 iterations"):
        check_stage(prompts.STAGE, cfg, 1)


def test_what_the_files_do_not_have_is_written_and_differs_from_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    cfg = config()
    cfg.prompts.source, cfg.prompts.files = "both", ["given"]
    ctx = stage_context(cfg, tmp_path, "out")
    given = [sentence(seed % 2**31) for seed in range(30)]
    write_records(tmp_path / "seed" / "file_prompts.jsonl", [Prompt(f"f{i}", t, "file") for i, t in enumerate(given)])
    engine = use(monkeypatch, lambda text, seed: f" {given[seed % 30] if seed % 3 else sentence(seed)} ###")
    metrics = run(prompts.STAGE, ctx)
    made = list(read_records(ctx.dir / "prompts.jsonl", Prompt))
    assert [p.text for p in made[:30]] == given
    assert {p.source for p in made[30:]} == {"generated"}
    assert len({p.text for p in made}) == len(made) == 40
    assert (metrics["of_files"], metrics["accepted"]) == (30, 10)
    assert any(given[0] in request.text for request in engine.requests)  # they are demonstrations, too


def test_conversations_are_sft_data_without_what_is_held_out(tmp_path: Path):
    rows = [tree(f"q{i}", message(f"r{i}", "Yes.", f"q{i}", 0)) for i in range(40)]
    cfg = config()
    cfg.eft.source = "none"
    cfg.seed.files = [str(write(tmp_path / "x.trees.jsonl", rows))]
    cfg.seed.chat_files = [str(tmp_path / "chat.jsonl")]
    asked = [{"messages": turns(f"question Q{i}?", "No.")} for i in range(40)]
    (tmp_path / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    metrics = run(seed.STAGE, ctx := seed_context(cfg, tmp_path))
    kept = list(read_records(ctx.dir / "conversations.jsonl", Conversation))
    assert (metrics["eval_prompts"], metrics["chat_held_out"], len(kept)) == (5, 5, 35)
    held_out = {p.text.casefold() for p in read_records(ctx.dir / "eval_prompts.jsonl", Prompt)}
    assert not held_out & {c.texts[0].casefold() for c in kept}


@pytest.mark.parametrize(
    ("settings", "missing"),
    [
        ({"eft.source": "ranks", "run.start": "instruct"}, "eft.source=ranks"),
        ({"eft.source": "none"}, "run.start=base"),
        ({"eft.source": "none", "run.start": "instruct"}, "prompts.source"),
    ],
)
def test_seed_files_are_asked_for_where_something_needs_them(settings: dict, missing: str):
    cfg = config()
    for key, value in settings.items():
        section, name = key.split(".")
        setattr(getattr(cfg, section), name, value)
    cfg.prompts.files = [] if cfg.prompts.source == "written" else ["p.txt"]
    with pytest.raises(ConfigError, match=rf"seed\.files: empty, with {missing}; expected .*run\.start=instruct"):
        seed.STAGE.identity(cfg, 0)


def test_a_run_with_prompts_of_files_names_them():
    with pytest.raises(ConfigError, match=r"prompts\.files: empty, with prompts\.source=file"):
        seed.STAGE.identity(instruct(), 0)


# --- what the documentation shows -------------------------------------------------------------------------------------


def test_the_documented_tree_with_judgements_is_read_as_it_stands(tmp_path: Path):
    (block,) = re.findall(r"```json\n(.*?)```", (ROOT / "docs" / "data.md").read_text(encoding="utf-8"), re.S)
    path = write(tmp_path / "own.trees.jsonl", [json.loads(block)])
    (turn,) = read_first_turns([path], "en", Counter())
    assert [(reply.text, parse_score(reply.judgement)) for reply in turn.replies] == [("Bruno.", 4.0), ("No.", 0.0)]


def test_conversations_that_the_chat_format_cannot_express_are_counted():
    chat = StringChat(Characters(), "<", ">")  # type: ignore[arg-type]
    made = [Conversation("a", ("system", "user", "assistant"), ("Be brief.", "hi", "yo")),
            Conversation("b", ("user", "assistant"), ("hi", "yo"))]  # fmt: skip
    dropped = Counter[str]()
    assert len(list(training._chat_documents(made, chat, dropped))) == 1
    assert dropped == {"chat_format": 1}

"""What a run made, as data sets: exact round trip through the external arm, columns, cards."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from nemo_srlm import cli
from nemo_srlm.config.compose import load_resolved_config
from nemo_srlm.core import manifest, outputs
from nemo_srlm.core.files import dump, read_json_lines, write_records
from nemo_srlm.core.records import PreferencePair, content_id
from nemo_srlm.data.preference_pairs import read_pairs
from nemo_srlm.errors import LostError
from nemo_srlm.report import cards, summary
from nemo_srlm.report.export_data import FORMS, _write, export_data
from nemo_srlm.report.run_files import RunFiles
from nemo_srlm.report.write import read_runs
from tests.synthetic_run import build

TEXTS = [
    ("Why?", "Because.", "No.", 4 + 1 / 3, 1.0),
    ("\n\nHuman: not a transcript", "\n\nHuman: a\n\nAssistant: b", " spaces \t", 2.5, 0.1 + 0.2),
    ("مرحبا", "こんにちは\u3000世界", "\U0001f600 e\u0301", None, None),
    ('quotes " and \\', "<|im_start|>", "line\nbreak", 5.0, 4.999999999999999),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = build(tmp_path_factory.mktemp("runs"), iterations=1)
    pairs = []
    for prompt, chosen, rejected, high, low in TEXTS:
        prompt_id = content_id("prompt", prompt)
        pair_id = content_id("pair", prompt_id, chosen, rejected)
        pairs.append(PreferencePair(pair_id, prompt_id, prompt, chosen, rejected, high, low))
    stage = run / "iter1/pairs"
    done = manifest.read(stage)
    assert done is not None
    write_records(stage / "pairs.jsonl", pairs)
    manifest.write(stage, replace(done, outputs=outputs.describe(stage, manifest.NAME)))
    return run


@pytest.fixture(scope="module")
def data(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "data"
    assert cli.main(["export-data", str(run), "--out", str(out)]) == 0
    return out


@pytest.mark.parametrize("form", list(FORMS))
@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_the_external_arm_reads_the_same_pairs_back_byte_for_byte(run: Path, data: Path, form: str, ending: str):
    counts: Counter[str] = Counter()
    found = read_pairs([data / form / f"iteration_1.{ending}"], counts)
    again = "".join(dump(pair) for pair in found)
    assert again == (run / "iter1/pairs/pairs.jsonl").read_text(encoding="utf-8")
    assert {name: n for name, n in counts.items() if name.startswith("dropped")} == {}


@pytest.mark.parametrize("form", list(FORMS))
def test_weights_leave_too_and_only_where_there_are_any(tmp_path: Path, form: str):
    pairs = []
    for prompt, weight, certainty in (("x", 0.5, 1.0), ("y", 1.0, 0.75), ("z", 1.0, 1.0)):
        prompt_id = content_id("prompt", prompt)
        pair_id = content_id("pair", prompt_id, "a", "b")
        pairs.append(PreferencePair(pair_id, prompt_id, prompt, "a", "b", 2.0, 1.0, weight, certainty))
    _write(tmp_path / form, "iteration_1", map(FORMS[form], pairs))
    for ending in ("jsonl", "parquet"):
        assert list(read_pairs([tmp_path / form / f"iteration_1.{ending}"], Counter())) == pairs


def test_the_columns_are_those_that_others_read(data: Path):
    row = next(row for _, row in read_json_lines(data / "preferences_ultrafeedback/iteration_1.jsonl"))
    assert (
        row["chosen"]
        == row["messages"]
        == [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}]
    )
    assert list(row) == ["prompt", "prompt_id", "chosen", "rejected", "messages", "score_chosen", "score_rejected"]
    row = next(row for _, row in read_json_lines(data / "preferences_trl/iteration_1.jsonl"))
    assert (row["prompt"], row["rejected"]) == (
        [{"role": "user", "content": "Why?"}],
        [{"role": "assistant", "content": "No."}],
    )
    row = next(row for _, row in read_json_lines(data / "ift/train.jsonl"))
    assert row["messages"][1] == {"role": "assistant", "content": "answer"}


def test_the_data_card_has_counts_reasons_judge_and_fields_to_fill(data: Path):
    card = (data / "README.md").read_text(encoding="utf-8")
    meta = yaml.safe_load(card.split("---")[1])
    paths = [entry["path"] for config in meta["configs"] for entry in config["data_files"]]
    assert sorted(paths) == sorted(path.relative_to(data).as_posix() for path in data.rglob("*.parquet"))
    for wanted in ("41 rouge", "judged by M1 itself, 3 draws", "prompts without a pair", cards.FILL, "hf upload USER/NAME",
                   "commit: 0123456789ab", "| 4 |"):  # fmt: skip
        assert wanted in card.replace("    4 |", " 4 |"), wanted
    assert not list(data.rglob(".cache"))


@pytest.mark.parametrize("damage", ["missing", "another content"])
def test_a_finished_stage_that_was_lost_or_changed_is_refused(tmp_path: Path, damage: str):
    made = build(tmp_path, "made", iterations=2)
    stage = made / "iter1/pairs"
    done = manifest.read(stage)
    assert done is not None
    manifest.write(stage, replace(done, outputs=outputs.describe(stage, manifest.NAME)))
    pairs = stage / "pairs.jsonl"
    text = pairs.read_text(encoding="utf-8")
    pairs.write_text(text.replace("bear", "boar"), encoding="utf-8")
    if damage == "missing":
        pairs.unlink()
    with pytest.raises(LostError, match=rf"iter1/pairs: pairs.jsonl (is missing|has {damage})(.|\n)*redo iter1/pairs"):
        export_data(made, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_a_stage_that_is_not_finished_is_left_out(tmp_path: Path):
    made = build(tmp_path, "made", iterations=2)
    (made / "iter2/pairs" / manifest.NAME).unlink()
    assert list(export_data(made, tmp_path / "data")["preferences_trl"]) == ["iteration_1"]


def test_an_export_does_not_mix_with_what_is_there(run: Path, data: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["export-data", str(run), "--out", str(data)]) == 2
    assert "is not empty" in capsys.readouterr().err


def test_a_model_card_has_lineage_figures_and_limits_and_says_when_nothing_is_measured(
    run: Path, capsys: pytest.CaptureFixture[str]
):
    assert cli.main(["model-card", str(run), "M2"]) == 0
    card = capsys.readouterr().out
    assert yaml.safe_load(card.split("---")[1])["pipeline_tag"] == "text-generation"
    for wanted in ("# M2 of the run tiny", "* M2: dpo of iteration 1", "| oracle score", "oracle score, M1 to M2: +0.5",
                   "One training, seed 0", cards.FILL, "Judge: oracle, 256 prompts, 0 unjudged"):  # fmt: skip
        assert wanted in card, wanted
    plain = cards.model_card(RunFiles(run), "M1", measured=False)
    assert "Not measured yet" in plain
    assert str(run) not in plain  # a card is published
    assert "oracle score" not in plain
    between = cards.model_card(RunFiles(run), "M2", measured=False, checkpoint="weights_00000400")
    assert "# M2, checkpoint weights_00000400, of the run tiny" in between
    assert "Weights of one checkpoint of M2's training" in between
    assert cli.main(["model-card", str(run), "M9"]) == 2


def test_the_card_beside_an_export_gets_its_figures_when_they_are_measured_and_keeps_what_people_wrote(tmp_path: Path):
    run = build(tmp_path, "carded", iterations=1)
    paths = {t: run / f"iter{t}/export/hf/README.md" for t in (0, 1)}
    for t, path in paths.items():
        path.parent.mkdir(parents=True)
        card = cards.model_card(RunFiles(run), f"M{t + 1}", measured=False)
        path.write_text(
            card.replace(f"Licence of this model: {cards.FILL}", "Licence of this model: MIT"), encoding="utf-8"
        )
    assert cli.main(["report", str(run), "--out", str(tmp_path / "r.html")]) == 0
    for t, path in paths.items():
        card = path.read_text(encoding="utf-8")
        assert "Licence of this model: MIT" in card
        assert "Not measured yet" not in card
        assert "| oracle score" in card
        assert ("oracle score, M1 to M2: +0.5" in card) == (t == 1)
        assert "Differences on fewer than 20 units" in card
        assert card.count("## ") == 6
    assert cards.refresh(RunFiles(run), read_runs([run])[0]) == []  # nothing new
    paths[0].write_text("# a card of one's own\n", encoding="utf-8")
    assert cli.main(["model-card", str(run), "--write"]) == 0
    assert paths[0].read_text(encoding="utf-8") == "# a card of one's own\n"


def test_a_card_of_an_export_that_is_another_runs_stays(tmp_path: Path):
    run = build(tmp_path, "linked", iterations=1)
    theirs = tmp_path / "theirs"
    (run / "iter0/export").rename(theirs)
    (run / "iter0/export").symlink_to(theirs)
    (theirs / "hf").mkdir()
    card = cards.model_card(RunFiles(run), "M1", measured=False)
    (theirs / "hf/README.md").write_text(card, encoding="utf-8")
    assert cards.refresh(RunFiles(run), read_runs([run])[0]) == []
    assert (theirs / "hf/README.md").read_text(encoding="utf-8") == card


def test_cards_name_no_path_of_the_machine(tmp_path: Path):
    run = build(tmp_path, "private", world=False)
    cfg = load_resolved_config(run)
    secret = "/home/someone/secret"
    cfg.import_hf.path, cfg.seed.files, cfg.prompts.files = (
        f"{secret}/llama",
        [f"{secret}/trees.jsonl"],
        [f"{secret}/p.txt"],
    )
    cfg.judge.template, cfg.judge.compare_template = f"{secret}/judge.txt", f"{secret}/compare.txt"
    files = RunFiles(run, cfg)
    rows = [(f"{secret}/judge-model", "judge-model"), ("org/model", "org/model")]
    for judge, shown in rows:
        assert summary.judge_of({"judge": judge}) == shown
    for checker in ([f"{secret}/check.py", "--strict"], []):
        cfg.pairs.score = "checker" if checker else "judge"
        cfg.checker.command = checker
        text = cards.model_card(files, "M2") + cards.data_card(files, {})
        assert secret not in text
        for wanted in ("llama", "trees.jsonl", "p.txt", "check.py --strict" if checker else "template judge.txt"):
            assert wanted in text


@pytest.mark.parametrize(
    "words", [("export-data", "--out", "x"), ("report", "--out", "manifest.html"), ("report", "--out", "pairs.jsonl")]
)
def test_no_output_is_written_into_a_stage(run: Path, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]):
    stage = run / "iter1/pairs"
    before = {path.name: path.read_bytes() for path in stage.iterdir() if path.is_file()}
    verb, option, name = words
    assert cli.main([verb, str(run), option, str(stage / name)]) == 2
    assert "expected" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in stage.iterdir() if path.is_file()} == before
    assert not (stage / "x").exists()

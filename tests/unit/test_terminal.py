"""Text of models and files cannot control the terminal it is shown on, nor the page that renders report.md."""

import json
from pathlib import Path

import pytest
from rich.table import Table

from nemo_srlm import cli
from nemo_srlm.core.control import write_error
from nemo_srlm.core.files import read_records, write_records
from nemo_srlm.core.records import Candidate, Prompt
from nemo_srlm.core.stage import Ref, stage_directory
from nemo_srlm.core.terminal import console, say, visible
from nemo_srlm.report import text
from nemo_srlm.report.collect import collect
from tests.synthetic_run import build

ATTACK = "\x1b]0;title\x07\x1b[2J\x9b31m\b\rover\u202eesrever\u2066\x7f\x00\ud800"
OBEYED = [c for c in ATTACK if not (c.isascii() and c.isprintable())]


def assert_harmless(shown: str) -> None:
    assert [c for c in OBEYED if c in shown] == []
    assert "\\u001b[2J" in shown


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run whose prompts and candidates hold control characters (JSON files cannot hold halves of surrogate pairs)."""
    run = build(tmp_path, iterations=1)
    attack = ATTACK.replace("\ud800", "")
    for path, cls in (
        (run / "iter1/prompts/prompts.jsonl", Prompt),
        (run / "iter1/candidates/candidates.jsonl", Candidate),
    ):
        rows = [json.loads(line) | {"text": f"before{attack}\n\tafter"} for line in path.read_text().splitlines()]
        write_records(path, [cls.from_json(row, "row") for row in rows])
    return run


def test_controls_are_shown_and_tabs_newlines_and_letters_stay():
    assert visible("a\tb\nü 日本 👩‍👧 \x1b[1m\r") == "a\tb\nü 日本 👩‍👧 \\u001b[1m\\u000d"
    assert json.loads(visible(json.dumps(["\x9b\u202e"], ensure_ascii=False))) == ["\x9b\u202e"]


def test_a_line_and_a_table_with_the_attack_are_harmless(capsys: pytest.CaptureFixture[str]):
    say(ATTACK)
    say(ATTACK, error=True)
    table = Table("column", title=ATTACK, caption=ATTACK)
    table.add_row(ATTACK)
    console().print(table)
    console().print(ATTACK, markup=False)
    shown = capsys.readouterr()
    assert_harmless(shown.out)
    assert_harmless(shown.err)


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_show_prints_no_control_character(run_dir: Path, options: tuple[str, ...], capsys: pytest.CaptureFixture[str]):
    prompt = next(iter(read_records(run_dir / "iter1/prompts/prompts.jsonl", Prompt)))
    assert cli.main(["show", prompt.id, str(run_dir), *options]) == 0
    shown = capsys.readouterr().out
    assert_harmless(shown)
    assert "before" in shown
    if options:
        assert json.loads(shown)["prompt"]["text"] == prompt.text


def test_status_and_logs_print_no_control_character(run_dir: Path, capsys: pytest.CaptureFixture[str]):
    ref = Ref("dpo", 1)
    directory = stage_directory(run_dir, ref)
    (directory / "manifest.json").unlink(missing_ok=True)
    write_error(directory, f"{ATTACK.replace(chr(0xD800), '')} failed")
    log = run_dir / "logs" / "iter1-dpo.log"
    log.parent.mkdir(exist_ok=True)
    log.write_bytes(b"step 1\rstep 2\r\n" + ATTACK.encode("utf-8", "surrogatepass") + "\nfertig: größer\n".encode())
    for words in (["status", str(run_dir)], ["status", str(run_dir), "--json"], ["logs", str(ref), str(run_dir)]):
        assert cli.main(words) == 0
        shown = capsys.readouterr().out
        assert [c for c in OBEYED if c in shown] == []
        assert "[2J" in shown
    assert "step 1\nstep 2\n" in shown
    assert "fertig: größer\n" in shown


def test_report_md_escapes_html_and_table_borders(run_dir: Path):
    data = collect(run_dir)
    data["alarms"] = [{"name": "tie_rate", "model": "M1", "text": f"<img src=x onerror=alert(1)> & {ATTACK}"}]
    made = text.markdown([data | {"label": "<script>alert(1)</script>"}])
    assert "<" not in made
    assert "&lt;img src=x onerror=alert(1)&gt; &amp;" in made
    assert_harmless(made)
    assert text.grid(["a|b"], [["x\ny"]])[0] == "| a\\|b |"

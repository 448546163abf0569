"""A run's path with brackets, which rich takes for its markup, is shown as it is."""

from pathlib import Path

import pytest

from nemo_srlm import cli
from nemo_srlm.core.terminal import console
from nemo_srlm.report import text
from nemo_srlm.report.write import read_runs
from tests.synthetic_run import build


@pytest.mark.parametrize("folder", ["a[/b]", "[old]", "a[red]b"])
@pytest.mark.parametrize("verb", ["status", "verify"])
def test_a_path_with_brackets_is_shown_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: str, verb: str
):
    build(tmp_path / folder, "runA", iterations=1)
    monkeypatch.chdir(tmp_path)  # a short path stays on one line
    assert cli.main([verb, f"{folder}/runA"]) in (0, 1)
    assert f"{folder}/runA: " in capsys.readouterr().out


@pytest.mark.parametrize("name", ["a[/b]", "[old] run"])
def test_a_name_with_brackets_is_shown_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str):
    (run,) = read_runs([build(tmp_path, "made", iterations=1)])
    console().print(text.table({**run, "name": name}))
    assert f"{name} (" in capsys.readouterr().out

"""Files of the user's that settings name: what is missing in them is found before a run, and they import their neighbours."""

from pathlib import Path

import pytest

from nemo_srlm.config.compose import compose
from nemo_srlm.core import user_code
from nemo_srlm.errors import ConfigError
from nemo_srlm.stages import load


@pytest.mark.parametrize(
    "source",
    [
        "def score(p, r): return 1",
        "class score: pass",
        "score = lambda p, r: 1",
        "if True:\n    score: object = len",
        "try:\n    from fast import score\nexcept ImportError:\n    from slow import rate as score",
        "import score",
        "from checks import *",
    ],
)
def test_a_function_may_be_there_in_many_ways_and_nothing_is_run(tmp_path: Path, source: str):
    (tmp_path / "mine.py").write_text(f"{source}\nraise RuntimeError\n")
    user_code.check("checker.function", f"{tmp_path}/mine.py:score")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("def rate(p, r): return 1", r"mine\.py has no function score; expected a function score\(prompt, response\)"),
        ("async def score(p, r): return 1", r"mine\.py has no function score; .*not async"),
        ("def rate(p, r):\n    score = 1", r"mine\.py has no function score"),
        ("class Mine:\n    def score(self, p, r): return 1", r"mine\.py has no function score"),
        ("x = 1\ndef score(p, r) return 1", r"mine\.py:2: .*; expected a file of Python"),
        ("x = 1\0", r"mine\.py.*; expected a file of Python"),
    ],
)
def test_a_function_that_is_not_there_is_refused_before_the_run(tmp_path: Path, source: str, words: str):
    (tmp_path / "mine.py").write_text(source)
    named = f"{tmp_path}/mine.py:score"
    stages = {
        "checker": ["pairs.score=checker", f"checker.function={named}"],
        "votes": ["pairs.score=vote", f"pairs.answer={named}"],
    }
    for stage, settings in stages.items():
        with pytest.raises(ConfigError, match=words):
            load(stage).check(compose("tiny", settings))
        load(stage).check(compose("tiny", [*settings, "cluster.check_paths=false"]))


def test_a_script_of_a_program_that_is_not_there_is_refused_before_the_run(tmp_path: Path):
    (script := tmp_path / "check.py").write_text("print(1)")
    command = "pairs.score=checker", 'checker.command=[sh, {}, "--config=gone.py", 4]'
    load("checker").check(compose("tiny", [command[0], command[1].format(script)]))
    for name in ("gone.py", "gone.sh"):
        settings = [command[0], command[1].format(tmp_path / name)]
        with pytest.raises(ConfigError, match=rf"checker\.command: no such file: .*{name}; expected a script"):
            load("checker").check(compose("tiny", settings))
        load("checker").check(compose("tiny", [*settings, "cluster.check_paths=false"]))


def test_a_file_imports_its_neighbours_also_when_its_function_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("sys.path", ["elsewhere"])
    (tmp_path / "its_early_neighbour.py").write_text("BASE = 1\n")
    (tmp_path / "its_late_neighbour.py").write_text("MORE = 2\n")
    (tmp_path / "mine.py").write_text(
        "from its_early_neighbour import BASE\ndef score(p, r):\n    from its_late_neighbour import MORE\n"
        "    return BASE + MORE\n"
    )
    assert user_code.load("checker.function", f"{tmp_path}/mine.py:score")("p", "r") == 3

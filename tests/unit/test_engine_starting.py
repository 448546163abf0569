"""A line says that the engine is starting, when it is: in progress.json and in what `nemo-srlm run` prints."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nemo_srlm.config.schema import Config
from nemo_srlm.core.progress import Progress, read_progress
from nemo_srlm.core.records import Candidate
from nemo_srlm.core.stage import Context, Ref
from nemo_srlm.generate.requests import Outcome, Request
from nemo_srlm.report.display import Display, progress_words
from nemo_srlm.stages.common.generating import run_requests
from tests.unit.fake_engine import FakeEngine


class Slow(FakeEngine):
    """Starts between the first and the second request, as the scheduler starts an engine."""

    def __init__(self, directory: Path, ready: bool) -> None:
        super().__init__(lambda text, seed: "yes")
        self.directory, self.ready = directory, ready
        self.seen: list[Any] = []

    def stream(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Outcome]]:
        for request in requests:
            self.seen.append(read_progress(self.directory))
            yield from super().stream([request])


@pytest.mark.parametrize("ready", [False, True])
def test_the_progress_says_so_from_the_first_request_to_the_second(tmp_path: Path, ready: bool):
    (tmp_path / "parts").mkdir()
    engine = Slow(tmp_path, ready)
    items = [(f"c{k}", f"text {k}") for k in range(3)]
    run_requests(
        Context(Config(), 1, tmp_path, {}, Progress(tmp_path)), items, lambda: engine,
        lambda engine, item_id, text: Request(item_id, (1,), 1, 0, 0.0, 1.0, 1, text=text),
        lambda item, outcome: [Candidate("c" + item[-1], "p", 0, "yes", "stop", 1)], "responses",
    )  # fmt: skip
    starting = ["engine starting" in progress_words(progress) for progress in engine.seen]
    assert starting == [not ready, False, False]


def test_it_is_a_line_of_its_own_where_the_output_is_no_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    ref, progress = Ref("judge", 1), Progress(tmp_path)
    with Display(3) as display:
        display.show(ref, tmp_path, 0.0, 1)
        progress.update(0, 10, "candidates", engine="starting")
        for _ in range(3):  # once, however often it is looked at
            display.show(ref, tmp_path, 0.0, 1)
        progress.update(4, 10, "candidates")
        display.show(ref, tmp_path, 0.0, 1)
    lines = capsys.readouterr().out.splitlines()
    assert ["starting  (" in lines[0], "engine starting" in lines[1], "4/10 candidates" in lines[2]] == [True] * 3
    assert len(lines) == 3

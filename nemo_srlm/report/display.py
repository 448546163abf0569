"""The live display of a running pipeline: stage, progress, rate, time left. Plain lines when the output is no terminal."""

import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from nemo_srlm.core.progress import read_progress
from nemo_srlm.core.stage import Ref
from nemo_srlm.core.terminal import console

PLAIN_INTERVAL = 30.0  # seconds between two lines about the same stage when there is no terminal


def duration(seconds: float | None) -> str:
    """`75.2` -> `1m15s`."""
    if seconds is None:
        return "-"
    whole = int(seconds + 0.5)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def rate_words(rate: float, unit: str) -> str:
    """`12.5/s`; of less than one per second the seconds for each: `8.0 s/step`."""
    if rate >= 1:
        return f"{rate:.1f}/s"
    one = unit.removesuffix("ies") + "y" if unit.endswith("ies") else unit.removesuffix("s")
    return f"{1 / rate:.1f} s/{one}"


def progress_words(progress: dict[str, Any]) -> str:
    words = f"{progress['done']:.0f}/{progress['total']:.0f} {progress['unit']}"
    if progress["rate"] > 0:
        words += f"  {rate_words(progress['rate'], progress['unit'])}"
    if progress["eta"] is not None and progress["done"] < progress["total"]:
        words += f"  {duration(progress['eta'])} left"
    for key, value in progress["info"].items():
        words += f"  {key} {value:.4g}" if isinstance(value, float) else f"  {key} {value}"
    return words


class Display:
    """Use as `with Display(total) as d:` and call `d.show(ref, dir, started, done)` repeatedly."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.console = console()
        self.started = time.time()
        self._live = (
            Live(console=self.console, refresh_per_second=4, transient=True) if self.console.is_terminal else None
        )
        self._last_line = 0.0
        self._last_shown: tuple[Ref, bool] | None = None  # the stage, and whether its engine was starting

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def line(self, text: str) -> None:
        """Prints a line that is not overwritten."""
        self.console.print(text, highlight=False, markup=False)

    def show(self, ref: Ref, directory: Path, since: float, done: int) -> None:
        """Shows the running stage `ref`, started at time `since`, with `done` of `total` stages finished."""
        progress = read_progress(directory)
        if progress and progress["updated"] < since:
            progress = None  # of an earlier attempt
        now = time.time()
        if self._live is None:
            shown = ref, progress is not None and "engine" in progress["info"]
            if shown == self._last_shown and now - self._last_line < PLAIN_INTERVAL:
                return
            self._last_shown, self._last_line = shown, now
            words = progress_words(progress) if progress else "starting"
            self.line(f"[{done}/{self.total}] {ref}  {words}  ({duration(now - since)})")
            return
        table = Table.grid(padding=(0, 2))
        stage_bar = (
            ProgressBar(total=progress["total"], completed=progress["done"], width=30) if progress else Text("starting")
        )
        table.add_row(
            Text(str(ref), style="bold"), stage_bar, progress_words(progress) if progress else "", duration(now - since)
        )
        table.add_row(
            "whole run",
            ProgressBar(total=self.total, completed=done, width=30),
            f"{done}/{self.total} stages",
            duration(now - self.started),
        )
        self._live.update(Group(table))

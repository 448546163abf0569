"""Assigns tests to the workers of `make test` (pytest-xdist): tests that share a fixture together, long ones first."""

from pathlib import PurePosixPath
from typing import Any

import hypothesis
import pytest

# its default of 200 ms is about the machine, not about the code: a busy one takes seconds now and then
hypothesis.settings.register_profile("no_deadline", deadline=None)
hypothesis.settings.load_profile("no_deadline")

# in this order, then as collected
LONG = (
    "slurm", "test_whole_loop.py", "test_imported_loop.py", "test_trainer.py", "test_convert_verify.py", "test_vllm_stages.py",
    "test_convert_layouts.py", "test_trainer_kills.py", "test_report_browser.py", "test_saving.py", "test_reference.py",
)  # fmt: skip


def group(nodeid: str) -> str:
    """Tests with the same group run in the same worker: those of a file share fixtures, those of tests/slurm one cluster."""
    path = PurePosixPath(nodeid.partition("::")[0])
    return "slurm" if path.parent.name == "slurm" else path.name


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    groups = [group(item.nodeid) for item in items]
    order = {name: LONG.index(name) if name in LONG else len(LONG) for name in groups}
    items.sort(key=lambda item: order[group(item.nodeid)])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group(nodeid)

    return ByGroup(config, log)

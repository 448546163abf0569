"""How `make test` spreads the tests over two workers (pytest-xdist): what shares a fixture stays together, long work first."""

import pytest

LONG = ("slurm", "test_whole_loop.py", "test_trainer.py", "test_convert_verify.py")  # in this order, then as collected


def group(item: pytest.Item) -> str:
    """The tests of a file share its fixtures; all of tests/slurm share one cluster, and mostly wait for it."""
    return "slurm" if item.path.parent.name == "slurm" else item.path.name


@pytest.hookimpl(tryfirst=True)  # before xdist looks for the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.xdist_group(group(item)))
    items.sort(key=lambda item: LONG.index(group(item)) if group(item) in LONG else len(LONG))

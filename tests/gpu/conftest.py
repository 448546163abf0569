"""An environment for CPUs on a machine with GPUs fails here: its skipped tests would be taken for passed ones."""

import pytest

from nemo_srlm.doctor.inventory import machine


@pytest.fixture(scope="session", autouse=True)
def _usable_gpus() -> None:
    if unused := machine().unused:
        pytest.fail(
            f"{unused} GPUs are here, and the installed torch is a build for CPUs: run `make test-gpu`", pytrace=False
        )

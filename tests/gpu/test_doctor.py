"""Every check of `nemo-srlm doctor` on a GPU: communication, bf16 and FP8 training, resume, conversion, vLLM, speed.

One GPU is enough; the checks are sized to take less than 10 minutes together. Skipped without a GPU.
"""

import pytest

from nemo_srlm.doctor.check import Place, Result
from nemo_srlm.doctor.inventory import machine
from nemo_srlm.doctor.table import CHECKS
from nemo_srlm.doctor.verb import STEPS, run_all
from nemo_srlm.report.display import console

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Result]:
    if not machine().gpus:
        pytest.skip("no NVIDIA GPU")
    place = Place(tmp_path_factory.mktemp("doctor"), machine(), STEPS)
    return {result.name: result for result in run_all(CHECKS, place, False, console())}


@pytest.mark.parametrize("name", [check.name for check in CHECKS])
def test_a_check_of_the_doctor_holds(results: dict[str, Result], name: str):
    found = results[name]
    if found.status == "not here":
        pytest.skip(found.reason)
    assert found.status == "ok", f"{found.reason}\n{found.log}"

"""What the doctor does on a machine with several GPUs: layouts, engines over two of them, sums in a fixed order."""

import dataclasses
from pathlib import Path

import pytest

from nemo_srlm.config.compose import compose
from nemo_srlm.core.stage import Ref
from nemo_srlm.doctor import check as checks
from nemo_srlm.doctor import conversion, training
from nemo_srlm.doctor.inventory import Machine
from nemo_srlm.launch.gpus import check_gpus
from nemo_srlm.stages.common.training import common_identity
from nemo_srlm.train.layout import check_batches, check_layout, data_parallel_size
from tests.unit.test_doctor import CPU, H100, place


@pytest.mark.parametrize("gpus", [2, 4, 8])
def test_sft_is_spread_over_all_gpus_without_another_identity(tmp_path: Path, gpus: int):
    """The shipped layouts' communication, which replicas alone do not have. The layout enters no fingerprint."""
    here = place(tmp_path, dataclasses.replace(H100, gpus=H100.gpus[:gpus]))
    plain = compose("tiny", training.settings(here, "bf16"))
    cfg = compose("tiny", [*training.settings(here, "layout"), *training.layout_of(here.machine.processes)])
    check_layout(cfg.model, cfg.parallel)
    check_batches("sft", cfg.sft, cfg.parallel)
    check_gpus(cfg, [Ref("sft", 0)], gpus)
    assert (cfg.parallel.tensor, cfg.parallel.pipeline, data_parallel_size(cfg.parallel)) == {
        2: (2, 1, 1), 4: (2, 2, 1), 8: (2, 2, 2)
    }[gpus]  # fmt: skip
    assert common_identity(cfg, "sft") == common_identity(plain, "sft")


@pytest.mark.parametrize(("loss", "fails"), [(3.05, False), (3.2, True)])
def test_a_layout_that_trains_otherwise_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loss: float, fails: bool
):
    ran: list[tuple[str, ...]] = []
    where = place(tmp_path, H100)
    (tmp_path / "bf16/iter0/pretrain").mkdir(parents=True)
    (tmp_path / "bf16/iter0/sft").mkdir()
    monkeypatch.setattr(training, "run_stages", lambda place, run, stages, *extra: ran.append((run, *stages, *extra)))
    monkeypatch.setattr(training, "losses", lambda place, run, stage: [3.0 if run == "bf16" else loss])
    if fails:
        with pytest.raises(checks.Failed, match=r"0\.200 away"):
            training.layout(where)
    else:
        assert training.layout(where) == {"largest difference": 0.05}
    ((run, stage, *settings),) = ran
    assert (run, stage, settings) == ("layout", "sft", training.layout_of(8))
    assert (tmp_path / "layout/iter0/pretrain").is_dir()
    assert not (tmp_path / "layout/iter0/sft").exists(), "it is trained again"


@pytest.mark.parametrize(("machine", "found"), [(CPU, {}), (H100, {"GPUs": 2})])
def test_an_engine_is_started_over_two_gpus_where_there_are_several(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: Machine, found: dict[str, int]
):
    asked: list[int] = []

    def verify(hf: Path, checkpoint: Path, *, level: str, vllm_gpus: int) -> dict[str, dict[str, object]]:
        asked.append(vllm_gpus)
        return {level: {"equal": True, "greedy_ids": [1]}}

    monkeypatch.setattr(conversion, "verify", verify)
    monkeypatch.setattr(conversion, "_trained", lambda place: tmp_path)
    assert conversion.vllm(place(tmp_path, machine)) == {"equal": True} | found
    assert asked == [found.get("GPUs", 1)]


def test_what_is_compared_bit_for_bit_is_not_summed_by_switches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """On 8 GPUs of a node NCCL sums in the NVSwitch, in an order that may differ after a restart."""
    monkeypatch.delenv("NCCL_ALGO", raising=False)
    old = dataclasses.replace(H100, gpus=(dataclasses.replace(H100.gpus[0], capability=(8, 0)),))
    assert training.environment(place(tmp_path, H100))["NCCL_ALGO"] == "^NVLS"
    assert "NCCL_ALGO" not in training.environment(place(tmp_path, old)), "compared with a tolerance"

"""The request scheduler: it keeps the engine full, isolates bad requests, and restarts a dead engine only a few times."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from nemo_srlm.config.generation import GenerateSection
from nemo_srlm.config.schema import Config
from nemo_srlm.core.slot import Slot
from nemo_srlm.errors import CheckpointError, DataError, EngineError
from nemo_srlm.generate import requests as generate_requests
from nemo_srlm.generate import vllm_engine as engines
from nemo_srlm.generate.requests import Completion, Failure, Request
from nemo_srlm.generate.scheduler import RequestScheduler


class Machine:
    """A backend that finishes its oldest request at every step; some requests crash it or are refused."""

    deadly: frozenset[str] = frozenset()
    refused: frozenset[str] = frozenset()

    def __init__(self, log: list[str]) -> None:
        self.log, self.flying = log, list[Request]()
        self.most = 0
        log.append("start")

    def add(self, request: Request) -> None:
        if request.id in self.refused:
            raise ValueError("too_long: no room")
        self.flying.append(request)
        self.most = max(self.most, sum(r.n for r in self.flying))

    def step(self) -> list[tuple[str, list[Completion]]]:
        if bad := [r.id for r in self.flying if r.id in self.deadly]:
            raise RuntimeError(f"killed by {bad[0]}")
        done = self.flying.pop(0)
        return [(done.id, [Completion(f"{done.id}{done.seed + i}", 1, "stop") for i in range(done.n)])]

    def abort(self, ids: Sequence[str]) -> None:
        self.log.append("abort")
        self.flying = [r for r in self.flying if r.id not in ids]

    def close(self) -> None:
        self.log.append("close")


def requests(number: int, n: int = 1) -> list[Request]:
    return [Request(f"r{i}", (1, 2), n, 64 * i, 0.7, 0.9, 8) for i in range(number)]


def feeder(
    log: list[str], deadly: str = "", refused: str = "", capacity: int = 4, max_restarts: int = 9
) -> RequestScheduler:
    kind = type("M", (Machine,), {"deadly": frozenset(deadly.split()), "refused": frozenset(refused.split())})
    return RequestScheduler(lambda: kind(log), capacity, max_restarts)


def test_every_request_comes_back_with_its_draws_and_the_engine_starts_once() -> None:
    log: list[str] = []
    found = dict(feeder(log).run(requests(10, n=2)))
    assert [len(outcome) for outcome in found.values() if isinstance(outcome, list)] == [2] * 10
    assert log == ["start"]


def test_the_engine_is_kept_full_but_not_overfull() -> None:
    log: list[str] = []
    fed = feeder(log, capacity=4)
    seen = 0

    def source() -> Iterator[Request]:
        nonlocal seen
        for request in requests(20):
            seen += 1
            yield request

    stream = fed.run(source())
    next(stream)
    assert seen <= 5  # requests are read lazily
    assert sum(1 for _ in stream) == 19
    assert isinstance(fed.backend, Machine)
    assert fed.backend.most == 4


def test_no_request_starts_no_engine() -> None:
    log: list[str] = []
    assert list(feeder(log).run([])) == []
    assert log == []


def test_a_refused_request_is_a_failure_with_its_reason_and_stops_nothing() -> None:
    found = dict(feeder([], refused="r0 r7").run(requests(10)))
    failures = {r.id: o.reason for r, o in found.items() if isinstance(o, Failure)}
    assert failures == {"r0": "too_long: no room", "r7": "too_long: no room"}
    assert len(found) == 10


def test_a_request_that_kills_the_engine_is_found_and_the_others_get_their_results() -> None:
    log: list[str] = []
    found = {r.id: o for r, o in feeder(log, deadly="r5").run(requests(12))}
    assert len(found) == 12
    assert [i for i, o in found.items() if isinstance(o, Failure)] == ["r5"]
    failure = found["r5"]
    assert isinstance(failure, Failure)
    assert failure.reason == "engine: RuntimeError: killed by r5"
    assert log.count("start") <= 4


def test_an_engine_that_dies_for_no_request_of_its_own_is_restarted_and_nothing_is_lost() -> None:
    class Once(Machine):
        died = False

        def step(self) -> list[tuple[str, list[Completion]]]:
            if not Once.died:
                Once.died = True
                raise RuntimeError("out of memory")
            return super().step()

    log: list[str] = []
    found = dict(RequestScheduler(lambda: Once(log), 4, 1).run(requests(9)))
    assert len(found) == 9
    assert all(isinstance(o, list) for o in found.values())
    assert log == ["start", "close", "start"]


def test_an_engine_that_dies_too_often_is_an_error() -> None:
    with pytest.raises(EngineError, match="died 2 times"):
        list(feeder([], deadly="r0 r1 r2", max_restarts=1).run(requests(5)))


def test_an_error_of_the_caller_is_not_taken_for_a_death_of_the_engine() -> None:
    def source() -> Iterator[Request]:
        yield requests(1)[0]
        raise DataError("here", "a torn file")

    log: list[str] = []
    with pytest.raises(DataError, match="torn"):
        list(feeder(log).run(source()))
    assert log == ["start", "abort"]


def test_leaving_early_aborts_what_is_in_flight_and_the_engine_serves_on() -> None:
    log: list[str] = []
    fed = feeder(log)
    stream = fed.run(requests(10))
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert log == ["start", "abort"]
    assert len(list(fed.run(requests(3)))) == 3
    assert log == ["start", "abort"]


def test_draws_that_would_meet_another_items_seeds_are_refused() -> None:
    with pytest.raises(AssertionError, match="64 apart"):
        Request("a", (1,), 65, 0, 0.7, 0.9, 8)


class Words:
    vocab_size, bos_id, eos_id = 100, 1, 2


CONFIG = {
    "vocab_size": 100, "max_position_embeddings": 128, "hidden_size": 64, "num_attention_heads": 4,
    "num_key_value_heads": 2, "num_hidden_layers": 3,
}  # fmt: skip


def model(directory: Path, weights: bool = True, **changes: int) -> Path:
    (directory / "config.json").write_text(json.dumps(CONFIG | changes))
    if weights:
        (directory / "model.safetensors").write_bytes(b"x")
    return directory


def check(path: Path, **settings: int) -> int:
    section = GenerateSection(**{"max_model_len": 0, **settings})  # type: ignore[arg-type]
    return engines.check_model(path, Words(), section)[1]  # type: ignore[arg-type]


def test_all_positions_of_the_model_are_the_limit_where_no_length_is_set(tmp_path: Path) -> None:
    assert check(model(tmp_path)) == 128
    assert check(model(tmp_path), max_model_len=100) == 100


def test_the_engines_length_follows_from_the_data() -> None:
    assert engines.length_for([900, 1025, 17], 4096) == 2048
    assert engines.length_for([1024], 4096) == 1024
    assert engines.length_for([5000, 900], 4096) == 1024  # a refused request does not count
    assert engines.length_for([3000], 3500) == 3500
    assert engines.length_for([], 4096) == engines.SHORTEST


class Started(Machine):
    def __init__(self, log: list[str], length: int) -> None:
        super().__init__(log)
        log[-1] = f"start {length}"


def test_an_engine_starts_for_the_lengths_of_its_stage_and_anew_only_for_longer_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[str] = []
    monkeypatch.setattr(engines, "Tokenizer", lambda path: Words())
    monkeypatch.setattr(engines, "VllmBackend", lambda path, section, tokenizer, length: Started(log, length))
    path = model(tmp_path, max_position_embeddings=8192)

    def stages(section: GenerateSection, *longest: int) -> list[str]:
        log.clear()
        engine = engines.VllmEngine(path, section)
        for length in longest:
            if length:
                engine.expect([length])
            assert len(generate_requests.generate(engine, requests(3))) == 3
        return list(log)

    assert stages(GenerateSection(), 500, 300, 600) == ["start 512", "close", "start 1024"]
    assert stages(GenerateSection(), 500, 0) == ["start 512", "close", "start 8192"]  # no lengths given: all positions
    assert stages(GenerateSection(max_model_len=4000), 500, 6000) == ["start 4000"]


def test_precision_and_parallelism_reach_vllm_and_what_a_cpu_cannot_do_is_said(tmp_path: Path) -> None:
    section = GenerateSection(dtype="float16", quantization="fp8", tensor_parallel=4, gpu_memory=0.8)
    options = engines.engine_options(tmp_path, CONFIG, 512, section, on_gpu=True)
    wanted = {
        "dtype": "float16", "quantization": "fp8", "tensor_parallel_size": 4, "gpu_memory_utilization": 0.8,
        "max_model_len": 512, "enable_prefix_caching": True, "enforce_eager": False,
    }  # fmt: skip
    assert {name: options[name] for name in wanted} == wanted
    assert "quantization" not in engines.engine_options(tmp_path, CONFIG, 512, GenerateSection(), on_gpu=True)
    with pytest.raises(EngineError, match="fp8 without a GPU"):
        engines.engine_options(tmp_path, CONFIG, 512, section, on_gpu=False)
    with pytest.raises(EngineError, match="heads of size 16"):
        engines.engine_options(tmp_path, CONFIG, 512, GenerateSection(), on_gpu=False)


def test_a_model_directory_without_weights_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="weights are missing"):
        check(model(tmp_path, weights=False))
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model-1.safetensors"}}))
    with pytest.raises(CheckpointError, match="model-1"):
        check(tmp_path)
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        check(tmp_path / "elsewhere")


def test_a_context_longer_than_the_model_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"generate\.max_model_len=128"):
        check(model(tmp_path), max_model_len=4096)


def test_a_tokenizer_larger_than_the_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="100 tokens"):
        check(model(tmp_path, vocab_size=99))


def test_the_cpu_cache_is_no_larger_than_full_sequences_need() -> None:
    section = GenerateSection(dtype="float32", max_num_seqs=3, kv_cache_gib=1)
    # 2 (keys, values) x 3 layers x 2 heads x head size 16 x 4 bytes, in blocks of 128 tokens, 3 sequences and one block more
    assert engines.kv_cache_bytes(CONFIG, 100, section) == 2 * 3 * 2 * 16 * 4 * 128 * 4
    assert engines.kv_cache_bytes(CONFIG | {"num_hidden_layers": 10**9}, 100, section) == 1 << 30


def test_one_engine_is_kept_and_replaced_when_another_model_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[str] = []

    class Kept:
        def __init__(self, path: Path, section: GenerateSection) -> None:
            self.path = path

        def close(self) -> None:
            closed.append(self.path.name)

    monkeypatch.setattr(engines, "VllmEngine", Kept)
    cfg, slot = Config(), Slot()
    first = engines.shared(slot, tmp_path / "a", cfg)
    assert engines.shared(slot, tmp_path / "a", cfg) is first
    engines.shared(slot, tmp_path / "b", cfg)
    assert closed == ["a"]
    slot.close()
    slot.close()
    assert closed == ["a", "b"]

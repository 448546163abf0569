"""The engine for OpenAI-compatible endpoints against a small HTTP server: retries, refusals, counting, secrecy of the key."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from nemo_srlm.config.compose import as_yaml
from nemo_srlm.config.generation import ApiSection
from nemo_srlm.config.schema import Config
from nemo_srlm.core.files import read_records, write_records
from nemo_srlm.core.progress import Progress
from nemo_srlm.core.records import Candidate, Judgement, Prompt
from nemo_srlm.core.stage import Context
from nemo_srlm.errors import ConfigError, DataError, EngineError
from nemo_srlm.generate.openai_engine import OpenAIEngine
from nemo_srlm.generate.requests import Completion, Failure, Request
from nemo_srlm.stages import judge

KEY = "sk-secret-0123456789"
Answer = tuple[int, Any]


class Server(ThreadingHTTPServer):
    """An HTTP server that responds with `rule(body, number of the call)`."""

    def __init__(self, rule: Callable[[dict[str, Any], int], Answer]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.rule, self.lock = rule, threading.Lock()
        self.bodies: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.bodies.append(body)
            self.server.keys.add(self.headers["Authorization"])
            state, answer = self.server.rule(body, len(self.server.bodies))
        data = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
        self.send_response(state)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        pass


def answers(body: dict[str, Any], choices: int = 99) -> Answer:
    made = [
        {"message": {"content": f"{body['messages'][0]['content']} {body['seed'] + i}"}, "finish_reason": "stop"}
        for i in range(min(body["n"], choices))
    ]
    return 200, {"choices": made, "usage": {"prompt_tokens": 10, "completion_tokens": 5 * len(made)}}


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., tuple[OpenAIEngine, Server]]]:
    monkeypatch.setenv("A_KEY", KEY)
    servers: list[Server] = []

    def started(rule: Callable[[dict[str, Any], int], Answer], **settings: Any) -> tuple[OpenAIEngine, Server]:
        server = Server(rule)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        section = ApiSection(
            ["judge"], f"http://127.0.0.1:{server.server_port}/v1", "m", "A_KEY", workers=3, **settings
        )
        return OpenAIEngine(section, first_wait=0.01), server

    yield started
    for server in servers:
        server.shutdown()
        server.server_close()


def requests(number: int, n: int = 1) -> list[Request]:
    return [Request(f"r{i}", (), n, 64 * i, 0.7, 0.9, 8, text=f"t{i}") for i in range(number)]


Start = Callable[..., tuple[OpenAIEngine, Server]]


def test_every_request_gets_its_draws_and_the_cost_is_counted(start: Start) -> None:
    engine, server = start(lambda body, call: answers(body), prompt_price=1e5, completion_price=1e6)
    found = {r.id: o for r, o in engine.stream(requests(7, n=2))}
    assert found["r3"] == [Completion("t3 192", 0, "stop"), Completion("t3 193", 0, "stop")]
    assert len(found) == 7
    usage = engine.usage()
    assert (usage["calls"], usage["prompt_tokens"], usage["completion_tokens"]) == (7, 70, 70)
    assert usage["cost"] == pytest.approx(7 + 70)
    assert engine.usage() == {}
    assert server.keys == {f"Bearer {KEY}"}


def test_an_endpoint_that_gives_one_choice_at_a_time_is_asked_again_with_the_next_seeds(start: Start) -> None:
    engine, _ = start(lambda body, call: answers(body, choices=1))
    ((_, outcome),) = engine.stream(requests(1, n=3))
    assert isinstance(outcome, list)
    assert [draw.text for draw in outcome] == ["t0 0", "t0 1", "t0 2"]


def test_a_busy_endpoint_is_tried_again(start: Start) -> None:
    engine, _ = start(lambda body, call: answers(body) if call > 3 else (429, "slow down"), retries=4)
    ((_, outcome),) = engine.stream(requests(1))
    assert isinstance(outcome, list)
    assert engine.usage()["retries"] == 3


def test_a_request_without_a_response_has_no_outcome_so_that_a_rerun_asks_again(start: Start) -> None:
    engine, _ = start(lambda body, call: (503, "down") if body["seed"] == 64 else answers(body), retries=1)
    found = []
    with pytest.raises(EngineError, match="1 requests had no response after 1 retries each; the last: HTTP 503: down"):
        found.extend(engine.stream(requests(7)))
    assert sorted(r.id for r, _ in found) == ["r0", "r2", "r3", "r4", "r5", "r6"]


def test_a_dead_endpoint_ends_the_stream_after_as_many_failures_as_workers(start: Start) -> None:
    engine, server = start(lambda body, call: (503, "down"), retries=1)
    with pytest.raises(EngineError, match="no response"):
        list(engine.stream(requests(2_000)))
    assert len(server.bodies) < 20


def test_one_request_that_the_endpoint_refuses_stops_no_other(start: Start) -> None:
    engine, _ = start(lambda body, call: (400, "too long") if body["seed"] == 64 else answers(body))
    found = {r.id: o for r, o in engine.stream(requests(3))}
    assert found["r1"] == Failure("refused: HTTP 400: too long")
    assert isinstance(found["r0"], list)
    assert isinstance(found["r2"], list)


def test_a_wrong_key_stops_at_once_and_is_never_repeated_in_a_message(start: Start) -> None:
    engine, server = start(lambda body, call: (401, f"Incorrect key {KEY}"))
    with pytest.raises(EngineError) as error:
        list(engine.stream(requests(50)))
    assert KEY not in str(error.value)
    assert "A_KEY" in str(error.value)
    assert len(server.bodies) < 50


def test_what_is_no_completion_is_a_failure(start: Start) -> None:
    engine, _ = start(lambda body, call: (200, {"object": "list"}))
    ((_, outcome),) = engine.stream(requests(1))
    assert isinstance(outcome, Failure)


def test_a_missing_key_is_said_before_anything_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("A_KEY", raising=False)
    with pytest.raises(ConfigError, match="A_KEY is not in the environment"):
        OpenAIEngine(ApiSection(["judge"], "http://127.0.0.1:1/v1", "m", "A_KEY"))


def test_an_endpoint_judges_a_stage_with_its_cost_in_the_manifest_and_its_key_in_no_file(
    start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def rule(body: dict[str, Any], call: int) -> Answer:
        if call % 5 == 0:
            return 500, f"key {KEY} is fine, the server is not"
        if "answer 3" in body["messages"][0]["content"]:
            return 400, f"{KEY}: refused"
        text = "Raw words of the endpoint.\n\nScore: 4 "
        made = [{"message": {"content": text}, "finish_reason": "stop"}] * body["n"]
        return 200, {"choices": made, "usage": {"prompt_tokens": 10, "completion_tokens": 5 * body["n"]}}

    _, server = start(rule)
    cfg = Config()
    cfg.api = ApiSection(
        ["judge"],
        f"http://127.0.0.1:{server.server_port}/v1",
        "m",
        "A_KEY",
        workers=2,
        prompt_price=1e6,
        completion_price=1e6,
    )
    inputs = {name: tmp_path / name for name in ("prompts", "candidates")}
    for directory in (*inputs.values(), tmp_path / "judge"):
        directory.mkdir()
    write_records(inputs["prompts"] / "prompts.jsonl", [Prompt("p", "Why?")])
    made = [Candidate(f"c{i}", "p", i, f"answer {i}", "stop", 3) for i in range(6)]
    write_records(inputs["candidates"] / "candidates.jsonl", made)
    ctx = Context(cfg, 1, tmp_path / "judge", inputs, Progress(tmp_path / "judge"))
    judge.STAGE.run(ctx)
    metrics = judge.STAGE.finalize(ctx)
    judged = {j.id: j for j in read_records(ctx.dir / "judgements.jsonl", Judgement)}
    assert judged["c0"].texts == ("Raw words of the endpoint.\n\nScore: 4 ",) * 3
    assert judged["c3"].error == "refused: HTTP 400: ***: refused"
    used = metrics["engine"]
    assert used["calls"] == 6 + used["retries"]
    assert used["retries"] > 0
    assert used["cost"] == used["prompt_tokens"] + used["completion_tokens"] == 5 * (10 + 15)
    assert used["tokens_per_s"] > 0
    assert judge.STAGE.identity(cfg, 1)["api"]["model"] == "m"
    written = [path.read_text(encoding="utf-8") for path in tmp_path.rglob("*") if path.is_file()]
    printed = capsys.readouterr()
    for text in (*written, as_yaml(cfg), json.dumps(metrics), json.dumps(judge.STAGE.identity(cfg, 1)), *printed):
        assert KEY not in text


def test_a_stage_that_judged_nothing_fails(start: Start, tmp_path: Path) -> None:
    _, server = start(lambda body, call: (400, "no"))
    cfg = Config()
    cfg.api = ApiSection(["judge"], f"http://127.0.0.1:{server.server_port}/v1", "m", "A_KEY")
    inputs = {name: tmp_path / name for name in ("prompts", "candidates")}
    for directory in (*inputs.values(), tmp_path / "judge"):
        directory.mkdir()
    write_records(inputs["prompts"] / "prompts.jsonl", [Prompt("p", "Why?")])
    write_records(inputs["candidates"] / "candidates.jsonl", [Candidate("c", "p", 0, "answer", "stop", 3)])
    ctx = Context(cfg, 1, tmp_path / "judge", inputs, Progress(tmp_path / "judge"))
    judge.STAGE.run(ctx)
    with pytest.raises(DataError, match=r"not one of 1 items was judged: \{'refused': 1\}"):
        judge.STAGE.finalize(ctx)

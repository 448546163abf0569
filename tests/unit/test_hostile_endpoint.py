"""An endpoint that sends anything at any speed: no hang, no traceback, and the key in nothing that is kept."""

import gzip
import itertools
import json
import socket
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nemo_srlm.config.generation import ApiSection
from nemo_srlm.config.schema import Config
from nemo_srlm.core.files import write_records
from nemo_srlm.core.progress import Progress
from nemo_srlm.core.records import Candidate, Prompt
from nemo_srlm.core.stage import Context
from nemo_srlm.errors import ConfigError, EngineError, UserError
from nemo_srlm.generate.endpoint_protocol import message_of, read_key, retry_after, without_key
from nemo_srlm.generate.openai_engine import OpenAIEngine
from nemo_srlm.generate.requests import Completion, Failure, Outcome, Request
from nemo_srlm.launch.plan import check_stage
from nemo_srlm.stages import judge

KEY = 'sk-"hostile\\key'
GOOD = {"choices": [{"message": {"content": "Yes."}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1}}  # fmt: skip


def http(body: bytes, status: str = "200 OK", head: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{head}\r\n".encode() + body


def completion(**changes: object) -> bytes:
    return http(json.dumps(GOOD | changes).encode())


Serve = Callable[[Callable[[socket.socket], None]], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """serve(respond) -> the address of a server that reads each request and calls `respond` with its connection."""
    listening: list[socket.socket] = []

    def started(respond: Callable[[socket.socket], None]) -> str:
        server = socket.create_server(("127.0.0.1", 0))
        listening.append(server)

        def run() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return  # closed by the fixture
                threading.Thread(target=one, args=(connection,), daemon=True).start()

        def one(connection: socket.socket) -> None:
            with connection:
                try:
                    connection.recv(65536)
                    respond(connection)
                except OSError:
                    pass  # the client has gone

        threading.Thread(target=run, daemon=True).start()
        return f"http://127.0.0.1:{server.getsockname()[1]}/v1"

    yield started
    for server in listening:
        server.shutdown(socket.SHUT_RDWR)
        server.close()


def ask(url: str, monkeypatch: pytest.MonkeyPatch, timeout: float = 5.0) -> Outcome:
    monkeypatch.setenv("A_KEY", KEY)
    engine = OpenAIEngine(ApiSection(["judge"], url, "m", "A_KEY", workers=1, retries=0, timeout=timeout))
    ((_, outcome),) = engine.stream([Request("r", (), 1, 0, 0.7, 0.9, 8, text="t")])
    return outcome


def trickle(connection: socket.socket) -> None:
    for byte in completion():
        connection.sendall(bytes([byte]))
        time.sleep(0.05)


def endless(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        connection.sendall(b"10000\r\n" + b" " * 65536 + b"\r\n")


def silent(connection: socket.socket) -> None:
    while connection.recv(65536):  # until the client gives up
        pass


# Which of the two depends on whether the end of the connection or its reset arrives first.
BROKEN_OFF = r"the connection failed \((RemoteProtocolError|ReadError)\)"
BROKEN = {
    "trickled": (trickle, "no whole response within 0.3 s"),
    "endless": (endless, "no whole response|more than 32 MiB"),
    "silent": (silent, "no whole response within 0.3 s"),
    "closed": (lambda c: None, BROKEN_OFF),
    "truncated": (lambda c: c.sendall(completion()[:-9]), BROKEN_OFF),
    "no HTTP": (lambda c: c.sendall(b"\0\1\2 " + KEY.encode() + b"\r\n\r\n"), r"the connection failed \(\w+\)"),
    "garbage": (lambda c: c.sendall(http(b"<html>" + KEY.encode())), "that is not JSON"),
    "not UTF-8": (lambda c: c.sendall(http(json.dumps(GOOD).encode().replace(b"Yes.", b"\xff"))), "that is not JSON"),
    "half a surrogate pair": (
        lambda c: c.sendall(http(json.dumps(GOOD).replace("Yes.", r"\ud83d").encode())), "that is not JSON",
    ),
    "nested": (lambda c: c.sendall(http(b'{"a": ' + b"[" * 100_000)), "that is not JSON"),
    "compressed": (
        lambda c: c.sendall(http(gzip.compress(json.dumps(GOOD).encode()), head="Content-Encoding: gzip\r\n")),
        "a compressed body",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_response_is_no_outcome(serve: Serve, monkeypatch: pytest.MonkeyPatch, name: str):
    respond, message = BROKEN[name]
    with pytest.raises(EngineError, match=message) as error:
        ask(serve(respond), monkeypatch, 0.3 if name in ("trickled", "endless", "silent") else 5.0)
    assert "hostile" not in str(error.value)


WRONG = {
    "content is a list": completion(choices=[{"message": {"content": ["a"]}}]),
    "no choices": http(b'{"usage": {"prompt_tokens": 1, "completion_tokens": 1}}'),
    "usage is no number": completion(usage={"prompt_tokens": "many", "completion_tokens": 1}),
    "usage is negative": completion(usage={"prompt_tokens": -5, "completion_tokens": 1}),
    "usage is NaN": http(json.dumps(GOOD).replace(": 1", ": 1e999").encode()),
    "a list": http(b"[]"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_response_of_another_type_is_a_failure_of_the_item(serve: Serve, monkeypatch: pytest.MonkeyPatch, name: str):
    outcome = ask(serve(lambda c: c.sendall(WRONG[name])), monkeypatch)
    assert isinstance(outcome, Failure)
    assert outcome.reason.startswith("engine: not a chat completion")


def test_a_chunked_response_is_read(serve: Serve, monkeypatch: pytest.MonkeyPatch):
    body = json.dumps(GOOD).encode()
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:7], body[7:], b""))
    assert ask(serve(lambda c: c.sendall(head + chunks)), monkeypatch) == [Completion("Yes.", 0, "stop")]


@pytest.mark.parametrize("status", ["302 Found", "307 Temporary Redirect", "308 Permanent Redirect"])
def test_a_redirect_is_refused_and_the_key_goes_nowhere_else(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, status: str
):
    reached: list[bool] = []
    elsewhere = serve(lambda c: reached.append(True))
    url = serve(lambda c: c.sendall(http(b"", status, f"Location: {elsewhere}\r\n")))
    with pytest.raises(EngineError, match="a redirect: the key is not sent to another address"):
        ask(url, monkeypatch)
    assert not reached


@pytest.mark.parametrize("body", [
    f"Incorrect key {KEY} given", json.dumps({"error": {"message": f"Incorrect key {KEY}"}}), json.dumps({"error": KEY}),
    "x" * 495 + KEY, f"Incorrect key {KEY[:12]}*** given",
])  # fmt: skip
def test_an_error_message_is_redacted_before_it_is_cut(serve: Serve, monkeypatch: pytest.MonkeyPatch, body: str):
    outcome = ask(serve(lambda c: c.sendall(http(body.encode(), "400 Bad Request"))), monkeypatch)
    assert isinstance(outcome, Failure)
    assert outcome.reason.startswith("refused: HTTP 400: ")
    for part in (KEY, KEY[:12], json.dumps(KEY)[1:13]):
        assert part not in outcome.reason


KEYS = [
    "sk-secret-0123456789",
    'sk-"hostile\\key-0123',
    "sk-%41+/=&0123456789",
    "sk-0123456789abcdef\r",
    "'sk'-{0}%s0123",
]


@pytest.mark.parametrize("key", KEYS)
def test_no_file_of_a_stage_holds_the_key_or_its_beginning(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str
):
    """The endpoint quotes the key wherever it can: content, finish reason, errors, headers, what is no HTTP."""
    monkeypatch.setenv("A_KEY", key)
    sent, number = key.strip(), itertools.count()
    echo = {"choices": [{"message": {"content": f"Bearer {sent}\n{sent[:12]}...\nScore: 4"}, "finish_reason": sent}]}
    answers = [
        http(json.dumps(GOOD | echo).encode()), http(f"no: {sent}".encode(), "400 Bad Request"),
        http(json.dumps({"error": {"message": json.dumps(sent)}}).encode(), f"422 {sent}", f"X-Key: {sent}\r\n"),
        http(json.dumps({"choices": sent}).encode()), http(sent.encode(), "500 Oops"), sent.encode() + b"\r\n\r\n",
    ]  # fmt: skip
    url = serve(lambda c: c.sendall(answers[next(number) % len(answers)]))
    cfg = Config()
    cfg.api = ApiSection(["judge"], url, "m", "A_KEY", workers=1, retries=1, timeout=5.0)
    cfg.judge.draws = cfg.judge.min_valid = 1
    inputs = {name: tmp_path / name for name in ("prompts", "candidates")}
    for directory in (*inputs.values(), tmp_path / "judge"):
        directory.mkdir()
    write_records(inputs["prompts"] / "prompts.jsonl", [Prompt("p", "Why?")])
    write_records(
        inputs["candidates"] / "candidates.jsonl", [Candidate(f"c{i}", "p", i, "a", "stop", 3) for i in range(5)]
    )
    ctx = Context(cfg, 1, tmp_path / "judge", inputs, Progress(tmp_path / "judge"))
    ends = []
    for attempt in (lambda: judge.STAGE.run(ctx), lambda: judge.STAGE.finalize(ctx)):
        try:
            attempt()
        except UserError as error:
            ends.append(str(error))
    written = [path.read_text(encoding="utf-8") for path in tmp_path.rglob("*") if path.is_file()]
    assert any("Score: 4" in text for text in written)
    for text in (*written, *ends, *capsys.readouterr()):
        for form in (sent, json.dumps(sent)[1:-1], repr(sent)[1:-1], urllib.parse.quote(sent, safe="")):
            assert form[:12] not in text


def test_a_short_key_may_be_a_word_of_the_response():
    assert without_key("It is EMPTY.", "EMPTY") == "It is EMPTY."


@pytest.mark.parametrize("key", ["", " ", "sk\x00", "sk\r\nX-Other: 1", "schlüssel", "a b", "\x7f", "sk\u2028x"])
def test_a_key_that_no_header_can_carry_is_refused_unrepeated(monkeypatch: pytest.MonkeyPatch, key: str):
    monkeypatch.setattr("os.environ", {"A_KEY": key})  # a real environment cannot hold NUL
    with pytest.raises(ConfigError) as error:
        read_key("A_KEY")
    assert not key.strip() or key not in str(error.value)


@pytest.mark.parametrize("key", ["sk-x\r", "sk-x\n", " sk-x "])
def test_line_ends_and_blanks_around_a_key_are_no_part_of_it(monkeypatch: pytest.MonkeyPatch, key: str):
    monkeypatch.setenv("A_KEY", key)
    assert read_key("A_KEY") == "sk-x"


@pytest.mark.parametrize(("header", "seconds"), [
    ("nan", 0), ("inf", 0), ("-3", 0), ("1e300", 60), ("2.5", 2.5), ("Wed, 21 Oct 2026 07:28:00 GMT", 0), ("", 0), (None, 0),
])  # fmt: skip
def test_retry_after_is_a_bounded_number_of_seconds(header: str | None, seconds: float):
    assert retry_after(header, 60.0) == seconds


def test_a_long_message_is_one_short_line():
    assert message_of(b"a\nb\t\xff " + b"c" * 9999, "key").startswith("a b \ufffd ccc")
    assert len(message_of(b"c" * 9999, "key")) == 500


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("all_proxy", "ftp://user:word@x"),
        ("HTTP_PROXY", "http://[::1"),
        ("no_proxy", "[::"),
        ("SSL_CERT_FILE", "/absent"),
    ],
)
def test_an_environment_without_a_usable_proxy_is_a_message_before_the_first_stage(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv(variable, value)
    cfg = Config()
    cfg.api.stages, cfg.api.url, cfg.api.model = ["judge"], "http://127.0.0.1:1/v1", "m"
    with pytest.raises(ConfigError, match=f"with the environment's .*{variable}") as caught:
        check_stage(judge.STAGE, cfg, 1)
    assert "word" not in str(caught.value)

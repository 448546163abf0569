"""What an OpenAI-compatible endpoint may send, and keys and addresses that cannot be used."""

import gzip
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

from tools.bench.inputs.case import ACCEPTED, COUNTED, Case, environment, guard, plan, settings

KEY = "sk-0123456789abcdef"
GOOD = {
    "choices": [{"message": {"content": "Yes."}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1},
}
Answer = Callable[[socket.socket], None]


def http(body: bytes, status: str = "200 OK", head: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{head}\r\n".encode("latin-1") + body


def said(**changes: Any) -> bytes:
    return http(json.dumps({**GOOD, **changes}).encode())


def choice(**changes: Any) -> bytes:
    return said(choices=[{**GOOD["choices"][0], **changes}])  # type: ignore[index]


def sends(data: bytes) -> Answer:
    return lambda connection: connection.sendall(data)


def trickles(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    for _ in range(1000):
        connection.sendall(b"{")
        time.sleep(0.1)


def endless(head: bytes, data: bytes) -> Answer:
    def answer(connection: socket.socket) -> None:
        connection.sendall(head)
        while True:
            connection.sendall(data)

    return answer


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
USAGE = {
    "inf": float("inf"),
    "nan": float("nan"),
    "text": "x",
    "negative": -1,
    "null": None,
    "huge": 10**30,
    "list": [1],
    "half": 0.5,
}
RAW: dict[str, Answer] = {
    "closes": lambda connection: None,
    "waits": lambda connection: time.sleep(60),
    "trickles": trickles,
    "garbage": sends(b"SSH-2.0-OpenSSH\r\n\r\n"),
    "status alone": sends(b"HTTP/1.1 200 OK\r\n"),
    "no status": sends(b"HTTP/1.1\r\n\r\n"),
    "odd status": sends(http(b"{}", "999 X")),
    "text status": sends(http(b"{}", "abc X")),
    "100 headers": sends(http(b"{}", head="X: y\r\n" * 1000)),
    "long header": sends(http(b"{}", head="X: " + "y" * 200_000 + "\r\n")),
    "header with NUL": sends(http(b"{}", head="X: a\0b\r\n")),
    "negative length": sends(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n{}"),
    "text length": sends(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n{}"),
    "two lengths": sends(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}"),
    "cut body": sends(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{}"),
    "cut chunk": sends(CHUNKED + b"ff\r\n{"),
    "bad chunk": sends(CHUNKED + b"zz\r\n{}\r\n0\r\n\r\n"),
    "endless chunk": endless(CHUNKED, b"10000\r\n" + b"x" * 65536 + b"\r\n"),
    "endless body": endless(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 65536),
    "endless head": endless(b"HTTP/1.1 200 OK\r\nX: ", b"y" * 65536),
    "empty": sends(http(b"")),
    "no JSON": sends(http(b"<html>")),
    "cut JSON": sends(http(b'{"choices": [')),
    "brackets": sends(http(b"[" * 100_000)),
    "digits": sends(http(b'{"usage": ' + b"1" * 5000 + b"}")),
    "binary": sends(http(bytes(range(256)))),
    "UTF-16": sends(http(json.dumps(GOOD).encode("utf-16"))),
    "list": sends(http(b"[]")),
    "null": sends(http(b"null")),
    "number": sends(http(b"7")),
    "gzip": sends(http(gzip.compress(json.dumps(GOOD).encode()), head="Content-Encoding: gzip\r\n")),
    "no gzip": sends(http(b"{}", head="Content-Encoding: gzip\r\n")),
    "unknown encoding": sends(http(b"{}", head="Content-Encoding: nonsense\r\n")),
    "no choices": sends(said(choices=[])),
    "choices null": sends(said(choices=None)),
    "choices text": sends(said(choices="x")),
    "choice null": sends(said(choices=[None])),
    "choice number": sends(said(choices=[7])),
    "no message": sends(said(choices=[{}])),
    "message null": sends(choice(message=None)),
    "message text": sends(choice(message="x")),
    "content list": sends(choice(message={"content": ["x"]})),
    "content number": sends(choice(message={"content": 7})),
    "content object": sends(choice(message={"content": {}})),
    "reason number": sends(choice(finish_reason=7)),
    "half a pair": sends(http(json.dumps(GOOD).replace("Yes.", "\\ud83d").encode())),
    "no usage": sends(http(json.dumps({"choices": GOOD["choices"]}).encode())),
    "usage null": sends(said(usage=None)),
    "usage text": sends(said(usage="x")),
    "usage list": sends(said(usage=[])),
    **{f"usage {k}": sends(said(usage={"prompt_tokens": v, "completion_tokens": 1})) for k, v in USAGE.items()},
    **{
        f"status {n}": sends(http(b'{"error": {"message": "no"}}', f"{n} X"))
        for n in (201, 204, 400, 401, 402, 403, 404, 405, 408, 409, 413, 418, 422, 429, 500, 501, 502, 503, 504, 529)
        if n > 204
    },
    **{
        f"redirect {n}": sends(http(b"", f"{n} X", "Location: http://127.0.0.1:1/x\r\n"))
        for n in (300, 301, 302, 303, 304, 307, 308)
    },
    **{
        f"error {name}": sends(http(body, "500 X"))
        for name, body in {
            "brackets": b"[" * 100_000,
            "null": b'{"error": null}',
            "binary": bytes(range(256)),
            "key": KEY.encode(),
            "long": b"x" * 2**20,
            "escapes": b"\x1b[31mred",
        }.items()
    },
    **{
        f"retry after {v}": sends(http(b"", "429 X", f"Retry-After: {v}\r\n"))
        for v in ("nan", "inf", "-1", "1_0", "1e400", "soon", "", "9" * 400, "0x10", "Wed, 21 Oct 2015 07:28:00 GMT")
    },
}
KEYS = {
    "absent": None,
    "empty": "",
    "blank": " \t",
    "line inside": "sk-a\nb",
    "return inside": "sk-a\rb",
    "blank inside": "sk-a b",
    "umlaut": "sk-\xfc",
    "escape": "sk-\x1b",
    "emoji": "sk-\U0001f600",
    "undecodable": "sk-\udcff",
    "no break space": "sk-a\xa0b",
}
ADDRESSES = (
    "x",
    "http://",
    "http:///v1",
    "ftp://x/v1",
    "http://x:99999/v1",
    "http://x:y/v1",
    "http://[::1/v1",
    "http://user:word@x/v1",
    "http://x y/v1",
    "http://x/v1?key=1",
    "http://x/v1#a",
    "//x/v1",
    "http:x",
    "javascript:x",
    "http://x:0/v1",
    "http://\\\\x",
    "HTTP//x",
)


def _served(answer: Answer) -> str:
    server = socket.create_server(("127.0.0.1", 0))

    def respond(connection: socket.socket) -> None:
        with suppress(OSError), connection:
            connection.recv(65536)
            answer(connection)

    def run() -> None:
        while True:
            connection, _ = server.accept()
            threading.Thread(target=respond, args=(connection,), daemon=True).start()

    threading.Thread(target=run, daemon=True).start()
    return f"http://127.0.0.1:{server.getsockname()[1]}/v1"


def _ask(answer: Answer) -> int:
    """Two requests to an endpoint that answers so. A failed item is counted by its reason."""
    from nemo_srlm.config.generation import ApiSection
    from nemo_srlm.generate.openai_engine import OpenAIEngine
    from nemo_srlm.generate.requests import Failure, Request

    section = ApiSection(stages=["judge"], url=_served(answer), model="m", workers=2, retries=1, timeout=1.0)
    requests = [Request(str(i), (), 1, i, 0.7, 0.9, 8, text="Is it so?") for i in range(2)]

    def work() -> None:
        found = list(OpenAIEngine(section, first_wait=0.01).stream(requests))
        print([outcome for _, outcome in found])
        if all(isinstance(outcome, Failure) for _, outcome in found):
            print(COUNTED, len(found))

    with environment(OPENAI_API_KEY=KEY):
        return guard(work)


def _key(key: str | None) -> int:
    """The key is looked at before the run begins."""
    import os

    os.environ.pop("OPENAI_API_KEY", None)
    with environment(**({} if key is None else {"OPENAI_API_KEY": key})):
        return plan(
            "api.stages=[select]",
            "api.url=http://127.0.0.1:1/v1",
            "api.model=m",
            "select.every=10",
            "world.split=dev",
            "select.stages=[dpo]",
            "world.split=test",
        )


def cases() -> Iterator[Case]:
    yield Case("endpoint", "good", partial(_ask, sends(said())), ACCEPTED)
    for name, answer in RAW.items():
        if not name.startswith("retry after"):
            yield Case("endpoint", name, partial(_ask, answer))
    for name, answer in RAW.items():
        if name.startswith("retry after"):
            yield Case("endpoint", name, partial(_ask, answer))
    yield Case("endpoint keys", "good", partial(_key, KEY), ACCEPTED)
    yield Case("endpoint keys", "good with a line end", partial(_key, KEY + "\r\n"), ACCEPTED)
    for name, key in KEYS.items():
        yield Case("endpoint keys", name, partial(_key, key))
    for address in ADDRESSES:
        yield Case(
            "endpoint addresses",
            address,
            partial(settings, "api.stages=[judge]", "api.model=m", f"api.url='{address}'"),
        )
    for words in (
        "api.stages=[judge]",
        "api.stages=[nonsense] api.url=http://x api.model=m",
        "api.stages=[judge] api.url=http://x",
        "api.key_variable='a b'",
        "api.key_variable=''",
        "api.key_variable=sk-abc",
        "api.stages=[judge] api.url=http://x/v1 api.model=m judge.method=expected",
    ):
        yield Case("endpoint addresses", words, partial(settings, *words.split()))

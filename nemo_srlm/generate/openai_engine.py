"""An OpenAI-compatible endpoint as a generation engine: chat completions over HTTP, with retries, back-off and usage.

For a fixed external prompt writer or an external judge (`api.stages`). The endpoint tokenizes by itself: a request's
`text` is sent as one user turn, after its `system` message if it has one. The key is read from the environment alone
and is in no record, log, message or manifest: the text of an HTTP library's exception is never kept, because it may
quote the header that carries the key.
"""

import asyncio
import json
import os
import random
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import httpx
import msgspec

from nemo_srlm.config.generation import ApiSection
from nemo_srlm.errors import ConfigError, EngineError, PassingError
from nemo_srlm.generate.endpoint_protocol import ChatCompletion, Choice, message_of, read_key, retry_after, without_key
from nemo_srlm.generate.requests import Completion, Failure, Outcome, Request, without_cut_character

RETRY_STATUS = (408, 409, 429, 500, 502, 503, 504, 529)  # HTTP status codes of temporary errors
REFUSES_ALL = {
    401: "check the key", 403: "check the key and its rights", 404: "check api.url and api.model",
}  # fmt: skip
FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0  # seconds; doubled at every retry, with random jitter
ENVIRONMENT = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE")
LARGEST_BODY = 32 * 2**20  # bytes; 64 draws of 8,000 tokens are about 3 MB


class _EndpointRefuses(Exception):
    """The endpoint refuses every request: wrong key, address or model."""


class _NoResponse(Exception):
    """No whole response came: nothing is known about the request, and another attempt may succeed."""


class OpenAIEngine:
    """See requests.Engine. Raises ConfigError when there is no usable key in the environment."""

    tokenizer = None  # the endpoint's own
    max_model_len = sys.maxsize  # the endpoint's own limit is unknown here
    ready = True

    def __init__(self, section: ApiSection, first_wait: float = FIRST_WAIT) -> None:
        self._section, self._first_wait = section, first_wait
        self._url = section.url.rstrip("/") + "/chat/completions"
        self._key = read_key(section.key_variable)
        self._counts: Counter[str] = Counter()

    def expect(self, lengths: Iterable[int]) -> None:
        """See Engine.expect. An endpoint needs no lengths."""

    def stream(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Outcome]]:
        """See Engine.stream: `api.workers` requests at a time.

        Raises EngineError when the endpoint refuses every request, and when requests had no response after all retries:
        these have no outcome, so that a stage that is run again asks for them again. As many of them in a row as there
        are workers end the stream at once, others at its end.
        """
        loop = asyncio.new_event_loop()
        client = http_client(self._section.workers, self._key)
        source = iter(requests)
        pending: dict[asyncio.Task[Outcome], Request] = {}
        unanswered, in_a_row, last = 0, 0, ""
        try:
            while in_a_row < self._section.workers:
                while len(pending) < self._section.workers and (request := next(source, None)) is not None:
                    pending[loop.create_task(self._ask(client, request))] = request
                if not pending:
                    break
                done, _ = loop.run_until_complete(asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED))
                for task in done:
                    request = pending.pop(task)
                    try:
                        outcome = task.result()
                    except _NoResponse as error:
                        unanswered, in_a_row, last = unanswered + 1, in_a_row + 1, str(error)
                        continue
                    except _EndpointRefuses as error:
                        raise EngineError(
                            self._section.url, str(error), remedy=f"see api.url, api.model, {self._section.key_variable}"
                        ) from None  # fmt: skip
                    in_a_row = 0
                    yield request, outcome
            if unanswered:
                raise PassingError(
                    self._section.url,
                    f"{unanswered} requests had no response after {self._section.retries} retries each; the last: {last}",
                    "a response to every request",
                    "what was answered is kept; the same command asks for the rest when the endpoint works again",
                )
        finally:
            loop.run_until_complete(_close(client, pending))
            loop.close()

    async def _ask(self, client: httpx.AsyncClient, request: Request) -> Outcome:
        """All n draws. An endpoint that returns fewer choices than requested is called again for the rest."""
        draws: list[Completion] = []
        while len(draws) < request.n:
            system = [{"role": "system", "content": request.system}] if request.system else []
            body: dict[str, Any] = {
                "model": self._section.model,
                "messages": [*system, {"role": "user", "content": request.text}],
                "n": request.n - len(draws),
                "seed": request.seed + len(draws),
                "temperature": request.temperature,
                "top_p": request.top_p,
                "max_tokens": request.max_tokens,
            }
            if request.stop:
                body["stop"] = list(request.stop)[:4]  # the protocol's maximum; the caller cuts at the others
            response = await self._post(client, json.dumps(body).encode())
            if isinstance(response, Failure):
                return response
            if not response.choices:
                return Failure("engine: a chat completion without choices")
            self._counts["completions"] += len(response.choices)
            self._counts["prompt_tokens"] += response.usage.prompt_tokens
            self._counts["completion_tokens"] += response.usage.completion_tokens
            draws += [_completion(choice, self._key) for choice in response.choices]
        return draws[: request.n]

    async def _post(self, client: httpx.AsyncClient, data: bytes) -> ChatCompletion | Failure:
        """The endpoint's response, or a Failure when it refuses this request. Raises _NoResponse after all retries."""
        reason = ""
        for attempt in range(self._section.retries + 1):
            self._counts["calls"] += 1
            self._counts["retries"] += attempt > 0
            after = 0.0
            try:
                async with asyncio.timeout(self._section.timeout):
                    status, headers, body = await self._send(client, data)
            except TimeoutError:
                reason = f"no whole response within {self._section.timeout:g} s"
            except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
                reason = f"the connection failed ({type(error).__name__})"
            except _NoResponse as error:
                reason = str(error)
            else:
                if 200 <= status < 300:
                    try:
                        return msgspec.json.decode(body, type=ChatCompletion)
                    except msgspec.ValidationError as error:  # names a place and a type, no content
                        return Failure(f"engine: not a chat completion ({error})")
                    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                        reason = f"HTTP {status} with a body of {len(body)} bytes that is not JSON"
                else:
                    reason = f"HTTP {status}: {message_of(body, self._key)}"
                    if 300 <= status < 400:
                        raise _EndpointRefuses(f"HTTP {status}, a redirect: the key is not sent to another address")
                    if status in REFUSES_ALL:
                        raise _EndpointRefuses(f"{reason}; {REFUSES_ALL[status]}")
                    if status not in RETRY_STATUS:
                        return Failure(f"refused: {reason}")
                    after = retry_after(headers.get("Retry-After"), LONGEST_WAIT)
            if attempt < self._section.retries:
                wait_for = min(self._first_wait * 2**attempt, LONGEST_WAIT)
                await asyncio.sleep(max(after, wait_for * random.uniform(0.5, 1.0)))
        raise _NoResponse(reason)

    async def _send(self, client: httpx.AsyncClient, data: bytes) -> tuple[int, httpx.Headers, bytes]:
        """(status, headers, body) of one call. The body is read as it was sent: none was asked to be compressed."""
        async with client.stream("POST", self._url, content=data) as response:
            if response.headers.get("Content-Encoding", "identity") != "identity":
                raise _NoResponse("a compressed body, which was not asked for")
            body = bytearray()
            async for part in response.aiter_raw():
                body += part
                if len(body) > LARGEST_BODY:
                    raise _NoResponse(f"a body of more than {LARGEST_BODY / 2**20:.0f} MiB")
            return response.status_code, response.headers, bytes(body)

    def usage(self) -> dict[str, float]:
        """Calls, retries, tokens and their cost (api.*_price per million tokens) since the last call."""
        found: dict[str, float] = dict(self._counts)
        self._counts.clear()
        prompt, completion = found.get("prompt_tokens", 0.0), found.get("completion_tokens", 0.0)
        cost = (prompt * self._section.prompt_price + completion * self._section.completion_price) / 1e6
        return found | {"cost": cost} if found else {}

    def close(self) -> None:
        pass


def check_endpoint(section: ApiSection) -> None:
    """Raises ConfigError when there is no usable key in the environment, or no client can be made there."""
    client = http_client(section.workers, read_key(section.key_variable))
    asyncio.run(client.aclose())


def http_client(workers: int, key: str) -> httpx.AsyncClient:
    """No redirect is followed: the key would go to the address that a response names.

    Raises ConfigError where the environment names a proxy or certificates that cannot be used: httpx reads both there.
    """
    headers = {"Authorization": f"Bearer {key}", "Accept-Encoding": "identity", "Content-Type": "application/json"}
    limits = httpx.Limits(max_connections=workers)
    try:
        return httpx.AsyncClient(follow_redirects=False, timeout=None, limits=limits, headers=headers)
    except (httpx.InvalidURL, ValueError, OSError, ImportError):  # its text may quote the password of a proxy
        found = sorted(name for name in os.environ if name.upper() in ENVIRONMENT)
        raise ConfigError(
            "api.url", f"no connection can be made with the environment's {', '.join(found)}",
            "an http:// or https:// proxy, and files that are there", "unset or correct them",
        ) from None  # fmt: skip


async def _close(client: httpx.AsyncClient, pending: Iterable[asyncio.Task[Outcome]]) -> None:
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    await client.aclose()


def _completion(choice: Choice, key: str) -> Completion:
    text = without_key(choice.message.content or "", key)
    reason = "length" if choice.finish_reason == "length" else "stop"
    return Completion(without_cut_character(text, reason), 0, reason)

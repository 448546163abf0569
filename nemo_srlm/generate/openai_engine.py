"""An OpenAI-compatible endpoint as a generation engine: chat completions over HTTP, with retries, back-off and usage.

For a fixed external prompt writer or an external judge (`api.stages`). The endpoint tokenizes by itself: a request's
`text` is sent as one user turn, after its `system` message if it has one. The key is read from the environment alone
and is in no record, log, message or manifest.
"""

import json
import os
import random
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

from nemo_srlm.config.generation import ApiSection
from nemo_srlm.errors import ConfigError, EngineError
from nemo_srlm.generate.requests import Completion, Failure, Outcome, Request

RETRY_STATUS = (408, 409, 429, 500, 502, 503, 504, 529)  # HTTP status codes of temporary errors
FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0  # seconds; doubled at every retry, with random jitter


class _EndpointRefuses(Exception):
    """The endpoint refuses every request: wrong key, address or model."""


class OpenAIEngine:
    """See requests.Engine. Raises ConfigError when the key is not in the environment."""

    tokenizer = None  # the endpoint's own
    max_model_len = sys.maxsize  # the endpoint's own limit is unknown here

    def __init__(self, section: ApiSection, first_wait: float = FIRST_WAIT) -> None:
        self._section, self._first_wait = section, first_wait
        if section.key_variable not in os.environ:
            raise ConfigError(
                "api.key_variable", f"{section.key_variable} is not in the environment", "the endpoint's key there",
                f"export {section.key_variable}=... (an endpoint without keys: any word)",
            )  # fmt: skip
        self._key = os.environ[section.key_variable]
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def expect(self, lengths: Iterable[int]) -> None:
        """See Engine.expect. An endpoint needs no lengths."""

    def stream(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Outcome]]:
        """See Engine.stream: `api.workers` requests at a time. Raises EngineError when it refuses every request."""
        source = iter(requests)
        pending: dict[Future[Outcome], Request] = {}
        pool = ThreadPoolExecutor(self._section.workers)
        try:
            while True:
                while len(pending) < self._section.workers and (request := next(source, None)) is not None:
                    pending[pool.submit(self._ask, request)] = request
                if not pending:
                    return
                for future in wait(pending, return_when=FIRST_COMPLETED).done:
                    try:
                        outcome = future.result()
                    except _EndpointRefuses as error:
                        raise EngineError(
                            self._section.url, str(error), remedy=f"check api.url, api.model and {self._section.key_variable}"
                        ) from None  # fmt: skip
                    yield pending.pop(future), outcome
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _ask(self, request: Request) -> Outcome:
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
            response = self._post(body)
            if isinstance(response, Failure):
                return response
            try:
                made = [self._completion(choice) for choice in response["choices"]]
                self._count(response["usage"], len(made))
            except (KeyError, TypeError) as error:
                return Failure(f"engine: not a chat completion ({error!r})")
            if not made:
                return Failure("engine: a chat completion without choices")
            draws += made
        return draws[: request.n]

    def _completion(self, choice: dict[str, Any]) -> Completion:
        reason = choice["finish_reason"]
        return Completion(choice["message"]["content"] or "", 0, "length" if reason == "length" else "stop")

    def _count(self, usage: dict[str, Any], choices: int) -> None:
        with self._lock:
            self._counts["completions"] += choices
            self._counts["prompt_tokens"] += int(usage["prompt_tokens"])
            self._counts["completion_tokens"] += int(usage["completion_tokens"])

    def _post(self, body: dict[str, Any]) -> dict[str, Any] | Failure:
        """The endpoint's response, or a Failure when it refuses this request or stays unreachable."""
        data, reason = json.dumps(body).encode(), ""
        for attempt in range(self._section.retries + 1):
            with self._lock:
                self._counts["calls"] += 1
                self._counts["retries"] += attempt > 0
            call = urllib.request.Request(
                self._section.url.rstrip("/") + "/chat/completions", data, method="POST",
                headers={"Content-Type": "application/json", "Authorization": f"Bearer {self._key}"},
            )  # fmt: skip
            after = 0.0
            try:
                with urllib.request.urlopen(call, timeout=self._section.timeout) as response:
                    found: dict[str, Any] = json.load(response)
                    return found
            except urllib.error.HTTPError as error:
                reason = self._clean(f"HTTP {error.code}: {error.read(500).decode(errors='replace')}")
                if error.code in (401, 403, 404):
                    raise _EndpointRefuses(reason) from None
                if error.code not in RETRY_STATUS:
                    return Failure(f"refused: {reason}")
                after = _seconds(error.headers["Retry-After"])
            except (OSError, ValueError) as error:  # no connection, a time-out, a response that is not JSON
                reason = self._clean(f"{type(error).__name__}: {error}")
            if attempt < self._section.retries:
                wait_for = min(self._first_wait * 2**attempt, LONGEST_WAIT)
                time.sleep(max(after, wait_for * random.uniform(0.5, 1.0)))
        return Failure(f"engine: no response after {self._section.retries} retries; the last: {reason}")

    def _clean(self, text: str) -> str:
        """Without the key, which an endpoint's message may repeat."""
        return " ".join(text.replace(self._key, "***").split())

    def usage(self) -> dict[str, float]:
        """Calls, retries, tokens and their cost (api.*_price per million tokens) since the last call."""
        with self._lock:
            found: dict[str, float] = dict(self._counts)
            self._counts.clear()
        prompt, completion = found.get("prompt_tokens", 0.0), found.get("completion_tokens", 0.0)
        cost = (prompt * self._section.prompt_price + completion * self._section.completion_price) / 1e6
        return found | {"cost": cost} if found else {}

    def close(self) -> None:
        pass


def _seconds(header: str | None) -> float:
    """Retry-After in seconds; 0 for a date or nothing (then our own back-off applies)."""
    try:
        return min(float(header or 0), LONGEST_WAIT)
    except ValueError:
        return 0.0

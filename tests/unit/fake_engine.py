"""A deterministic fake of the generation engine, for tests of the stages. Characters are tokens."""

import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from nemo_srlm.generate.requests import Completion, Failure, Outcome, Request


class Characters:
    """A tokenizer whose tokens are code points; 1 and 2 are the begin and end tokens."""

    begin_ids, eos_id, end_ids, vocab_size = (1,), 2, frozenset({2}), 0x110000
    directory, chat_template = Path("no-directory"), None

    def encode(self, text: str) -> list[int]:
        return [ord(c) for c in text]

    def guarded(self, text: str, mark: str) -> str:
        return text

    def encode_rendered(self, text: str, mark: str = "") -> list[int]:
        return self.encode(text)

    def decode(self, ids: list[int]) -> str:
        return "".join(chr(i) for i in ids)


class FakeEngine:
    """Completes each draw with `answer(text of the prompt, seed of the draw)`, in random order.

    `stop_after`: raises KeyboardInterrupt after this number of outcomes, to simulate a kill.
    """

    def __init__(self, answer: Callable[[str, int], str | Failure], stop_after: int | None = None) -> None:
        self.tokenizer = Characters()
        self.max_model_len, self.ready = 4096, True
        self.answer, self.left = answer, stop_after
        self.requests: list[Request] = []

    def expect(self, lengths: Iterable[int]) -> None:
        self.expected = max(lengths)

    def stream(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Outcome]]:
        todo = list(requests)
        random.shuffle(todo)
        for request in todo:
            if self.left is not None:
                if self.left == 0:
                    raise KeyboardInterrupt
                self.left -= 1
            self.requests.append(request)
            yield request, self._outcome(request)

    def _outcome(self, request: Request) -> Outcome:
        texts = [self.answer(request.text, request.seed + i) for i in range(request.n)]
        failed = [text for text in texts if isinstance(text, Failure)]
        if failed:
            return failed[0]
        return [
            Completion(text, len(text) + 1, "stop", tuple(map(ord, text))) for text in texts if isinstance(text, str)
        ]

    def usage(self) -> dict[str, float]:
        return {"restarts": 1.0}

    def close(self) -> None:
        pass

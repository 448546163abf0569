"""Text to token ids with loss weights: one user turn and its response in the chat format, or a weighted text.

Shape: L ids of a document.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nemo_srlm.config.generation import ChatSection
from nemo_srlm.data.tokenizer import Tokenizer
from nemo_srlm.errors import DataError

Ids = npt.NDArray[np.int32]
Weights = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Document:
    """One token sequence [L], and for each id the loss weight of predicting it (0 for the first: nothing predicts it)."""

    ids: Ids
    weights: Weights

    def __post_init__(self) -> None:
        assert len(self.ids) == len(self.weights) >= 2
        assert self.weights[0] == 0

    @property
    def num_inputs(self) -> int:
        """Number of ids that the model reads: all but the last, which is only predicted."""
        return len(self.ids) - 1


@dataclass(frozen=True)
class Chat:
    """The chat format of a run. Prompt and response are encoded separately, as in generation: no token spans both."""

    tokenizer: Tokenizer
    user_prefix: str
    user_suffix: str

    @classmethod
    def of(cls, tokenizer: Tokenizer, section: ChatSection) -> "Chat":
        return cls(tokenizer, section.user_prefix, section.user_suffix)

    def prompt_ids(self, prompt: str) -> list[int]:
        return [self.tokenizer.bos_id, *self.tokenizer.encode(f"{self.user_prefix}{prompt}{self.user_suffix}")]

    def response_ids(self, response: str) -> list[int]:
        return [*self.tokenizer.encode(response), self.tokenizer.eos_id]

    def document(self, prompt: str, response: str) -> Document:
        """Prompt and response as one document; the loss is on the response and its end token only."""
        before, after = self.prompt_ids(prompt), self.response_ids(response)
        weights = np.zeros(len(before) + len(after), np.float32)
        weights[len(before) :] = 1.0
        return Document(np.array(before + after, np.int32), weights)

    def conversation(self, messages: Sequence[Mapping[str, str]]) -> Document:
        """User and assistant turns ({"role", "content"}) as one document; the loss is on every assistant turn.

        Raises DataError for another role: prefix and suffix have no place for a system message.
        """
        ids, weights = [self.tokenizer.bos_id], [0.0]
        for message in messages:
            if message["role"] == "user":
                part = self.tokenizer.encode(f"{self.user_prefix}{message['content']}{self.user_suffix}")
            elif message["role"] == "assistant":
                part = self.response_ids(message["content"])
            else:
                raise DataError(
                    "messages", f"a {message['role']} message", "user and assistant: chat.user_prefix is for them"
                )
            ids += part
            weights += [float(message["role"] == "assistant")] * len(part)
        return Document(np.array(ids, np.int32), np.array(weights, np.float32))


def weighted_document(tokenizer: Tokenizer, segments: Sequence[tuple[str, float]]) -> Document:
    """A pretraining document: begin token, each (text, loss weight) encoded separately, end token with weight 1."""
    ids, weights = [tokenizer.bos_id], [0.0]
    for text, weight in segments:
        part = tokenizer.encode(text)
        ids += part
        weights += [weight] * len(part)
    ids.append(tokenizer.eos_id)
    weights.append(1.0)
    return Document(np.array(ids, np.int32), np.array(weights, np.float32))

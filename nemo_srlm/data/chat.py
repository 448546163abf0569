"""The chat format: one user turn and its response as token ids with loss weights."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nemo_srlm.config.generation import ChatSection
from nemo_srlm.data.tokenizer import Tokenizer

Ids = npt.NDArray[np.int32]


Weights = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Document:
    """ids_L and the loss weight of predicting each id (weights_L[0] is 0: nothing predicts the first)."""

    ids: Ids
    weights: Weights

    def __post_init__(self) -> None:
        assert len(self.ids) == len(self.weights) >= 2
        assert self.weights[0] == 0

    @property
    def num_inputs(self) -> int:
        """Positions that the model reads: the last id is only predicted."""
        return len(self.ids) - 1


@dataclass(frozen=True)
class Chat:
    """One user turn and its response as ids; prompt and response are encoded apart, as vLLM sees them."""

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
        """The loss is on the response and its end token only."""
        before, after = self.prompt_ids(prompt), self.response_ids(response)
        weights = np.zeros(len(before) + len(after), np.float32)
        weights[len(before) :] = 1.0
        return Document(np.array(before + after, np.int32), weights)


def weighted_document(tokenizer: Tokenizer, segments: Sequence[tuple[str, float]]) -> Document:
    """A pretraining document: begin token, segments encoded one by one with their loss weights, end token (weight 1)."""
    ids, weights = [tokenizer.bos_id], [0.0]
    for text, weight in segments:
        part = tokenizer.encode(text)
        ids += part
        weights += [weight] * len(part)
    ids.append(tokenizer.eos_id)
    weights.append(1.0)
    return Document(np.array(ids, np.int32), np.array(weights, np.float32))

"""Messages to token ids with loss weights, in the chat format of a model; and weighted texts.

Two formats (`chat.format`): the model's own Jinja template, or two strings around each user turn. Shape: L ids of a document.
"""

import functools
import itertools
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nemo_srlm.config.generation import ChatSection
from nemo_srlm.data.chat_template import ChatTemplate, Messages
from nemo_srlm.data.tokenizer import Tokenizer, unused_character
from nemo_srlm.errors import CheckpointError, DataError

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


class Chat(ABC):
    """The chat format of a model. What is trained and what a response is generated from are the same ids."""

    tokenizer: Tokenizer

    @staticmethod
    def of(tokenizer: Tokenizer, section: ChatSection) -> "Chat":
        """Raises CheckpointError when the model's own template is asked for and there is none."""
        if section.format == "strings":
            return StringChat(tokenizer, section.user_prefix, section.user_suffix)
        text = tokenizer.chat_template
        if text is None:
            raise CheckpointError(
                tokenizer.directory, "no chat template", "chat_template.jinja, as chat.format=model asks for",
                "set chat.format=strings",
            )  # fmt: skip
        arguments = section.arguments
        return TemplateChat(tokenizer, ChatTemplate(tokenizer.directory, text, tokenizer.special_tokens, arguments))

    @property
    @abstractmethod
    def end_ids(self) -> frozenset[int]:
        """Every token that ends a response."""

    @abstractmethod
    def next_turn_ids(self, messages: Messages) -> list[int]:
        """The ids after which the next response begins. Raises DataError for messages that the format cannot express."""

    @abstractmethod
    def conversation(self, messages: Messages) -> Document:
        """All turns as one document; the loss is on every response and its end token. Raises as `next_turn_ids`."""

    def conversations(self, messages: Messages) -> list[Document]:
        """`conversation`. Where the format writes earlier turns in another way as soon as others follow (Qwen3 without
        thinking): one document for each response, after what the model has read when it writes it."""
        return [self.conversation(messages)]

    @abstractmethod
    def continued_ids(self, text: str, start: str) -> list[int]:
        """The ids after which the model goes on with a text that is no chat: with `text` + `start`. A model that knows
        chats alone reads `text` as a user's message, and its response begins with `start`."""

    def prompt_ids(self, prompt: str) -> list[int]:
        """`next_turn_ids` of one user turn."""
        return self.next_turn_ids([user(prompt)])

    def document(self, prompt: str, response: str) -> Document:
        """`conversation` of one user turn and its response."""
        return self.conversation([user(prompt), assistant(response)])

    def scored(self, prompt: str, response: str, ended: bool) -> tuple[list[int], int]:
        """(the ids of prompt and response, where the response begins), for its log-probability; its end token if `ended`."""
        made = self.document(prompt, response)
        places = np.flatnonzero(made.weights)
        return made.ids[: places[-1] + ended].tolist(), int(places[0])


def model_end_ids(tokenizer: Tokenizer) -> frozenset[int]:
    """Every token that ends a response of the model that the tokenizer belongs to."""
    return Chat.of(tokenizer, ChatSection(format="model" if tokenizer.chat_template else "strings")).end_ids


class _RewrittenError(DataError):
    """A chat template renders the beginning of a conversation differently when more turns follow."""


def _responses(messages: Messages) -> list[int]:
    return [turn for turn, message in enumerate(messages) if message["role"] == "assistant"]


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


@dataclass(frozen=True)
class StringChat(Chat):
    """For models without a template: every user turn is a begin token and prefix + text + suffix, every response ends with
    the end token, as in Llama 2. Prompt and response are encoded separately: no token spans both."""

    tokenizer: Tokenizer
    user_prefix: str
    user_suffix: str

    @property
    def end_ids(self) -> frozenset[int]:
        return self.tokenizer.end_ids

    def next_turn_ids(self, messages: Messages) -> list[int]:
        return [i for message in messages for i in self._turn(message)]

    def _turn(self, message: Mapping[str, str]) -> list[int]:
        role, text = message["role"], message["content"]
        if role == "assistant":
            return [*self.tokenizer.encode(text), self.tokenizer.eos_id]
        if role != "user":
            raise DataError("chat.format=strings", f"a message of the role {role!r}", "user and assistant")
        mark = unused_character([text])
        turn = f"{self.user_prefix}{self.tokenizer.guarded(text, mark)}{self.user_suffix}"
        return [*self.tokenizer.begin_ids, *self.tokenizer.encode_rendered(turn, mark)]

    def continued_ids(self, text: str, start: str) -> list[int]:
        return [*self.tokenizer.begin_ids, *self.tokenizer.encode(text + start)]

    def conversation(self, messages: Messages) -> Document:
        roles = [message["role"] for message in messages]
        if roles[:1] != ["user"]:
            raise DataError("chat.format=strings", f"messages with the roles {roles}", "a user's message first")
        turns = [self._turn(message) for message in messages]
        weights = [float(role == "assistant") for role, turn in zip(roles, turns, strict=True) for _ in turn]
        return Document(np.array([i for turn in turns for i in turn], np.int32), np.array(weights, np.float32))


@dataclass(frozen=True)
class TemplateChat(Chat):
    """The model's own template. Its ids are those of transformers' apply_chat_template, except where a text holds what
    looks like a control token: that stays text."""

    tokenizer: Tokenizer
    template: ChatTemplate

    @functools.cached_property
    def _end_ids(self) -> frozenset[int]:
        turn = [user("a"), assistant("b")]
        start = len(self.next_turn_ids(turn[:1]))
        ids = self.tokenizer.encode_rendered(self.template.render(turn, False))
        ends = [i for i in ids[start:] if i in self.tokenizer.control_ids]
        return self.tokenizer.end_ids | set(ends[:1])

    @property
    def end_ids(self) -> frozenset[int]:
        """Those of the tokenizer, and the control token that the template puts after a response."""
        return self._end_ids

    def next_turn_ids(self, messages: Messages) -> list[int]:
        guarded, mark = self._guarded(messages)
        return self.tokenizer.encode_rendered(self.template.render(guarded, True), mark)

    def continued_ids(self, text: str, start: str) -> list[int]:
        return [*self.prompt_ids(text), *self.tokenizer.encode(start)]

    def conversation(self, messages: Messages) -> Document:
        return self._document(messages, _responses(messages))

    def conversations(self, messages: Messages) -> list[Document]:
        responses = _responses(messages)
        try:
            return [self._document(messages, responses)]
        except _RewrittenError:
            return [self._document(messages[: turn + 1], [turn]) for turn in responses]

    def _document(self, messages: Messages, trained: Sequence[int]) -> Document:
        """`trained`: the places of the messages that get the loss."""
        guarded, mark = self._guarded(messages)
        text = self.template.render(guarded, False)
        # what the model has read when it begins a response: the same ids as in generation
        befores = [self.template.render(guarded[:turn], True) for turn in trained]
        if not all(text.startswith(before) for before in befores):
            raise _RewrittenError(
                self.template.where, f"the chat template renders the first of {len(messages)} messages in another way when "
                "the others follow", "a template that only adds text, so that a response is trained where it is generated",
                "split the conversation, or set what the template needs in chat.arguments",
            )  # fmt: skip
        ids = self.tokenizer.encode_rendered(text, mark)
        before_ids = [self.tokenizer.encode_rendered(before, mark) for before in befores]
        if any(ids[: len(before)] != before for before in before_ids):
            # a response begins with a blank, and a token spans it and the end of the prompt: the mark keeps them apart
            cuts = [0, *map(len, befores), len(text)]
            pieces = [text[start:end] for start, end in itertools.pairwise(cuts)]
            ids = self.tokenizer.encode_rendered(mark.join(pieces), mark)
            parts = [mark.join(pieces[: turn + 1]) for turn in range(len(befores))]
            before_ids = [self.tokenizer.encode_rendered(part, mark) for part in parts]
            assert all(ids[: len(before)] == before for before in before_ids)
        weights = np.zeros(len(ids), np.float32)
        for start in map(len, before_ids):
            weights[start : self._end(ids, start) + 1] = 1.0
        return Document(np.array(ids, np.int32), weights)

    def _end(self, ids: Sequence[int], start: int) -> int:
        """The place of the first end token from `start` on. No text of a message holds one."""
        found = next((i for i in range(start, len(ids)) if ids[i] in self.end_ids), None)
        if found is None:
            raise CheckpointError(
                self.template.where, "a chat template that ends a response with no control token", "an end of turn"
            )
        return found

    def _guarded(self, messages: Messages) -> tuple[list[dict[str, str]], str]:
        """The messages with `mark` inside what looks like a control token, and the mark."""
        mark = unused_character(m["content"] for m in messages)
        return [{**m, "content": self.tokenizer.guarded(m["content"], mark)} for m in messages], mark


def weighted_document(tokenizer: Tokenizer, segments: Sequence[tuple[str, float]]) -> Document:
    """A pretraining document: begin token, each (text, loss weight) encoded separately, end token with weight 1."""
    ids, weights = list(tokenizer.begin_ids), [0.0] * len(tokenizer.begin_ids)
    for text, weight in segments:
        part = tokenizer.encode(text)
        ids += part
        weights += [weight] * len(part)
    ids.append(tokenizer.eos_id)
    weights.append(1.0)
    weights[0] = 0.0  # nothing predicts the first token of a tokenizer without a begin token
    return Document(np.array(ids, np.int32), np.array(weights, np.float32))

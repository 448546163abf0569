"""The tokenizer of a run, for training and generation: text to token ids and back. Knows the library `tokenizers` only.

Control tokens (`</s>`, `<|im_end|>`, ...) are what tokenizer.json marks as special. They come from templates and from this
class, never from a text of the data: there `</s>` is four characters.
"""

import functools
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from nemo_srlm.core.files import read_json
from nemo_srlm.data.chat_template import read_template
from nemo_srlm.errors import CheckpointError, DataError

_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class Tokenizer:
    """`tokenizer.json` of an HF model directory, with what the files beside it say of begin and end tokens.

    begin_ids: what comes before a text that no chat template begins: the begin token, or nothing where the tokenizer has
    none (Qwen) or says add_bos_token=false.
    eos_id: ends a text. end_ids: every token that ends a completion, those of generation_config.json included.
    special_tokens: {"bos_token": "<s>", ...}, as chat templates read them. chat_template: the model's own, None without.
    """

    def __init__(self, directory: Path | str) -> None:
        """Raises CheckpointError when a file is missing or malformed, or names no end token."""
        from tokenizers import Tokenizer as Core

        self.directory = Path(directory)
        path, config = self.directory / "tokenizer.json", self.directory / "tokenizer_config.json"
        if not path.is_file():
            raise CheckpointError(path, "no such file", "the tokenizer of an HF model directory")
        try:
            self._core = Core.from_file(str(path))
        except Exception as error:  # the library raises no type of its own
            raise CheckpointError(
                path, f"no tokenizer ({error})", "tokenizer.json of the library tokenizers", "fetch it again"
            ) from error
        settings = _object(config)
        if settings is None:
            raise CheckpointError(
                config, "no such file", "tokenizer_config.json with eos_token", "fetch the model's directory again"
            )
        self.chat_template = read_template(self.directory)
        self.special_tokens = _special_tokens(settings, _object(self.directory / "special_tokens_map.json") or {})
        self.bos_id = self._id("bos_token", config) if "bos_token" in self.special_tokens else None
        self.eos_id = self._id("eos_token", config)
        told_not_to = settings.get("add_bos_token") is False
        self.begin_ids = [] if self.bos_id is None or told_not_to else [self.bos_id]
        self.end_ids = frozenset({self.eos_id, *self._generation_ends()})
        self.vocab_size: int = self._core.get_vocab_size(with_added_tokens=True)
        added = self._core.get_added_tokens_decoder()
        self.control_ids = frozenset(i for i, token in added.items() if token.special)
        names = sorted((token.content for token in added.values() if token.special), key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, names)) or r"(?!)")

    def _id(self, key: str, config: Path) -> int:
        text = self.special_tokens.get(key)
        found = self._core.token_to_id(text) if text is not None else None
        if found is None:
            needed = "the token that ends a response" if key == "eos_token" else "a token"
            raise CheckpointError(
                config, f"{key} is {text!r}" if text is not None else f"no {key}", f"{needed}, one that tokenizer.json has",
                f'write "{key}": "..." into this file; generation_config.json and the model\'s card say which it is',
            )  # fmt: skip
        return int(found)

    def _generation_ends(self) -> list[int]:
        path = self.directory / "generation_config.json"
        stated = (_object(path) or {}).get("eos_token_id")
        ends = stated if isinstance(stated, list) else [] if stated is None else [stated]
        if not all(type(i) is int and i >= 0 for i in ends):
            raise CheckpointError(path, f"eos_token_id is {stated!r}", "a token id, or a list of them")
        return ends

    @functools.cached_property
    def _plain(self) -> Any:
        """The same tokenizer, for which control tokens are plain text."""
        from tokenizers import Tokenizer as Core

        plain = Core.from_file(str(self.directory / "tokenizer.json"))
        plain.encode_special_tokens = True
        return plain

    def encode(self, text: str) -> list[int]:
        """Ids of `text` alone: no begin or end token is added, and what looks like a control token is text."""
        core = self._plain if self._control.search(text) else self._core
        return list(core.encode(text, add_special_tokens=False).ids)

    def encode_rendered(self, text: str, mark: str = "") -> list[int]:
        """Ids of a rendered template: control tokens in it become their ids. `mark` (see `guarded`) becomes nothing."""
        found = self._core.encode(text, add_special_tokens=False)
        if not mark or mark not in text:
            return list(found.ids)
        return [i for i, (start, end) in zip(found.ids, found.offsets, strict=True) if text[start:end] != mark]

    def guarded(self, text: str, mark: str) -> str:
        """`text` with the character `mark` inside everything that looks like a control token, so that a template's text
        can hold it: `encode_rendered` finds no control token there, and drops the mark."""
        return self._control.sub(lambda found: found[0][:1] + mark + found[0][1:], text)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids` without control tokens."""
        return str(self._core.decode(list(ids), skip_special_tokens=True))


def unused_character(texts: Iterable[str]) -> str:
    """A character of the last private plane that is in none of `texts`: the mark of `Tokenizer.guarded`.

    The first byte of these characters is in no other text, so no tokenizer has learnt to merge it with a neighbour.
    """
    used = {c for text in texts for c in text if ord(c) > 0xFFFFF}
    return next(c for c in map(chr, range(0x10FFFF, 0xFFFFF, -1)) if c not in used)


def _object(path: Path) -> dict[str, Any] | None:
    """A JSON object; None when there is no such file."""
    if not os.path.lexists(path):
        return None
    try:
        data = read_json(path)
    except DataError as error:
        raise CheckpointError(path, error.found, "a JSON object", "fetch it again") from error
    if not isinstance(data, dict):
        raise CheckpointError(path, f"a JSON {type(data).__name__}", "a JSON object")
    return data


def _special_tokens(settings: dict[str, Any], older: dict[str, Any]) -> dict[str, str]:
    """The named tokens of tokenizer_config.json, and those that only special_tokens_map.json has."""
    found = {}
    for name in _NAMED:
        token = settings.get(name, older.get(name))
        text = token.get("content") if isinstance(token, dict) else token
        if isinstance(text, str):
            found[name] = text
    return found

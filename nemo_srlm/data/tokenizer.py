"""The tokenizer of a run, for training and generation: text to token ids and back. Knows the library `tokenizers` only."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nemo_srlm.errors import CheckpointError


class Tokenizer:
    """`tokenizer.json` of an HF model directory, with the begin and end tokens that `tokenizer_config.json` names."""

    def __init__(self, directory: Path | str) -> None:
        """Raises CheckpointError when a file is missing, or names no begin or end token."""
        from tokenizers import Tokenizer as Core

        self.directory = Path(directory)
        path = self.directory / "tokenizer.json"
        if not path.is_file():
            raise CheckpointError(path, "no such file", "the tokenizer of an HF model directory")
        self._core = Core.from_file(str(path))
        config = self.directory / "tokenizer_config.json"
        try:
            named = json.loads(config.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise CheckpointError(config, "no such file", "tokenizer_config.json with bos_token, eos_token") from error
        self.bos_id = self._special(named, "bos_token", config)
        self.eos_id = self._special(named, "eos_token", config)
        self.vocab_size: int = self._core.get_vocab_size(with_added_tokens=True)

    def _special(self, named: dict[str, Any], key: str, config: Path) -> int:
        token = named.get(key)
        text = token["content"] if isinstance(token, dict) else token
        found = self._core.token_to_id(text) if isinstance(text, str) else None
        if found is None:
            raise CheckpointError(config, f"{key} is {token!r}", "a token of tokenizer.json")
        return int(found)

    def encode(self, text: str) -> list[int]:
        """Ids of `text` alone: no begin or end token is added."""
        return list(self._core.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids` without special tokens."""
        return str(self._core.decode(list(ids), skip_special_tokens=True))

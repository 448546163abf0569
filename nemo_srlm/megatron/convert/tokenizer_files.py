"""Tokenizer files of an HF directory: copied as they are, plus the chat template that renders the project's chat format.

Pure Python: no torch, no transformers.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from nemo_srlm.config import ChatSection
from nemo_srlm.errors import CheckpointError

FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model",
    "vocab.json", "merges.txt",
)  # fmt: skip


def chat_template(chat: ChatSection) -> str:
    """Jinja: bos, then per user turn prefix + text + suffix, per assistant turn text + eos. Same text as `tokens.Chat`."""
    prefix, suffix = (json.dumps(text, ensure_ascii=False) for text in (chat.user_prefix, chat.user_suffix))
    return (
        "{{ bos_token }}{% for message in messages %}"
        "{% if message['role'] == 'user' %}{{ " + prefix + " + message['content'] + " + suffix + " }}"
        "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token }}"
        "{% else %}{{ raise_exception('this chat format has the roles user and assistant only') }}{% endif %}"
        "{% endfor %}"
    )


def copy_as_is(source: Path, out: Path) -> list[str]:
    """Copies the tokenizer files of `source` to `out`; returns their names. CheckpointError when there is none."""
    out.mkdir(parents=True, exist_ok=True)
    names = [name for name in FILES if (source / name).exists()]
    absent = {"tokenizer.json", "tokenizer_config.json"} - set(names)
    if absent:
        raise CheckpointError(
            source, f"no {' and no '.join(sorted(absent))}", "a directory with a fast tokenizer",
            "save it with transformers: AutoTokenizer.from_pretrained(dir).save_pretrained(dir)",
        )  # fmt: skip
    for name in names:
        shutil.copyfile(source / name, out / name)
    return names


def copy(source: Path, out: Path, vocab_size: int, chat: ChatSection | None) -> dict[str, int]:
    """Copies the files, adds the chat template, and returns bos_token_id, eos_token_id and pad_token_id where known.

    Raises CheckpointError when a token has an id beyond the model's vocabulary.
    """
    copy_as_is(source, out)
    ids = _token_ids(source / "tokenizer.json")
    beyond = {token: i for token, i in ids.items() if i >= vocab_size}
    if beyond:
        raise CheckpointError(source / "tokenizer.json", f"{len(beyond)} token(s) beyond the vocabulary, such as "
                              f"{next(iter(beyond.items()))}", f"ids below {vocab_size}",
                              "model.vocab_size and the tokenizer do not belong together")  # fmt: skip
    path = out / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    if chat is not None:
        settings["chat_template"] = chat_template(chat)
        (out / "chat_template.jinja").write_text(chat_template(chat), encoding="utf-8")  # transformers 5 reads this one
    path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    special = {}
    for name in ("bos_token", "eos_token", "pad_token"):
        token = settings.get(name)
        text = token["content"] if isinstance(token, dict) else token
        if text is not None and text not in ids:
            raise CheckpointError(path, f"{name} {text!r}", "a token of tokenizer.json")
        if text is not None:
            special[f"{name}_id"] = ids[text]
    return special


def _token_ids(path: Path) -> dict[str, int]:
    try:
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        vocab = data["model"]["vocab"]
        # a unigram vocabulary is a list of [piece, score] by id
        ids = dict(vocab) if isinstance(vocab, dict) else {piece: i for i, (piece, _) in enumerate(vocab)}
        return ids | {token["content"]: token["id"] for token in data["added_tokens"]}
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            path, f"not a tokenizer ({error!r})", "a tokenizer.json of the tokenizers library"
        ) from error

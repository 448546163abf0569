"""The files beside the weights of an HF directory: tokenizer, chat template, generation settings.

They are copied unchanged, unless the project's chat format is asked for: then its template replaces the copied one, and
the tokenizer's end token replaces the end tokens of the generation settings. No torch, no transformers.
"""

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

from nemo_srlm.config.generation import ChatSection
from nemo_srlm.convert.config_json import read_object
from nemo_srlm.errors import CheckpointError

FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model",
    "vocab.json", "merges.txt", "chat_template.jinja", "generation_config.json",
)  # fmt: skip
# what tokenizers treat differently: blanks, digits, capitals, quotes, accents, other scripts, marks of turns
_PROBE = "[INST]  It's 17.50 in 2024,\n\n  they'd SAID: Zürich, 東京 🙂\t<b>Why?</b> [/INST]\n"


def chat_template(chat: ChatSection, begin: bool, before_user: str = "", before_assistant: str = "") -> str:
    """Jinja for data.chat.StringChat: per user turn bos (if `begin`), prefix, text, suffix; per response text and eos."""
    prefix, suffix, response = (
        json.dumps(text, ensure_ascii=False)
        for text in (before_user + chat.user_prefix, chat.user_suffix, before_assistant)
    )
    return (
        "{% for message in messages %}"
        "{% if message['role'] == 'user' %}{{ " + ("bos_token + " if begin else "") + prefix + " + message['content'] + "
        + suffix + " }}"
        "{% elif message['role'] == 'assistant' %}{{ " + response + " + message['content'] + eos_token }}"
        "{% else %}{{ raise_exception('this chat format has the roles user and assistant only') }}{% endif %}"
        "{% endfor %}"
    )  # fmt: skip


def fitted_chat_template(directory: Path, chat: ChatSection, special: dict[str, str]) -> str:
    """The chat template whose text this directory's tokenizer encodes as the tokens that the trainer uses.

    The trainer encodes prompt and response separately, and sentencepiece puts a space before every text that it encodes.
    In the text of a whole chat some tokenizers need these spaces written out (Llama 2's after the begin token, all
    sentencepiece tokenizers before a response). Raises CheckpointError when no such template is found.
    """
    import jinja2

    from nemo_srlm.data.chat import StringChat, assistant, user
    from nemo_srlm.data.tokenizer import Tokenizer

    tokenizer = Tokenizer(directory)
    messages = [user("Why?"), assistant("For 2."), user("And you?"), assistant("So.")]
    wanted = StringChat(tokenizer, chat.user_prefix, chat.user_suffix).next_turn_ids(messages)
    for before_user, before_assistant in itertools.product(("", " "), repeat=2):
        template = chat_template(chat, bool(tokenizer.begin_ids), before_user, before_assistant)
        if tokenizer.encode_rendered(jinja2.Template(template).render(messages=messages, **special)) == wanted:
            return template
    raise CheckpointError(
        directory, "a tokenizer that encodes a whole chat differently from its parts",
        "a byte-level or sentencepiece tokenizer", "choose other chat.user_prefix, chat.user_suffix",
    )  # fmt: skip


def copy_unchanged(source: Path, out: Path) -> list[str]:
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


def copy_as_read(source: Path, out: Path) -> list[str]:
    """`copy_unchanged` for a model with a chat template; returns the names of the files that are not as in `source`.

    tokenizer.json: as transformers reads it. Version 5 builds the tokenizers of some classes anew (Llama 2's, without the
    blank after the begin token that the published file writes), and what vLLM and transformers read is what is to be trained.
    generation_config.json: with the end of turn that the template writes, where it was not among the end tokens.
    Raises CheckpointError when transformers cannot read the tokenizer, or the template ends a response with no control token.
    """
    from nemo_srlm.data.chat import Chat, model_end_ids
    from nemo_srlm.data.tokenizer import Tokenizer

    copy_unchanged(source, out)
    changed = []
    if _use_transformers_reading(source, out):
        changed.append("tokenizer.json")
    tokenizer = Tokenizer(out)
    Chat.of(tokenizer, ChatSection(format="model")).document("a", "b")  # its errors now, not at the first training
    if (ends := model_end_ids(tokenizer)) > tokenizer.end_ids:
        changed.append("generation_config.json")
        path = out / "generation_config.json"
        settings = (read_object(path) if path.exists() else {}) | {"eos_token_id": sorted(ends)}
        path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    return changed


def _use_transformers_reading(source: Path, out: Path) -> bool:
    """Replaces out/tokenizer.json where transformers tokenizes otherwise than it says."""
    from transformers import AutoTokenizer

    from nemo_srlm.data.tokenizer import Tokenizer

    try:
        theirs = AutoTokenizer.from_pretrained(source).backend_tokenizer
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(source, f"a tokenizer that transformers does not read ({error})", "a fast tokenizer",
                              "chat.format=strings does without it") from error  # fmt: skip
    ours = Tokenizer(out)
    probes = [_PROBE, *(f"{token}{_PROBE}{token} {_PROBE}" for token in ours.special_tokens.values())]
    if all(ours.encode_rendered(text) == theirs.encode(text, add_special_tokens=False).ids for text in probes):
        return False
    theirs.save(str(out / "tokenizer.json"))
    return True


def copy(source: Path, out: Path, vocab_size: int, chat: ChatSection | None) -> dict[str, int]:
    """Copies the files, adds the chat template, and returns bos_token_id, eos_token_id and pad_token_id where known.

    Raises CheckpointError when a token has an id beyond the model's vocabulary.
    """
    copy_unchanged(source, out)
    ids = _token_ids(source / "tokenizer.json")
    beyond = {token: i for token, i in ids.items() if i >= vocab_size}
    if beyond:
        raise CheckpointError(source / "tokenizer.json", f"{len(beyond)} token(s) beyond the vocabulary, such as "
                              f"{next(iter(beyond.items()))}", f"ids below {vocab_size}",
                              "model.vocab_size and the tokenizer do not belong together")  # fmt: skip
    path = out / "tokenizer_config.json"
    settings = read_object(path)
    named: dict[str, str] = {}
    for name in ("bos_token", "eos_token", "pad_token"):
        token = settings.get(name)
        text = token["content"] if isinstance(token, dict) else token
        if text is not None and text not in ids:
            raise CheckpointError(
                source / path.name,
                f"{name} {text!r}",
                "a token that tokenizer.json has",
                f"correct {name} in this file",
            )
        if text is not None:
            named[name] = text
    if chat is not None:
        settings["chat_template"] = fitted_chat_template(out, chat, named)
        path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        # transformers 5 reads this one
        (out / "chat_template.jinja").write_text(settings["chat_template"], encoding="utf-8")
    return {f"{name}_id": ids[text] for name, text in named.items()}


def generation_config(directory: Path, special: dict[str, int], chat: ChatSection | None) -> dict[str, Any]:
    """The settings that were copied to `directory`. With a `chat` format the tokenizer's special tokens replace theirs."""
    path = directory / "generation_config.json"
    copied = read_object(path) if path.exists() else {"_from_model_config": True}
    return special | copied if chat is None else copied | special


def _token_ids(path: Path) -> dict[str, int]:
    data = read_object(path)
    try:
        vocab = data["model"]["vocab"]
        # a unigram vocabulary is a list of [piece, score] by id
        ids = dict(vocab) if isinstance(vocab, dict) else {piece: i for i, (piece, _) in enumerate(vocab)}
        return ids | {token["content"]: token["id"] for token in data["added_tokens"]}
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            path, f"not a tokenizer ({error!r})", "a tokenizer.json of the tokenizers library"
        ) from error

"""Tokenizer directories and chat templates that are damaged; and texts that look like control tokens, which stay texts."""

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from tools.bench.inputs.case import ACCEPTED, Case, guard
from tools.bench.inputs.models import ODD, TEXTS, _bytes, _replace
from tools.bench.inputs.stores import copy as copied
from tools.bench.inputs.stores import store

FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)
CONFIGS: dict[str, dict[str, Any]] = {
    "no eos": {"eos_token": None},
    "eos is a number": {"eos_token": 5},
    "eos is unknown": {"eos_token": "nonsense"},
    "eos is a list": {"eos_token": ["</s>"]},
    "eos without content": {"eos_token": {}},
    "bos is unknown": {"bos_token": "nonsense"},
    "template is a number": {"chat_template": 3},
    "template is a list of texts": {"chat_template": ["x"]},
    "template without name": {"chat_template": [{"template": "x"}]},
    "template is a mapping": {"chat_template": {"a": "b"}},
}
TEMPLATES = {
    "syntax": "{% for %}",
    "open": "{{ messages",
    "no end": "{% for m in messages %}x",
    "unknown name": "{{ nonsense.x }}",
    "loop": "{% for i in range(10**9) %}x{% endfor %}",
    "recursion": "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
    "refuses": "{{ raise_exception('no') }}",
    "division": "{{ 1 / 0 }}",
    "index": "{{ messages[99].content }}",
    "attribute": "{{ messages.__class__.__mro__ }}",
    "import": "{% import 'os' as os %}",
    "include": "{% include '/etc/passwd' %}",
    "unknown filter": "{{ messages | nonsense }}",
    "no end token": "{% for m in messages %}{{ m.content }}{% endfor %}",
    "power": "{{ 9 ** (9 ** 9) }}",
    "memory": "{{ 'x' * 10**11 }}",
    "without the response": "{{ messages[0].content }}",
    "unknown test": "{% if messages is nonsense %}{% endif %}",
    "empty loop": "{% for m in messages %}{% endfor %}",
    "call": "{{ cycler.__init__.__globals__ }}",
}
MARKS = (
    "</s>",
    "<s>",
    "[INST]",
    "[/INST]",
    "<|im_end|>",
    "<|im_start|>",
    "<|eot_id|>",
    "<|start_header_id|>",
    "<|endoftext|>",
    "<unk>",
    "<<SYS>>",
    "<|end_of_text|>",
)
FAMILIES = ("llama_2_chat", "llama_3", "smollm2", "mistral", "qwen2_5", "qwen3")
FORMATS = ("model", "strings")


def use(directory: Path) -> None:
    """What training and generation do with a tokenizer."""
    from nemo_srlm.config.generation import ChatSection
    from nemo_srlm.data.chat import Chat
    from nemo_srlm.data.tokenizer import Tokenizer

    tokenizer = Tokenizer(directory)
    chat = Chat.of(tokenizer, ChatSection(format="model" if tokenizer.chat_template else "strings"))
    print(len(chat.prompt_ids("Hello!")), len(chat.document("Hello!", "Good day.").ids), chat.end_ids)


def _damaged(change: Callable[[Path], object]) -> int:
    directory = copied("whole")
    change(directory)
    return guard(lambda: use(directory))


def _settings(change: dict[str, Any]) -> Callable[[Path], None]:
    def edit(directory: Path) -> None:
        path = directory / "tokenizer_config.json"
        (directory / "chat_template.jinja").unlink()
        path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | change), encoding="utf-8")

    return edit


def _control(family: str, kind: str, mark: str) -> int:
    """0 when no id of a control token comes from a text with `mark` in it: in training, in generation, in plain text."""
    from nemo_srlm.config.generation import ChatSection
    from nemo_srlm.data.chat import Chat, assistant, user, weighted_document
    from nemo_srlm.data.tokenizer import Tokenizer

    tokenizer = Tokenizer(store() / "families" / family)
    chat = Chat.of(tokenizer, ChatSection(format=kind))
    text = f"a {mark} b{mark}"

    def controls(ids: Any) -> list[int]:
        return [i for i in map(int, ids) if i in tokenizer.control_ids]

    same = [
        (controls(chat.prompt_ids(text)), controls(chat.prompt_ids("a b"))),
        (controls(chat.document(text, text).ids), controls(chat.document("a b", "a b").ids)),
        (
            controls(chat.next_turn_ids([user(text), assistant(text), user(text)])),
            controls(chat.next_turn_ids([user("a"), assistant("b"), user("c")])),
        ),
        (controls(chat.continued_ids(text, "Task 1:")), controls(chat.continued_ids("a b", "Task 1:"))),
        (
            controls(weighted_document(tokenizer, [(text, 1.0)]).ids),
            controls(weighted_document(tokenizer, [("a b", 1.0)]).ids),
        ),
        (controls(tokenizer.encode(text)), []),
    ]
    return int(any(found != wanted for found, wanted in same))


def cases() -> Iterator[Case]:
    nothing: Callable[[Path], object] = lambda directory: None  # noqa: E731
    yield Case("tokenizers", "good", partial(_damaged, nothing), ACCEPTED)
    for file in FILES:
        for kind, data in TEXTS.items():
            if (file, kind) in HARMLESS:
                continue
            yield Case("tokenizers", f"{file}: {kind}", partial(_damaged, _bytes(file, data)))
        for kind in ODD:
            if kind == "absent" and file not in ("tokenizer.json", "tokenizer_config.json"):
                continue  # the other files may be absent
            yield Case("tokenizers", f"{file}: {kind}", partial(_damaged, _replace(file, kind)))
    for name, change in CONFIGS.items():
        yield Case("tokenizers", name, partial(_damaged, _settings(change)))
    for value in ("x", -1, 1.5, [None], {}, True):
        data = json.dumps({"eos_token_id": value}).encode()
        yield Case("tokenizers", f"generation eos {value}", partial(_damaged, _bytes("generation_config.json", data)))
    for name, text in TEMPLATES.items():
        yield Case("chat templates", name, partial(_damaged, _bytes("chat_template.jinja", text.encode())))
    for family in FAMILIES:
        for kind in FORMATS:
            for mark in MARKS:
                yield Case("control marks", f"{family} {kind} {mark}", partial(_control, family, kind, mark), ACCEPTED)


# an empty object is a generation_config.json that names no end token, and a special_tokens_map.json that names none
HARMLESS = {("generation_config.json", "empty object"), ("special_tokens_map.json", "empty object")}

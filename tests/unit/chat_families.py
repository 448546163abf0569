"""Small model directories that follow the published formats of six families: tokenizer files, chat template, end tokens.

The templates are those of the published instruct models without their parts for tools; the tokenizers have the kind
(sentencepiece-like or byte-level), the special tokens and the begin rule of the family, and a vocabulary trained here.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

CORPUS = [
    "What is the capital of France? The capital of France is Paris. Why? Because it's so, they'd said.",
    "def total(values):\n    return sum(x for x in values if x > 0)\n\nIt costs 17.50 in 2024, or 3 for 50.",
    "system user assistant You are a helpful assistant. Hello! How are you today? Fine, thanks.\n\nAnd you?",
    "Zürich liegt am See; Москва далеко; 東京は大きい。 <b>WHAT A DAY!</b> Score: 5 Today Date: 26 Jul 2024",
] * 3
SPLIT = (  # Llama 3's; Qwen splits digits one by one
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

LLAMA_2 = """\
{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}\
{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}\
{% set system_message = false %}{% endif %}{% for message in loop_messages %}\
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}\
{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}\
{% if loop.index0 == 0 and system_message != false %}\
{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}\
{% else %}{% set content = message['content'] %}{% endif %}\
{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}\
{% elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"""
LLAMA_3 = """\
{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{{- "Cutting Knowledge Date: December 2023\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
SMOLLM2 = """\
{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system
You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>
' }}{% endif %}{{'<|im_start|>' + message['role'] + '
' + message['content'] + '<|im_end|>' + '
'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant
' }}{% endif %}"""
MISTRAL = """\
{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if (message["role"] == "user") != (loop.index0 % 2 == 0) %}
        {{- raise_exception("After the optional system message, conversation roles must alternate user/assistant/...") }}
    {%- endif %}
    {%- if message["role"] == "user" %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"]|trim + eos_token}}
    {%- endif %}
{%- endfor %}
"""
QWEN_2_5 = """\
{%- if messages[0]['role'] == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
{%- else %}
    {{- '<|im_start|>system\\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant") %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
QWEN_3 = """\
{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set reasoning_content = '' %}
        {%- if '</think>' in content %}
            {%- set reasoning_content = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index and (loop.last or reasoning_content) %}
            {{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning_content.strip('\\n') }}
            {{- '\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""


def _trained(pre_tokenizer: Any, alphabet: list[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges of a BPE of about 150 merges."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizer
    size = len({c for text in CORPUS for c in text}) + 400
    core.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    )
    model = json.loads(core.to_str())["model"]
    return model["vocab"], [tuple(merge) for merge in model["merges"]]


def _bpe(first: list[str], trained: tuple[dict[str, int], list[tuple[str, str]]], **options: Any) -> models.BPE:
    """The tokens `first`, then the trained ones in their order."""
    vocab = {token: i for i, token in enumerate([*first, *sorted(trained[0], key=trained[0].__getitem__)])}
    return models.BPE(vocab, trained[1], **options)


def sentencepiece_like(prepend: str) -> Tokenizer:
    """As Llama 2's tokenizer.json (`prepend` always: a normalizer) or Mistral v0.3's (first: only before a whole text)."""
    bytes_ = [f"<0x{i:02X}>" for i in range(256)]
    trained = _trained(pre_tokenizers.Metaspace(prepend_scheme="always"), ["▁"])
    core = Tokenizer(
        _bpe(["<unk>", "<s>", "</s>", *bytes_], trained, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    if prepend == "always":
        core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return core


def byte_level(pre_tokenizer: Any, normalizer: Any = None) -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(_bpe([], _trained(pre_tokenizer, alphabet)))
    core.pre_tokenizer, core.decoder = pre_tokenizer, decoders.ByteLevel()
    if normalizer is not None:
        core.normalizer = normalizer
    return core


def split(digits: str) -> Any:
    """The pre-tokenizer of Llama 3 ({1,3} digits in a token) or Qwen (one: "")."""
    pattern = Regex(SPLIT.replace("{1,3}", digits))
    return pre_tokenizers.Sequence([pre_tokenizers.Split(pattern, "isolated"), _bytes(use_regex=False)])


def _bytes(use_regex: bool) -> Any:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)


def _digits() -> Any:
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(True), _bytes(use_regex=True)])


@dataclass(frozen=True)
class ChatFamily:
    """`ends`: the tokens that end a response; `begin`: what a chat begins with; `settings`: of tokenizer_config.json."""

    template: str
    tokenizer: Callable[[], Tokenizer]
    special: tuple[str, ...]
    settings: dict[str, Any]
    ends: tuple[str, ...]
    begin: str
    plain: tuple[str, ...] = field(default=())  # added tokens that are ordinary text, such as <think>

    def make(self, directory: Path) -> Path:
        """Writes the tokenizer files, the template and generation_config.json."""
        directory.mkdir(parents=True, exist_ok=True)
        core = self.tokenizer()
        core.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in self.special])
        core.add_tokens([AddedToken(text, normalized=False, special=False) for text in self.plain])
        if self.settings.get("bos_token") and core.post_processor is None and self.begin == self.settings["bos_token"]:
            begin = self.settings["bos_token"]
            core.post_processor = processors.TemplateProcessing(
                single=f"{begin} $A", special_tokens=[(begin, core.token_to_id(begin))]
            )
        core.save(str(directory / "tokenizer.json"))
        (directory / "tokenizer_config.json").write_text(json.dumps(self.settings))
        (directory / "chat_template.jinja").write_text(self.template)
        ends = [core.token_to_id(token) for token in self.ends]
        (directory / "generation_config.json").write_text(
            json.dumps({"eos_token_id": ends[0] if len(ends) == 1 else ends})
        )
        return directory


def _named(bos: str | None, eos: str, kind: str, **more: Any) -> dict[str, Any]:
    return {"bos_token": bos, "eos_token": eos, "pad_token": eos, "tokenizer_class": kind, **more}


IM = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
HEADERS = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
)
FAMILIES = {
    "llama_2_chat": ChatFamily(
        LLAMA_2, lambda: sentencepiece_like("always"), ("<unk>", "<s>", "</s>"),
        _named("<s>", "</s>", "LlamaTokenizer", unk_token="<unk>", add_bos_token=True, legacy=False), ("</s>",), "<s>",
    ),
    "llama_3": ChatFamily(
        LLAMA_3, lambda: byte_level(split("{1,3}")), HEADERS,
        _named("<|begin_of_text|>", "<|eot_id|>", "PreTrainedTokenizerFast"),
        ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"), "<|begin_of_text|>",
    ),
    "smollm2": ChatFamily(
        SMOLLM2, lambda: byte_level(_digits()), IM, _named("<|im_start|>", "<|im_end|>", "GPT2Tokenizer"), ("<|im_end|>",),
        "<|im_start|>",
    ),
    "mistral": ChatFamily(
        MISTRAL, lambda: sentencepiece_like("first"), ("<unk>", "<s>", "</s>", "[INST]", "[/INST]"),
        _named("<s>", "</s>", "LlamaTokenizer", unk_token="<unk>", add_bos_token=True, legacy=False), ("</s>",), "<s>",
    ),
    "qwen2_5": ChatFamily(
        QWEN_2_5, lambda: byte_level(split(""), normalizers.NFC()), IM,
        _named(None, "<|im_end|>", "Qwen2Tokenizer", add_bos_token=False), ("<|im_end|>", "<|endoftext|>"), "<|im_start|>",
    ),
    "qwen3": ChatFamily(
        QWEN_3, lambda: byte_level(split(""), normalizers.NFC()), IM,
        _named(None, "<|im_end|>", "Qwen2Tokenizer", add_bos_token=False), ("<|im_end|>", "<|endoftext|>"), "<|im_start|>",
        plain=("<think>", "</think>"),
    ),
}  # fmt: skip

"""The filters of written prompts that depend on the script of `seed.language`: their defaults, where a config states none."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from nemo_srlm.config.schema import Config

# rouge_score's words are a-z and 0-9 alone. Without blanks between words every character counts as one.
_WORDS = {"tokenization": "unicode", "ascii_start": False}
_CHARACTERS = {
    "zh": (6, 300),
    "ja": (8, 400),
    "th": (12, 600),
    "lo": (12, 600),
    "km": (12, 600),
    "my": (12, 600),
}  # (least, most)


def with_language(cfg: Config, stated: Mapping[str, Any]) -> Config:
    """The config with the filters of its language. `stated`: the settings that YAML files and overrides set."""
    language = cfg.seed.language.partition("-")[0].lower()
    if language == "en":
        return cfg
    values: dict[str, Any] = dict(_WORDS)
    if language in _CHARACTERS:
        values["min_words"], values["max_words"] = _CHARACTERS[language]
    own = stated.get("prompts") or {}
    return replace(
        cfg, prompts=replace(cfg.prompts, **{name: value for name, value in values.items() if name not in own})
    )

"""What a model directory says of itself, and how a config takes it: `import_hf.path` describes the model of a run.

Reading the directory is the business of convert/ (convert/describe.py): here only the two are put together.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from nemo_srlm.config.checks import check_lengths, refuse_unread_arguments
from nemo_srlm.config.fields import rules
from nemo_srlm.config.schema import Config
from nemo_srlm.config.training import ModelSection
from nemo_srlm.errors import ConfigError

GENERATING = ("prompts", "candidates", "judge", "eval")  # sections that say how long a completion may be
_NOT_OF_A_MODEL = "init_std"  # concerns random weights


@dataclass(frozen=True)
class Imported:
    """The architecture of an HF directory, and whether it has a chat template."""

    model: ModelSection
    has_chat_template: bool


# The path of a directory -> what it says; None where there is no such directory (the stage import_hf reports that).
Describe = Callable[[str], Imported | None]


def with_imported(cfg: Config, stated: Mapping[str, Any], found: Imported) -> Config:
    """The config with architecture, lengths and chat format of its imported model.

    `stated`: the settings that YAML files and overrides set, as nested mappings. Raises ConfigError where one of them
    contradicts the model.
    """
    model, chat = stated.get("model") or {}, stated.get("chat") or {}
    described = replace(
        cfg,
        model=_architecture(cfg, model, found.model),
        chat=_chat_format(cfg, chat, found.has_chat_template),
        **{name: _length(cfg, name, stated.get(name) or {}, found.model.max_length) for name in ("sft", "dpo")},
        **{name: _max_tokens(cfg, name, stated.get(name) or {}, found.model.max_length) for name in GENERATING},
    )
    check_lengths(described)
    return described


def _architecture(cfg: Config, stated: Mapping[str, Any], found: ModelSection) -> ModelSection:
    own = rules(ModelSection)
    described = [name for name in own if not own[name].execution and name != _NOT_OF_A_MODEL]
    values = {name: getattr(found, name) for name in described}
    for name in (name for name in described if name in stated):
        was, is_ = getattr(cfg.model, name), values[name]
        same = cfg.model.head_size == found.head_size if name == "head_dim" else was == is_
        if not same:
            raise ConfigError(
                f"model.{name}", f"{was}, but {cfg.import_hf.path} is a model with {is_}",
                "the architecture of import_hf.path, which describes itself: model.* is for models made from nothing",
                "leave model.* out (the setting '~model' removes what a config states), or choose another directory",
            )  # fmt: skip
        values[name] = was  # head_dim may be stated where it is 0 in the directory: fingerprints keep it
    return replace(cfg.model, **values)


def _chat_format(cfg: Config, stated: Mapping[str, Any], has_template: bool) -> Any:
    wanted = "model" if has_template else "strings"
    if cfg.chat.format != wanted and "format" in stated:
        if cfg.chat.format == "strings":
            refuse_unread_arguments(cfg)
            return cfg.chat
        raise ConfigError(
            "chat.format", f"model, but {cfg.import_hf.path} has no chat template", "strings",
            "set chat.format=strings with chat.user_prefix and chat.user_suffix, or add chat_template.jinja to the directory",
        )  # fmt: skip
    ignored = ("user_prefix", "user_suffix") if wanted == "model" else ("arguments",)
    for name in ignored:
        if name in stated:
            raise ConfigError(
                f"chat.{name}", f"set, but {cfg.import_hf.path} has {'a' if has_template else 'no'} chat template",
                f"nothing: chat.format={wanted} does not read it",
                f"leave chat.{name} out" + (", or set chat.format=strings, too" if has_template else ""),
            )  # fmt: skip
    return replace(cfg.chat, format=wanted)


def _length(cfg: Config, name: str, stated: Mapping[str, Any], positions: int) -> Any:
    section = getattr(cfg, name)
    if section.max_length <= positions:
        return section
    if "max_length" in stated:
        raise ConfigError(
            f"{name}.max_length", str(section.max_length), f"at most the {positions} positions of {cfg.import_hf.path}",
            f"lower {name}.max_length",
        )  # fmt: skip
    return dataclasses.replace(section, max_length=positions)


def _max_tokens(cfg: Config, name: str, stated: Mapping[str, Any], positions: int) -> Any:
    """A default that leaves no position for a prompt becomes a quarter of the positions: a judge reads instruction,
    response and its template. What is stated stays (the stages check it)."""
    section = getattr(cfg, name)
    if section.max_tokens < positions or "max_tokens" in stated:
        return section
    return dataclasses.replace(section, max_tokens=max(1, positions // 4))

"""A model's own chat template: Jinja, rendered in transformers' sandbox, as every other user of the model renders it.

The rendering is a function of the messages alone: a template that asks for today's date gets DATE, so that an example has
the same tokens in every process and on every day.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from nemo_srlm.config.text_files import text_file
from nemo_srlm.core.files import read_json
from nemo_srlm.errors import CheckpointError, DataError

Messages = Sequence[Mapping[str, str]]  # {"role": "user", "content": "..."}, as everywhere in this field
ROLES = ("system", "user", "assistant")
DATE = datetime(2024, 7, 26)  # what Llama 3's templates show where no date is given


def read_template(directory: Path) -> str | None:
    """The chat template of an HF directory; None when it has none.

    chat_template.jinja, else that of tokenizer_config.json, where it may be one of several: then the one named "default".
    """
    path = directory / "chat_template.jinja"
    try:
        if os.path.lexists(path):
            with text_file(path, "Jinja text in UTF-8") as file:
                text = file.read()
            if not text.strip():
                raise CheckpointError(
                    path, "an empty chat template", "Jinja text", "fetch it again, or remove the file"
                )
            return text
        path = directory / "tokenizer_config.json"
        stated = read_json(path).get("chat_template") if os.path.lexists(path) else None
        if isinstance(stated, list):
            stated = {entry["name"]: entry["template"] for entry in stated}.get("default")
    except DataError as error:
        raise CheckpointError(path, f"no chat template can be read: {error.found}", "Jinja text") from error
    except (AttributeError, KeyError, TypeError) as error:
        raise CheckpointError(path, f"no chat template can be read ({error!r})", "Jinja text") from error
    if stated is not None and not isinstance(stated, str):
        raise CheckpointError(path, f"chat_template is a {type(stated).__name__}", "Jinja text")
    return stated or None


@dataclass(frozen=True)
class ChatTemplate:
    """A template's text, the named tokens that it may write, and further arguments (enable_thinking, ...)."""

    where: Path
    text: str
    special_tokens: Mapping[str, str]
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def render(self, messages: Messages, generation: bool) -> str:
        """The text of the messages; with `generation`, up to where the next response begins.

        Raises DataError when a role is unknown, or the template refuses the messages or goes beyond its limits;
        CheckpointError when it is no Jinja.
        """
        from jinja2 import TemplateError, TemplateSyntaxError

        from nemo_srlm.data.template_limits import compiled, limited_time

        roles = [message["role"] for message in messages]
        if unknown := set(roles) - set(ROLES):
            raise DataError(self.where, f"messages with the role(s) {sorted(unknown)}", f"roles {', '.join(ROLES)}")
        given = {**self.special_tokens, "strftime_now": DATE.strftime, **self.arguments}
        try:
            with limited_time():
                return compiled(self.text).render(
                    messages=[dict(message) for message in messages], tools=None, documents=None,
                    add_generation_prompt=generation, **given,
                )  # fmt: skip
        except TemplateSyntaxError as error:
            raise CheckpointError(
                self.where, f"a chat template that is no Jinja ({error})", "a chat template"
            ) from error
        except (
            TemplateError,
            TypeError,
            ValueError,
            LookupError,
            ArithmeticError,
            RecursionError,
            MemoryError,
        ) as error:
            raise DataError(
                self.where, f"the chat template refuses messages with the roles {roles}: {error}",
                "messages that it can render", "see the model's template: some take no system message, or turns by turns",
            ) from error  # fmt: skip

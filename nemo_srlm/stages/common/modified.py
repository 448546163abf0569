"""The record of a modified instruction, which self-taught judge pairs are made with."""

from dataclasses import dataclass

from nemo_srlm.core.records import Record

OUTPUT = "modified.jsonl"


@dataclass(frozen=True)
class ModifiedPrompt(Record):
    """Another instruction in the place of a prompt. id = the prompt's id. `error`: why there is none; then `text` is empty."""

    text: str
    error: str = ""

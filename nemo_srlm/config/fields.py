"""What sections of the config are made of: execution fields, and the settings of sampling."""

from dataclasses import dataclass, field
from typing import Any


def execution(default: Any) -> Any:
    """A field that is execution, not identity: it never enters a fingerprint."""
    if isinstance(default, (list, dict)):
        return field(default_factory=default.copy, metadata={"execution": True})
    return field(default=default, metadata={"execution": True})


@dataclass
class SamplingSection:
    temperature: float = 0.7
    top_p: float = 0.9
    max_tokens: int = 1024

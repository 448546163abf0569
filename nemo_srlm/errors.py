"""The user's mistakes: one exception class per kind, one message with place, found, expected and remedy.

The command line prints the message without a traceback and exits with 2. Our own broken invariants are `assert`s.
"""


class UserError(ValueError):
    """Something the user can mend. `where` names the file, line or config field."""

    def __init__(self, where: object, found: str, expected: str = "", remedy: str = "") -> None:
        self.where, self.found, self.expected, self.remedy = str(where), found, expected, remedy
        parts = [f"{self.where}: {found}"]
        if expected:
            parts.append(f"expected {expected}")
        if remedy:
            parts.append(remedy)
        super().__init__("; ".join(parts))


class ConfigError(UserError):
    """A setting that is unknown, of the wrong type, or that contradicts another."""


class DataError(UserError):
    """An input file that is missing, empty, cut short or malformed."""


class StaleError(UserError):
    """A finished stage was made under other settings or inputs than the ones asked for now."""


class CheckpointError(UserError):
    """A model directory or checkpoint that cannot be read, or does not fit the config."""


class EngineError(UserError):
    """The generation engine could not be started or stopped answering."""

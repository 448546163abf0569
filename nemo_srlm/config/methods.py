"""The config sections of methods that came after the paper: a user's own checker of responses."""

from dataclasses import dataclass

from nemo_srlm.config.fields import MAX_PROCESSES, MAX_SHARDS, number, setting

FUNCTION, FUNCTION_WORDS = r"(.+\.py:[A-Za-z_][A-Za-z0-9_]*)?", 'FILE.py:FUNCTION, or ""'


@dataclass
class CheckerSection:
    """pairs.score=checker: a Python function or a program of the user's gives every candidate its score."""

    function: str = setting(
        "", "FILE.py:FUNCTION, called as FUNCTION(prompt, response) in threads of the stage's process; returns a finite number, "
        "the higher the better, or None for no score. The file's digest is part of the fingerprint",
        pattern=FUNCTION, allowed=FUNCTION_WORDS,
    )  # fmt: skip
    command: list[str] = setting(
        [], 'a program and its arguments in the place of the function: reads {"prompt": ..., "response": ...} as JSON on stdin, '
        "prints the score as its last line, or `null` for none. The digests of files among the words are part of the "
        "fingerprint", free=True,
    )  # fmt: skip
    max_score: float = number(
        1.0, "the scale: pairs.rho is a share of it, and pairs.weight=margin divides by it", above=0
    )
    workers: int = number(
        4, "candidates that are checked at the same time", at_least=1, at_most=MAX_PROCESSES, execution=True
    )
    timeout: float = number(
        60.0, "seconds per candidate, after which the command is killed and the candidate has no score. A function is not "
        "interrupted: code that may hang belongs into a command", above=0,
    )  # fmt: skip
    shards: int = number(1, at_least=1, at_most=MAX_SHARDS, execution=True)

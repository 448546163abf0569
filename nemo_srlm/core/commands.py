"""Commands of ours in messages, to be copied: each is about the run that the message is about."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from nemo_srlm.config.compose import RESOLVED_CONFIG


def about(verb: str, run_dir: Path, *words: str) -> str:
    """A command that takes a run's directory (status, cancel, redo, ...)."""
    return shlex.join(["nemo-srlm", verb, *words, str(run_dir)])


def composed(verb: str, run_dir: Path, *words: str, settings: Sequence[str] = ()) -> str:
    """A command that takes a config (run, stage, submit). `settings`: the user's words for it; without them those of the run's
    own config, once it was started."""
    started = (run_dir / RESOLVED_CONFIG).exists()
    own = ["--config-dir", str(run_dir), "--config-name", Path(RESOLVED_CONFIG).stem] if started else []
    return shlex.join(["nemo-srlm", verb, *words, *(settings or own)])

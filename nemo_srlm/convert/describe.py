"""What an HF directory says of its model, for the config of a run that imports it (config/imported.py). No torch."""

from pathlib import Path

from nemo_srlm.config.imported import Imported
from nemo_srlm.convert import hf_config
from nemo_srlm.data.chat_template import read_template


def describe(path: str) -> Imported | None:
    """Architecture and chat template of the directory; None when there is none at `path`. Raises CheckpointError."""
    directory = Path(path)
    if not directory.is_dir():
        return None
    return Imported(hf_config.read(directory).model, read_template(directory) is not None)

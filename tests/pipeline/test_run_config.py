"""A training rank trains with the config that NeMo's hydra_runner hands over, checked against the schema; NeMo is asked once."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow
# `multiply` is a resolver that NeMo registers: plain OmegaConf cannot read the first file.
CONFIGS = {
    "handed_over": "run: {arm: given}\ndpo: {beta: '${multiply:2,0.1}'}\n",
    "wrong": "dpo: {beta: -1.0}\n",
}
PROGRAM = """
import json, sys
from pathlib import Path
from nemo_srlm.errors import ConfigError
from nemo_srlm.train.megatron.quiet import quiet
from nemo_srlm.launch.run_config import run_config
quiet()
folder, names, found = Path(sys.argv[1]), sys.argv[2:], {}
for name in names:
    try:
        before = list(sys.argv)
        cfg = run_config(folder / name)
        assert sys.argv == before
        found[name] = [cfg.dpo.beta, cfg.run.arm, cfg.candidates.num]
    except ConfigError as error:
        found[name] = str(error)
        assert sys.argv == before
(folder / "found.json").write_text(json.dumps({"found": found, "nemo": "nemo" in sys.modules}))
"""


def asked(folder: Path, *names: str) -> tuple[dict[str, Any], bool]:
    """(what a new process is handed over for the configs, whether it imported NeMo)."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-c", PROGRAM, str(folder), *names]
    done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    answer = json.loads((folder / "found.json").read_text(encoding="utf-8"))
    return answer["found"], answer["nemo"]


def test_a_rank_gets_what_hydra_runner_hands_over_and_a_wrong_setting_is_named(tmp_path: Path):
    for name, text in CONFIGS.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(text, encoding="utf-8")
    found, imported = asked(tmp_path, *CONFIGS)
    assert imported
    assert found["handed_over"] == [0.2, "external", 4]
    assert "dpo.beta: -1.0; expected a finite number, more than 0" in found["wrong"]

    assert not (tmp_path / "wrong" / "config.nemo.yaml").exists()
    again, imported = asked(tmp_path, "handed_over")  # the next training reads the answer
    assert again["handed_over"] == found["handed_over"]
    assert not imported

    changed = CONFIGS["handed_over"].replace("0.1", "0.2")
    (tmp_path / "handed_over" / "config.yaml").write_text(changed, encoding="utf-8")
    found, imported = asked(tmp_path, "handed_over")
    assert imported
    assert found["handed_over"][0] == 0.4

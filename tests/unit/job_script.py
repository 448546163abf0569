"""The real job script slurm/stage.sh of job 8 on node1, with scripts in the place of Slurm's commands. Needs no Slurm."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from nemo_srlm.config.cluster import ClusterSection
from nemo_srlm.config.schema import Config
from nemo_srlm.config.shipped import SLURM
from nemo_srlm.core.stage import Ref
from nemo_srlm.launch.slurm import sbatch
from nemo_srlm.launch.slurm.jobs import Job
from nemo_srlm.launch.slurm.lease import EXPIRES

JUDGE = Job("iter1-judge", "work", (Ref("judge", 1),), "generate", (), 1, ())
SRUN = """#!/bin/bash
echo new >>"$EVENTS"
printf '%s\\tdone\\t\\n' "$NEMO_SRLM_ATTEMPT" >"$JOB_DIR/outcome-0-0"
"""


def started(
    tmp_path: Path,
    site: ClusterSection | None = None,
    lease: int = EXPIRES,
    variables: Mapping[str, str] = {},
    folder: str = "job",
    **commands: str,
) -> "subprocess.Popen[str]":
    """The running script. `commands`: in the place of srun, scontrol and so on; they find its folder as $JOB_DIR."""
    job_dir, bin_dir = tmp_path / folder, tmp_path / "bin"
    job_dir.mkdir(exist_ok=True)
    bin_dir.mkdir()
    for name, text in ({"srun": SRUN, "scontrol": "#!/bin/bash\necho node1\n"} | commands).items():
        (bin_dir / name).write_text(text)
        (bin_dir / name).chmod(0o755)
    made = sbatch.shell(Config(cluster=site or ClusterSection()), tmp_path, JUDGE, tmp_path)
    assert f"\nLEASE={EXPIRES}\n" in made
    (job_dir / "job.env").write_text(made.replace(f"LEASE={EXPIRES}", f"LEASE={lease}"))
    env = {
        "PATH": f"{bin_dir}:{os.environ['PATH']}", "SLURM_JOB_ID": "8", "SLURM_JOB_NODELIST": "node1",
        "SLURMD_NODENAME": "node1", "SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_PARTITION": "main",
        "EVENTS": str(tmp_path / "events"), "JOB_DIR": str(job_dir), **variables,
    }  # fmt: skip
    command = ["bash", str(SLURM / "stage.sh"), str(job_dir), "work"]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def attempts(job_dir: Path) -> list[tuple[str, str]]:
    """(how it ended, detail) of every line."""
    rows = [line.split("\t") for line in (job_dir / "attempts-0.tsv").read_text().splitlines()]
    return [(row[3], row[4]) for row in rows]

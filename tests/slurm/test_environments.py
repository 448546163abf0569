"""The interpreter of a job: in a container, and one that cannot run the package."""

import sys
from pathlib import Path

from tests.slurm.conftest import ROOT, Run

# Apptainer is not in Debian. The stand-in takes the same words, writes them down and starts what stands behind the image.
APPTAINER = """#!/bin/bash
printf '%s\\n' "$PYTHONNOUSERSITE" "$PWD" "$@" > "$(dirname "$0")/words"
while [ "${1:-}" != "$TOY_IMAGE" ]; do shift; done
shift
exec "$@"
"""
OLD = f"""#!/bin/bash
exec {sys.executable} -S -c 'import sys; sys.version_info = (3, 9, 18); import nemo_srlm'
"""


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def test_a_job_runs_inside_apptainer(run: Run, tmp_path: Path):
    folder = script(tmp_path / "bin/apptainer", APPTAINER).parent
    image = script(tmp_path / "toy.sif", "")
    run.env |= {"TOY_STAGES": "1", "TOY_IMAGE": str(image), "PATH": f"{folder}:{run.cluster.env['PATH']}"}
    run.submit("cluster.container=apptainer", f"cluster.image={image}", f"cluster.mounts=[{tmp_path}:/data]")
    run.wait()
    run.assert_whole()
    site, place, verb, bind, mounts, started, python, *_ = (folder / "words").read_text().splitlines()
    assert (site, verb, bind, started, python) == ("1", "exec", "--bind", str(image), sys.executable)
    assert Path(place).parent == run.dir / "slurm/code"  # a copy of the code, which `git pull` does not change
    assert mounts == f"{tmp_path}:/data,{ROOT}:{ROOT},{run.dir}:{run.dir}"


def test_an_interpreter_that_cannot_run_the_package_ends_the_job_at_once_and_status_says_so(run: Run, tmp_path: Path):
    python = script(tmp_path / "bin/python", OLD)
    run.env |= {"TOY_STAGES": "2"}
    run.submit(f"cluster.python={python}", "cluster.retries=3")
    found = run.wait()
    assert found["iter0/seed"]["state"] == "failed"
    assert f"{python} cannot run nemo_srlm on this node" in found["iter0/seed"]["words"]
    assert run.ends("iter0-seed") == ["start", "user"]  # trying again changes nothing
    log = next((run.dir / "slurm/iter0-seed").glob("log-*.txt")).read_text()
    assert "Python 3.9.18; expected 3.11 or later" in log
    assert found["iter0/grow"]["state"] == "cancelled"


def test_site_scripts_may_read_unset_variables_and_a_command_of_setup_that_fails_is_named(run: Run):
    run.env |= {"TOY_STAGES": "2"}
    fine, bad = "at_site() { echo at $NOT_SET; }; at_site", "activate /envs/llm"
    run.submit(f'cluster.setup=["{fine}"]', f'cluster.train.modules=["{bad}"]', "cluster.max_replans=3")
    found = run.wait()
    assert found["iter0/seed"]["state"] == "done"
    assert found["iter0/grow"]["state"] == "failed"
    assert (
        "`module load 'activate /envs/llm'` of the site's modules or setup ended with exit code 127"
        in found["iter0/grow"]["words"]
    )
    assert run.ends("iter0-grow") == ["failed"]


def test_the_nodes_of_each_kind_of_stage_are_checked_once_before_its_first_job(run: Run, tmp_path: Path):
    run.env |= {"TOY_STAGES": "3"}
    python = script(tmp_path / "bin/python", OLD)
    bad = f"cluster.generate.python={python}"
    run.submit("cluster.check_nodes=true", bad)
    found = run.wait()
    assert found["iter0/grow"]["state"] == "done"
    assert found["iter1/square"]["state"] == "cancelled"
    assert "because check-generate failed" in found["iter1/square"]["words"]
    assert f"check-generate: {python} cannot run nemo_srlm on this node" in found["notes"][0]
    assert "check-generate" in run.cli("plan", *run.words(("cluster.check_nodes=true",)))
    run.submit("cluster.check_nodes=true")
    run.wait()
    run.assert_whole()
    assert [a[3] for a in run.attempts("check-train")] == ["start", "done"]  # once
    assert (run.dir / "slurm/check-generate/passed").exists()

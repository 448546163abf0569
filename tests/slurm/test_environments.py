"""The interpreter of a job: in a container, and one that cannot run the package."""

import sys
from pathlib import Path

from tests.slurm.conftest import Run

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
    assert mounts == f"{tmp_path}:/data,{place}:{place},{run.dir}:{run.dir}"


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

"""The job script at sites as they are: signals, commands that do not answer, odd setups, full disks. Needs no Slurm."""

from pathlib import Path

import pytest

from nemo_srlm.config.cluster import ClusterSection
from tests.unit.job_script import SRUN, attempts, started

INSTANTLY = "#!/bin/bash\n"  # in the place of sleep
CRASHES = "#!/bin/bash\nexit 137\n"
SCONTROL = """#!/bin/bash
echo "$*" >>"$EVENTS"
case $1 in
    show) echo "${HOSTS:-node1}" | tr ' ' '\\n' ;;
    requeue) echo 'Requested operation is presently disabled' >&2; exit 1 ;;
    -o) echo "JobId=8 JobState=${STATE:-RUNNING} Reason=None Requeue=1 Restarts=0 BatchFlag=1" ;;
esac
"""
NODES = {"HOSTS": "node1 node2", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_JOB_NUM_NODES": "2"}


def ended(tmp_path: Path, code: int, *args: object, folder: str = "job", **more: object) -> list[tuple[str, str]]:
    """The attempts of a script that ends with this code."""
    commands = {"scontrol": SCONTROL, "sleep": INSTANTLY} | more
    script = started(tmp_path, *args, folder=folder, **commands)  # type: ignore[arg-type]
    said, _ = script.communicate(timeout=600)
    assert script.returncode == code, said
    return attempts(tmp_path / folder)


# --- what a site does before the work -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["true", "exit 3"], "`exit 3` of the site's modules or setup ended with exit code 3"),
        (["set -e", "false"], "`false` of the site's modules or setup ended with exit code 1"),
        (
            ["no-such-command x"],
            "exit code 127 (a job script does not know it: source what defines it in cluster.setup",
        ),
    ],
)
def test_a_line_of_setup_that_fails_or_leaves_is_named(tmp_path: Path, lines: list[str], said: str):
    ((word, detail),) = ended(tmp_path, 1, ClusterSection(setup=lines))
    assert word == "failed"
    assert said in detail


def test_what_setup_sets_in_the_shell_ends_with_it(tmp_path: Path):
    found = ended(tmp_path, 0, ClusterSection(setup=["set -euo pipefail", "set +u", "at_site=$NOT_SET"]), srun=SRUN)
    assert [word for word, _ in found] == ["start", "done"]


def test_a_command_of_setup_that_slurms_signal_ends_is_no_failure(tmp_path: Path):
    """Slurm signals all processes of a job that it ends or requeues, and kills them when they do not end."""
    ended_by_slurm = "#!/bin/bash\nkill -KILL $PPID\n"
    setup = ["bash -c 'kill -TERM $PPID; exit 143'"]
    assert ended(tmp_path, -9, ClusterSection(setup=setup), sleep=ended_by_slurm) == [
        ("signalled", "preempted, cancelled or requeued")
    ]


def test_the_step_has_the_cpus_of_its_job_and_not_those_of_the_submission(tmp_path: Path):
    srun = SRUN.replace("echo new", "echo cpus ${SRUN_CPUS_PER_TASK:-all}")
    ended(tmp_path, 0, srun=srun, variables={"SRUN_CPUS_PER_TASK": "1"})
    assert "cpus all" in (tmp_path / "events").read_text()


# --- signals, and a controller that answers oddly -----------------------------------------------------------------

WARNED = """#!/bin/bash
echo srun >>"$EVENTS"
echo $PPID >"$JOB_DIR/pid"
if [ -e "$NEMO_SRLM_STOP_FILE" ]; then printf '%s\\tstopped\\tsaved\\n' "$NEMO_SRLM_ATTEMPT" >"$JOB_DIR/outcome-0-0"; fi
exit 1
"""
AWK = """#!/bin/bash
case "$*" in *m++*) kill -USR1 "$(cat "$JOB_DIR/pid")" ;; esac
exec /usr/bin/awk "$@"
"""


def test_a_warning_of_the_time_limit_between_two_attempts_reaches_the_next(tmp_path: Path):
    found = ended(tmp_path, 1, ClusterSection(retries=5), srun=WARNED, awk=AWK)
    assert [word for word, _ in found] == ["start", "crashed", "start", "limit", "limit"]
    assert found[-1][1].endswith("did not requeue the job: Requested operation is presently disabled")


@pytest.mark.parametrize("state", ["SIGNALING", "SUSPENDED"])
def test_a_job_that_is_paused_or_signalled_has_not_moved_on(tmp_path: Path, state: str):
    found = ended(tmp_path, 1, ClusterSection(other_nodes=0), srun=CRASHES, variables={"STATE": state})
    assert [word for word, _ in found] == ["start", "crashed", "start", "crashed", "failed"]


def test_a_job_that_the_controller_no_longer_knows_has_moved_on(tmp_path: Path):
    unknown = SCONTROL.replace(
        "-o) echo", "-o) echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1; echo"
    )
    assert ended(tmp_path, 5, srun=CRASHES, scontrol=unknown) == [("start", "work")]


def test_a_requeue_whose_answer_is_lost_is_asked_for_again(tmp_path: Path):
    lost = SCONTROL.replace(
        "requeue)",
        'requeue) if mkdir "$JOB_DIR/asked"; then echo "Zero Bytes were transmitted or received" >&2; exit 1; fi;',
    )
    again = SRUN.replace("done", "again")
    found = ended(tmp_path, 1, srun=again, scontrol=lost)
    assert (tmp_path / "events").read_text().count("requeue 8") == 2
    assert "presently disabled" in found[-1][1]


def test_a_job_that_may_not_be_requeued_again_says_how_often_why_and_what_to_do(tmp_path: Path):
    again = SRUN.replace("done\\t", "again\\tsaved and exited: SIGUSR1")
    word, detail = ended(tmp_path, 1, ClusterSection(max_restarts=0), srun=again)[-1]
    assert word == "failed"
    assert (
        "not done after 0 restarts (cluster.max_restarts), the last time: saved and exited: SIGUSR1; raise it" in detail
    )
    assert "submit again: it resumes" in detail


def test_a_job_that_slurm_is_slow_to_end_is_not_tried_again_meanwhile(tmp_path: Path):
    """KillWait is minutes at some sites."""
    patient = '#!/bin/bash\necho nap >>"$EVENTS"\nif [ "$(grep -c nap "$EVENTS")" = 100 ]; then kill -KILL $PPID; fi\n'
    srun = SRUN.replace("done", "signalled") + "exit 1\n"
    found = ended(tmp_path, -9, srun=srun, sleep=patient, variables={"STATE": "COMPLETING"})
    assert [word for word, _ in found] == ["start", "signalled"]


# --- nodes --------------------------------------------------------------------------------------------------------

SECOND = """#!/bin/bash
printf '%s\\tcrashed\\tCUDA error\\n' "$NEMO_SRLM_ATTEMPT" >"$JOB_DIR/outcome-0-1"
exit 1
"""
SINFO = "#!/bin/bash\nprintf 'node%s idle\\n' 1 2 3 4\n"


def test_the_node_that_failed_is_found_in_a_folder_with_blanks_in_its_name(tmp_path: Path):
    found = ended(tmp_path, 1, srun=SECOND, sinfo=SINFO, variables=NODES, folder="a job")
    assert ("moved", "away from node2: crashed: CUDA error") in found


def test_a_job_is_not_moved_to_drained_nodes(tmp_path: Path):
    drained = SINFO.replace("3 4", "") + "printf 'node%s drain\\n' 3 4\nprintf 'node5 mix\\n'\n"
    found = ended(tmp_path, 1, srun=SECOND, sinfo=drained, variables=NODES)  # nodes 1 and 5 are enough
    assert ("moved", "away from node2: crashed: CUDA error") in found
    (tmp_path / "more").mkdir()
    found = ended(tmp_path / "more", 1, srun=SECOND, sinfo=drained.replace("mix", "drng"), variables=NODES)
    assert "moved" not in [word for word, _ in found]


def test_a_job_is_not_moved_where_too_few_nodes_are_left(tmp_path: Path):
    """It would wait without end."""
    expands = SCONTROL.replace("show) echo", 'show) if [ "$3" = "node[3-4]" ]; then HOSTS="node3 node4"; fi; echo')
    site = ClusterSection(exclude=["node[3-4]"])
    found = ended(tmp_path, 1, site, srun=SECOND, sinfo=SINFO, scontrol=expands, variables=NODES)
    assert [word for word, _ in found] == ["start", "crashed", "start", "crashed", "failed"]


# --- files that cannot be read or written -------------------------------------------------------------------------


def test_an_owner_file_that_cannot_be_read_is_no_later_attempt(tmp_path: Path):
    found = ended(tmp_path, 0, srun=SRUN + 'rm "$JOB_DIR"/owner-0\n')
    assert found[-1][0] == "done"


def test_an_attempt_that_cannot_say_that_it_owns_the_shard_begins_nothing_and_is_not_called_fenced(tmp_path: Path):
    (tmp_path / "job/owner-0.new").mkdir(parents=True)
    ((word, detail),) = ended(tmp_path, 1)
    assert word == "failed"
    assert "owner-0 cannot be written" in detail
    assert not (tmp_path / "events").exists()


def test_retries_end_where_no_attempt_can_be_written_down(tmp_path: Path):
    (tmp_path / "job/attempts-0.tsv").mkdir(parents=True)
    script = started(tmp_path, srun=CRASHES, scontrol=SCONTROL, sleep=INSTANTLY, sinfo=SINFO)
    said, _ = script.communicate(timeout=600)
    assert script.returncode == 1, said
    assert said.count(" start on ") == 2
    assert "requeue" not in (tmp_path / "events").read_text()

"""Slurm's commands, called with output formats that are stable over its versions. Knows nothing of runs and stages."""

import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from nemo_srlm.errors import UserError

SUBMIT_SECONDS = 30.0  # that submit and cancel wait for the controller
STATUS_SECONDS = 3.0  # that status waits for it
ACTIVE = frozenset({
    "PENDING", "RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED",
    "SPECIAL_EXIT", "RESIZING", "SIGNALING", "STAGE_OUT", "STOPPED", "RESV_DEL_HOLD",
})  # fmt: skip


class SlurmError(UserError):
    """Slurm is absent, does not answer, or refuses."""


class LimitReached(SlurmError):
    """Slurm accepts no further job now, or no array of this size: the site's or the user's limits."""


NO_NODES = (
    "Requested node configuration is not available"  # at present, or ever: sbatch --test-only does not tell these apart
)


class Unreachable(SlurmError):
    """The controller does not answer: nothing is known, which is not the same as "no such job"."""


LIMIT = re.compile(r"\b(?:Assoc|QOS)[A-Z]\w*")  # the limit that sbatch names: QOSMaxSubmitJobPerUserLimit
LIMITS = (  # in what sbatch prints; a site's own plugin may say more around it
    "accounting/QOS policy", "MaxSubmitJob", "temporarily unable to accept job", "Invalid job array specification",
)  # fmt: skip


@dataclass(frozen=True)
class Task:
    """A job, or one task of an array, as the controller knows it."""

    id: str  # 12, or 12_3
    state: str
    reason: str
    nodes: str
    comment: str
    seconds: float | None  # running time
    name: str = ""  # --job-name

    @property
    def active(self) -> bool:
        """Queued or running, and not waiting for a dependency that has failed."""
        return self.state in ACTIVE and self.reason != "DependencyNeverSatisfied"


def held_by_slurm(reason: str) -> bool:
    """Whether Slurm itself holds a queued job: a node could not start it, or it was requeued too often. Nobody releases it."""
    return reason.replace(" ", "_") in ("launch_failed_requeued_held", "JobHoldMaxRequeue")


def waits_for_room(said: str) -> bool:
    """Whether sbatch's words are about a limit on the number of jobs. One on their size or time is a refusal for good, though
    the sentence around it is the same."""
    named = LIMIT.findall(said)
    return any("Submit" in name for name in named) if named else any(words in said for words in LIMITS)


def cluster_flags() -> list[str]:
    """For sacct, which alone does not read SLURM_CLUSTERS."""
    name = os.environ.get("SLURM_CLUSTERS", "")
    return [f"--clusters={name}"] if name else []


def outer_environment() -> dict[str, str]:
    """The environment without an enclosing job's SLURM_ variables: sbatch would take its sizes for the new job.

    SLURM_CLUSTERS, by which a user names the cluster for all of Slurm's commands, is none of them, nor the user's token.
    """
    kept = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT")
    return {k: v for k, v in os.environ.items() if not k.startswith("SLURM_") or k in kept}


def call(command: Sequence[str], timeout: float) -> str:
    """Standard output. Raises Unreachable when the controller does not answer, SlurmError when it refuses."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, check=False,
            env=outer_environment(),
        )  # fmt: skip
    except FileNotFoundError as error:
        raise SlurmError(command[0], "no such command", "Slurm's client commands on this machine") from error
    except subprocess.TimeoutExpired as error:
        said = (error.stderr or b"").decode(errors="replace")
        if waits_for_room(said):  # sbatch waits and tries again while the site's job table is full
            raise LimitReached(command[0], " ".join(said.split())) from error
        raise Unreachable("Slurm", f"no answer to {command[0]} within {timeout:.0f} s") from error
    if done.returncode == 0:
        return done.stdout
    words = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
    silent = (
        "Unable to contact", "Connection refused", "timed out", "Connection timeout", "configuration source",
        "socket error", "Zero Bytes were transmitted", "Transport endpoint",
    )  # fmt: skip
    if any(s in words for s in silent):
        raise Unreachable("Slurm", words)
    if waits_for_room(words):
        raise LimitReached(command[0], words)
    raise SlurmError(command[0], words)


def seconds_of(text: str) -> float | None:
    """`1-02:03:04`, `2:03` -> seconds; None for what Slurm writes when it does not know."""
    days, _, rest = text.rpartition("-")
    parts = rest.split(":")
    if not all(p.isdigit() for p in (*parts, days or "0")):
        return None
    value = int(days or 0) * 86400.0
    for power, part in enumerate(reversed(parts)):
        value += int(part) * 60.0**power
    return value


def mine(timeout: float = SUBMIT_SECONDS) -> list[Task]:
    """Every job and array task of this user that the controller still knows, ended ones included."""
    out = call(["squeue", "--me", "--noheader", "--array", "--states=all", "--format=%i|%T|%r|%N|%M|%j|%k"], timeout)
    found = []
    for line in out.splitlines():
        if "|" in line:  # with SLURM_CLUSTERS set, "CLUSTER: name" comes first
            name, state, reason, nodes, running, title, comment = line.split("|", 6)
            found.append(Task(name, state, reason, nodes, comment, seconds_of(running), title))
    return found


def accounted(ids: Sequence[str], timeout: float = STATUS_SECONDS) -> dict[str, str]:
    """id -> final state by the accounting database; {} where a site has none."""
    if not ids:
        return {}
    try:
        out = call(["sacct", *cluster_flags(), "-X", "-n", "-P", "-o", "JobID,State", "-j", ",".join(ids)], timeout)
    except SlurmError:
        return {}  # some sites have no accounting; the files of the run are enough
    rows = (line.split("|") for line in out.splitlines() if "|" in line)
    return {name: state.split()[0] for name, state, *_ in rows if state}


def require(ids: Sequence[str]) -> None:
    """Raises SlurmError for a job that the controller no longer knows: older versions would start its dependents at once."""
    for name in ids:
        try:
            call(["scontrol", "--oneliner", "show", "job", name], SUBMIT_SECONDS)
        except Unreachable:
            raise
        except SlurmError as error:
            raise SlurmError(
                f"job {name}", "ended and was forgotten while its dependents were being submitted", "a job to wait for",
                "submit again: finished stages are found by their files",
            ) from error  # fmt: skip


def submit(arguments: Sequence[str]) -> str:
    """The new job's id. Raises SlurmError with Slurm's message when it is refused."""
    return call(["sbatch", "--parsable", *arguments], SUBMIT_SECONDS).strip().split(";")[0]


def test_only(arguments: Sequence[str]) -> None:
    """Raises SlurmError when Slurm would refuse the job. Nothing is submitted."""
    call(["sbatch", "--test-only", *arguments], SUBMIT_SECONDS)


def nodes_away(partition: str) -> bool:
    """Whether nodes of a partition ("": of any) are down, drained or failing."""
    where = [f"--partition={partition}"] if partition else []
    out = call(["sinfo", "--noheader", "--list-reasons", "--format=%N", *where], SUBMIT_SECONDS)
    return any(line and not line.startswith("CLUSTER:") for line in out.splitlines())


def update(job: str, **fields: str) -> None:
    """Changes a queued job: `update("12", StartTime="now")`."""
    call(["scontrol", "update", f"JobId={job}", *(f"{name}={value}" for name, value in fields.items())], SUBMIT_SECONDS)


def release(ids: Sequence[str]) -> None:
    """Lets held jobs start."""
    call(["scontrol", "release", *ids], SUBMIT_SECONDS)


def cancel(ids: Sequence[str]) -> None:
    if ids:
        call(["scancel", *ids], SUBMIT_SECONDS)

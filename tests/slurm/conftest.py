"""A real Slurm on this machine for the tests of this folder, with two nodes on one host and a toy pipeline."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOY = Path(__file__).parent / "toy"
NEEDED = ("munged", "slurmctld", "slurmd", "slurmstepd", "sbatch")
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
SILENT = ("socket error", "timed out", "Unable to contact", "Zero Bytes")  # of Slurm's commands on a busy machine
ITEMS, STEPS = 24, 10  # of the toy pipeline
REFS = ["iter0/seed", "iter0/grow", "iter1/square", "iter1/pick", "iter1/tune", "iter1/check"]


@dataclass(frozen=True)
class Cluster:
    dir: Path
    settings: dict[str, str]

    @property
    def env(self) -> dict[str, str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}
        return clean | {
            "PATH": PATH, "SLURM_CONF": str(self.dir / "etc" / "slurm.conf"), "PYTHONPATH": f"{TOY}:{ROOT}",
            "OMP_NUM_THREADS": "1", "PYTHON": sys.executable, **self.settings,
        }  # fmt: skip

    def tool(self, *words: str, verb: str = "") -> str:
        command = [str(ROOT / "tools" / "dev_cluster.sh"), verb, str(self.dir), *words] if verb else list(words)
        for _ in range(10):
            done = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=300, check=False)
            if done.returncode == 0 or verb or not any(s in done.stderr for s in SILENT):
                break
            time.sleep(1)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def saved(self, job: str) -> None:
        """Waits until the controller, if killed now, would know the state of this job: it saves every few seconds."""
        state = self.dir / "state" / "job_state"
        before = state.stat().st_mtime_ns if state.exists() else 0
        self.tool("scontrol", "update", f"JobId={job}", "Nice=1")
        end = time.monotonic() + 60
        while not state.exists() or state.stat().st_mtime_ns == before:
            assert time.monotonic() < end
            time.sleep(0.2)

    def jobs(self) -> list[list[str]]:
        """[id, state, reason, node, comment] of every queued or running job."""
        out = self.tool("squeue", "--noheader", "--array", "--format=%i|%T|%r|%N|%k")
        return [line.split("|", 4) for line in out.splitlines()]


@dataclass
class Run:
    """A run of the toy pipeline on the cluster."""

    cluster: Cluster
    root: Path
    name: str
    env: dict[str, str] = field(default_factory=dict)
    overrides: tuple[str, ...] = ()

    @property
    def dir(self) -> Path:
        return self.root / self.name

    def words(self, overrides: tuple[str, ...] = ()) -> list[str]:
        place = [f"run.root={self.root}", f"run.name={self.name}"]
        return ["--config-name", "toy", "--config-dir", str(TOY / "configs"), *place, *self.overrides, *overrides]

    def call(self, command: list[str], code: int = 0) -> str:
        env = self.cluster.env | self.env
        done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == code, f"{command} ended with {done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def cli(self, *words: str, code: int = 0) -> str:
        return self.call([sys.executable, "-m", "nemo_srlm.cli", *words], code)

    def submit(self, *overrides: str, code: int = 0) -> str:
        return self.cli("submit", *self.words(overrides), code=code)

    def jobs(self) -> list[list[str]]:
        return [job for job in self.cluster.jobs() if job[4].endswith(f" {self.dir}")]

    def status(self) -> dict[str, dict[str, Any]]:
        found = json.loads(self.cli("status", "--json", str(self.dir)))
        return {row["stage"]: row for row in found["stages"]} | {"notes": found["notes"]}

    def until(self, what: Any, seconds: float = 150.0) -> None:
        end = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < end, f"waited {seconds} s; jobs: {self.jobs()}\n{self.everything()}"
            time.sleep(0.2)

    def held(self, ref: str, shards: int = 1) -> None:
        """Waits until `shards` workers of the stage that TOY_HOLD names wait in the middle of their work."""
        self.until(lambda: len(list((self.dir / ref / "logs").glob("toy-held-*"))) == shards)

    def let_go(self, ref: str) -> None:
        """Lets the workers of a held stage go on."""
        (self.dir / ref / "logs" / "toy-let-go").touch()

    def wait(self, seconds: float = 400.0) -> dict[str, dict[str, Any]]:
        """Waits until no job is left; returns the status."""
        self.until(lambda: not self.jobs(), seconds)
        return self.status()

    def limit(self, ref: str, minutes: int) -> None:
        """Changes the time limit of the job for `ref`, unless `ref` is done: a test that waited for something may be late.

        While a job is being requeued, squeue may not list it for a moment.
        """
        done = self.dir / ref / "manifest.json"
        found: list[str] = []
        self.until(lambda: done.exists() or found or found.extend(j[0] for j in self.jobs() if f" {ref} " in j[4]))
        command = [f"scontrol update JobId={name} TimeLimit={minutes}" for name in found]
        self.cluster.tool("sh", "-c", " && ".join(command) + f" || test -e {done}" if command else "true")

    def node_of(self, ref: str) -> str:
        """The (first) node on which a job for `ref` is running; "" if there is none."""
        for _, state, _, nodes, comment in self.jobs():
            if state == "RUNNING" and f" {ref} " in comment:
                return str(nodes).replace("[", "").split(",")[0].split("-")[0]
        return ""

    def items(self, ref: str = "iter1/square") -> int:
        return sum(len(p.read_text().splitlines()) for p in (self.dir / ref / "parts").glob("*.jsonl"))

    def steps(self, ref: str) -> int:
        path = self.dir / ref / "state.json"
        return int(json.loads(path.read_text())["done"]) if path.exists() else 0

    def attempts(self, key: str) -> list[list[str]]:
        folder = self.dir / "slurm" / key
        return [line.split("\t") for p in sorted(folder.glob("attempts-*.tsv")) for line in p.read_text().splitlines()]

    def ends(self, key: str) -> list[str]:
        return [a[3] for a in self.attempts(key)]

    def assert_whole(self) -> None:
        """Asserts that all stages are done, with exactly the records of an undisturbed run."""
        states = {r: row["state"] for r, row in self.status().items() if r != "notes"}
        refs = REFS[: int(self.env.get("TOY_STAGES", "6"))]
        assert states == dict.fromkeys(refs, "done"), f"{states}\n{self.everything()}"
        squares = [str(i * i) for i in range(ITEMS)]
        odd = [s for s in squares if int(s) % 2]
        wanted = {
            "iter1/square/squares.jsonl": squares,
            "iter1/pick/picked.jsonl": odd,
            "iter1/check/checked.jsonl": [str(int(s) + 1) for s in odd],
        }
        for file, expected in wanted.items():
            assert file.rpartition("/")[0] not in refs or texts(self.dir / file) == expected
        for ref in {"iter0/grow", "iter1/tune"} & set(refs):
            steps = [json.loads(line)["step"] for line in (self.dir / ref / "metrics.jsonl").read_text().splitlines()]
            assert steps == list(range(STEPS))

    def everything(self) -> str:
        """Attempts and the last lines of all logs, for the message of a failed test."""
        words = []
        for path in sorted((self.dir / "slurm").rglob("*")):
            if path.suffix in (".tsv", ".txt") and "code" not in path.relative_to(self.dir).parts:  # not the snapshot's
                words += [f"== {path}", *path.read_text(errors="replace").splitlines()[-15:]]
        return "\n".join(words)


def texts(path: Path) -> list[str]:
    return [json.loads(line)["text"] for line in path.read_text().splitlines()]


def started(**settings: str) -> Iterator[Cluster]:
    """A cluster of tools/dev_cluster.sh with these variables."""
    missing = [name for name in NEEDED if shutil.which(name, path=PATH) is None]
    if missing:
        pytest.skip(
            f"no Slurm here ({', '.join(missing)} missing): apt-get install munge slurmctld slurmd slurm-client"
        )
    found = Cluster(Path(tempfile.mkdtemp(prefix="srlm-", dir="/tmp")), settings)
    found.tool(verb="start")
    yield found
    found.tool(verb="stop")
    shutil.rmtree(found.dir, ignore_errors=True)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    yield from started()


@pytest.fixture
def run(cluster: Cluster, tmp_path: Path) -> Iterator[Run]:
    made = Run(cluster, tmp_path, "r")
    yield made
    ids = [job[0] for job in made.jobs()]
    if ids:
        cluster.tool("scancel", *ids)
        made.until(lambda: not made.jobs(), 30)

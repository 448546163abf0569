"""The whole loop M0 -> M3 at a reduced size, with real training (Megatron, two gloo processes) and real vLLM."""

import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from nemo_srlm.core import files, manifest
from nemo_srlm.core.files import read_records
from nemo_srlm.core.records import Candidate, Judgement, PreferencePair, Prompt
from tools.bench.kills import digests

ROOT = Path(__file__).resolve().parents[2]
REDUCED = [
    "world.split=test", "world.num_documents=6000", "world.num_ift=200", "world.num_eft=400",
    "world.num_eval_prompts=24", "world.num_eval_judge=10",
    "pretrain.max_steps=120", "pretrain.save_every=40", "sft.epochs=2", "sft.save_every=20", "dpo.save_every=2", "dpo.epochs=3",
    "prompts.num_prompts=32", "prompts.round_size=96", "candidates.num=4", "pairs.pool_equal_texts=false",
]  # fmt: skip
pytestmark = pytest.mark.slow


def words(root: Path, name: str, *overrides: str) -> list[str]:
    settings = [f"run.root={root}", f"run.name={name}", *REDUCED, *overrides]
    return [sys.executable, "-m", "nemo_srlm.cli", "run", "--config-name", "tiny", *settings]


def nemo_srlm(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nemo_srlm.cli", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of this file's runs; the run `whole` is finished."""
    root = tmp_path_factory.mktemp("runs")
    done = subprocess.run(words(root, "whole"), cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "report:" in done.stdout
    return root


@pytest.fixture(scope="module")
def whole(runs: Path) -> Path:
    return runs / "whole"


def test_every_stage_is_done_and_status_says_so(whole: Path):
    stages = json.loads(nemo_srlm("status", str(whole), "--json").stdout)["stages"]
    assert {s["state"] for s in stages} == {"done"}
    assert [s["stage"] for s in stages if s["stage"].endswith("/dpo")] == ["iter1/dpo", "iter2/dpo"]


def test_running_it_again_says_up_to_date_and_changes_nothing(runs: Path, whole: Path):
    before = digests(whole)
    again = subprocess.run(words(runs, "whole"), cwd=ROOT, capture_output=True, text=True, check=True)
    assert "up to date" in again.stdout
    assert digests(whole) == before


def test_a_changed_setting_is_refused_by_name_with_exit_code_2_and_no_traceback(runs: Path):
    refused = subprocess.run(
        words(runs, "whole", "dpo.beta=0.3"), cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert refused.returncode == 2
    assert "dpo.beta: 0.1 -> 0.3" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize("t", [1, 2])
def test_the_first_dpo_loss_is_ln_2_and_the_loss_falls(whole: Path, t: int):
    done = manifest.read(whole / f"iter{t}" / "dpo")
    assert done is not None
    first, last = done.metrics["first"], done.metrics["last"]
    assert first["dpo_loss"] == pytest.approx(math.log(2), abs=1e-3)
    assert last["dpo_loss"] < first["dpo_loss"]


@pytest.mark.parametrize("t", [1, 2])
def test_pairs_are_the_best_against_the_worst_of_what_was_judged(whole: Path, t: int):
    here = whole / f"iter{t}"
    prompts = {p.id: p for p in read_records(here / "prompts/prompts.jsonl", Prompt)}
    candidates = list(read_records(here / "candidates/candidates.jsonl", Candidate))
    judged = {j.id: j for j in read_records(here / "judge/judgements.jsonl", Judgement)}
    pairs = list(read_records(here / "pairs/pairs.jsonl", PreferencePair))
    dropped = [json.loads(line)["prompt_id"] for line in (here / "pairs/dropped.jsonl").read_text().splitlines()]
    assert len(candidates) == 4 * len(prompts) == len(judged)
    assert pairs, "a run without pairs shows nothing"
    assert sorted({p.prompt_id for p in pairs} | set(dropped)) == sorted(prompts)
    for pair in pairs:
        scored = []
        for c in candidates:
            scores = [s for s in judged[c.id].scores if s is not None]
            if c.prompt_id == pair.prompt_id and len(scores) >= 2:
                scored.append((sum(scores) / len(scores), c.text))
        assert pair.chosen != pair.rejected
        assert any(s == pytest.approx(pair.chosen_score) and text == pair.chosen for s, text in scored)
        assert any(s == pytest.approx(pair.rejected_score) and text == pair.rejected for s, text in scored)
        widest = max(s - r for s, better in scored for r, worse in scored if better != worse)
        assert pair.chosen_score - pair.rejected_score == pytest.approx(widest)
        assert widest > 0


def test_m1_as_the_reference_and_the_pairs_of_all_iterations_train_on_what_is_finished(runs: Path, whole: Path):
    """The first iteration is the same training, and the second one's pairs, too: both are reused."""
    command = words(runs, "open", f"run.reuse={whole}", "dpo.reference=m1", "dpo.pairs_from=all", "--until", "dpo")
    for _ in (1, 2):  # up to each iteration's training
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    run = runs / "open"
    assert all((run / name).is_symlink() for name in ("iter0/world", "iter1/dpo", "iter2/judge", "iter2/pairs"))
    trained = manifest.read(run / "iter2/dpo")
    assert trained is not None
    pairs = [len(list(read_records(run / f"iter{t}/pairs/pairs.jsonl", PreferencePair))) for t in (1, 2)]
    assert trained.metrics["data"]["used"]["pairs"] == sum(pairs)
    assert trained.metrics["last"]["dpo_loss"] < trained.metrics["first"]["dpo_loss"]


def test_the_checkpoint_of_a_training_is_chosen_by_judging_and_keeping_them_changes_no_weight(runs: Path, whole: Path):
    """Real checkpoints, exports and responses; the judge is the previous policy. Everything before dpo is reused from `whole`."""
    options = ["iterations=1", "select.every=2", "select.stages=[dpo]", "select.by=score", "export.verify=round_trip"]
    command = words(runs, "selecting", f"run.reuse={whole}", "select.num_prompts=16", *options)
    done = subprocess.run([*command, "--until", "select"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    here = runs / "selecting" / "iter1"
    found = manifest.read(here / "select")
    assert found is not None
    names, chosen = found.metrics["checkpoints"], found.metrics["chosen"]
    assert names[:2] == ["weights_00000002", "weights_00000004"]
    assert names[-1] == "final"
    for step, older in zip(found.metrics["comparisons"], names, strict=False):
        assert step["other"] == older
        assert sum(step["counts"].values()) == 16
        assert step["judged"] > 8
    weights = {name: files.file_digest(here / "select_export" / name / "hf/model.safetensors") for name in names}
    assert len(set(weights.values())) == len(names)
    for name in names:
        assert f"# M2, checkpoint {name}," in (here / "select_export" / name / "hf/README.md").read_text(
            encoding="utf-8"
        )
    assert weights["final"] == files.file_digest(whole / "iter1/export/hf/model.safetensors")
    exported = nemo_srlm("export", "--iteration", "1", *command[command.index("run") + 1 :])
    assert exported.returncode == 0, exported.stderr
    assert files.file_digest(here / "export/hf/model.safetensors") == weights[chosen]


def survivors(word: str, seconds: float) -> list[str]:
    """Command lines that contain `word` and are still running after `seconds`; [] as soon as there is none."""
    end = time.monotonic() + seconds
    while True:
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):  # the process has ended
                found.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        found = [line for line in found if word in line]
        if not found or time.monotonic() > end:
            return found
        time.sleep(0.2)


# Where the run is killed: as soon as a stage has done this part of its work, and up to three seconds later.
KILLS = {
    "iter0/pretrain": "metrics.jsonl", "iter0/sft": "metrics.jsonl", "iter1/judge": "parts/*.jsonl", "iter1/dpo": "metrics.jsonl",
}  # fmt: skip
# Done by `killed` itself. It links the other stages, which do no other kind of work, from the undisturbed run.
OWN = {
    "iter0": {
        "world", "seed", "pretrain", "eft", "held_out", "sft", "export",
        "eval_responses", "eval_reward", "eval_oracle", "eval_h2h",
    },
    "iter1": {"prompts", "candidates", "judge", "pairs", "dpo", "export"},
}  # fmt: skip


@pytest.fixture
def others(runs: Path, whole: Path) -> Path:
    """A run that has finished all stages of `whole` but those that `killed` is to do."""
    made = runs / "others"
    for stage in whole.glob("iter*/*"):
        if stage.name not in OWN.get(stage.parent.name, set()):
            (made / stage.parent.name).mkdir(parents=True, exist_ok=True)
            (made / stage.parent.name / stage.name).symlink_to(stage)
    (made / "config.yaml").symlink_to(whole / "config.yaml")
    return made


def test_killed_at_random_moments_the_run_ends_with_the_same_records_and_weights(runs: Path, whole: Path, others: Path):
    """One iteration, killed with SIGKILL again and again; every output is byte for byte that of the undisturbed run."""
    rng = random.Random(int(os.environ.get("KILL_SEED", "0")))
    here, log = runs / "killed", runs / "killed.log"
    command = words(runs, "killed", "iterations=1", f"run.reuse={others}", "export.verify=round_trip")
    for ref, work in KILLS.items():
        with log.open("ab") as out:
            child = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=out)
        deadline = time.monotonic() + 1800  # a hung run fails the test instead of the suite
        while not any(path.stat().st_size for path in (here / ref).glob(work)):
            assert child.poll() is None, f"ended before {ref}: {log.read_text()}"
            assert time.monotonic() < deadline, f"{ref} did not begin: {log.read_text()}"
            time.sleep(0.05)
        time.sleep(rng.uniform(0, 3))
        os.kill(child.pid, signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL, "the run ended before it could be killed"
        assert survivors(str(here), 10.0) == [], "a second writer was left behind"
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    killed, undisturbed = digests(here), digests(whole)
    assert [name for name, digest in killed.items() if undisturbed[name] != digest] == []
    assert set(killed) == {name for name in undisturbed if not name.startswith("iter2/")}
    for ref in KILLS:
        assert not (here / ref).is_symlink()
    assert "iter1/export/hf/model.safetensors" in killed


def test_votes_weigh_pairs_and_the_judge_is_trained_on_its_own_judgements(runs: Path, whole: Path):
    """A method after the paper, as far as its first policy, on what the undisturbed run has made."""
    answer = f"pairs.answer={ROOT}/tools/bench/tiny_answers.py:content"
    settings = ["pairs.score=judge_vote", answer, "pairs.weight=margin", "judge_training.method=self_taught"]
    command = [*words(runs, "method", f"run.reuse={whole}", *settings), "--until", "dpo"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    here = runs / "method" / "iter1"
    assert (here / "judge").is_symlink()
    pairs, judge_pairs = (
        list(read_records(here / stage / "pairs.jsonl", PreferencePair)) for stage in ("pairs", "judge_pairs")
    )
    assert pairs
    assert judge_pairs, "a judge that is sometimes right and sometimes wrong"
    assert all(0 < pair.weight <= 1 for pair in pairs)
    assert len({pair.weight for pair in pairs}) > 1
    trained = manifest.read(here / "dpo")
    assert trained is not None
    used = trained.metrics["data"]["used"]
    assert (used["pairs"], used["judge_pairs"]) == (len(pairs), len(judge_pairs))
    assert trained.metrics["first"]["dpo_loss"] == pytest.approx(math.log(2), abs=1e-3)


# Short tests last: while two tests are left of a file, xdist already gives its worker the next file.


def test_show_follows_a_prompt_through_the_stages(whole: Path):
    pair = next(read_records(whole / "iter1/pairs/pairs.jsonl", PreferencePair))
    shown = nemo_srlm("show", pair.prompt_id[:10], str(whole))
    assert shown.returncode == 0
    for text in (pair.prompt, pair.chosen, pair.rejected, "candidate 3", "demonstrations"):
        assert text in shown.stdout


def test_the_report_is_one_file_that_asks_the_network_for_nothing(whole: Path):
    html = (whole / "report.html").read_text(encoding="utf-8")
    for t in range(3):  # and the card beside each export has the figures of its model
        assert "\n| oracle score " in (whole / f"iter{t}/export/hf/README.md").read_text(encoding="utf-8")
        assert manifest.read(whole / f"iter{t}/report") is not None
    assert "M3" in html
    for word in ('src="', 'href="http://', "@import", "url(", "stylesheet"):
        assert word not in html
    assert set(re.findall(r"<link [^>]*>", html)) <= {'<link rel="icon" href="data:,">'}  # no favicon is asked for

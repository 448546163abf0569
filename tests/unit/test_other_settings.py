"""Settings that finished work was not made under are refused before anything starts, also behind stages that are not done yet."""

from collections.abc import Callable
from pathlib import Path

import pytest

from nemo_srlm import cli
from nemo_srlm.config.compose import RESOLVED_CONFIG, compose, save_resolved_config
from nemo_srlm.config.schema import Config
from nemo_srlm.core import manifest
from nemo_srlm.core.files import write_json
from nemo_srlm.core.pipeline import pipeline
from nemo_srlm.core.stage import PLAN, Ref, identity_of, run_directory, stage_directory
from nemo_srlm.errors import StaleError, UserError
from nemo_srlm.launch import local
from nemo_srlm.launch.plan import remaining
from nemo_srlm.launch.slurm import client
from nemo_srlm.launch.slurm import submit as submission
from nemo_srlm.stages import load

VOTES = ["pairs.score=judge_vote"]  # adds a stage before the pairs, which read it


def tiny(root: Path, *settings: str) -> Config:
    return compose("tiny", [f"run.root={root}", "run.name=r", *settings])


def finish(cfg: Config, ref: Ref) -> None:
    """A manifest as of a stage without outputs."""
    run_dir = run_directory(cfg)
    identity = identity_of(load(ref.stage), cfg, ref.iteration, run_dir)
    stage_directory(run_dir, ref).mkdir(parents=True, exist_ok=True)
    done = manifest.Manifest(ref.stage, ref.iteration, manifest.fingerprint(identity), identity, {}, {})
    manifest.write(stage_directory(run_dir, ref), done)


@pytest.fixture(autouse=True)
def _nothing_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*given: object) -> None:
        raise AssertionError(given)

    monkeypatch.setattr(local, "run_step", start)
    monkeypatch.setattr(client, "submit", start)


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """Where a finished run of the tiny world lies."""
    cfg = tiny(tmp_path)
    save_resolved_config(cfg, run_directory(cfg))
    for ref in pipeline(cfg):
        finish(cfg, ref)
    assert remaining(cfg, run_directory(cfg)) == []
    return tmp_path


def undo(run_dir: Path, *refs: str) -> None:
    for ref in refs:
        (run_dir / ref / manifest.NAME).unlink()


def submit(cfg: Config) -> None:
    submission.submit(cfg)


def stage(cfg: Config) -> None:
    local.run_stage(cfg, Ref("votes", 1))


def run(cfg: Config) -> None:
    local.run(cfg, "")


def run_until_votes(cfg: Config) -> None:
    local.run(cfg, "votes")


@pytest.mark.parametrize("verb", [run, run_until_votes, stage, submit])
def test_a_setting_that_adds_a_stage_is_refused_with_the_run_as_it_was(
    made: Path, monkeypatch: pytest.MonkeyPatch, verb: Callable[[Config], None]
):
    monkeypatch.setattr(client, "mine", list)
    before = (made / "r" / RESOLVED_CONFIG).read_text()
    with pytest.raises(StaleError, match=r'iter1/pairs: .*\n.*\n.*pairs\.score: \(absent\) -> "judge_vote"') as refused:
        verb(tiny(made, *VOTES))
    assert 'inputs.votes: (absent) -> "iter1/votes"' in str(refused.value)
    assert "nemo-srlm redo iter1/pairs" in str(refused.value)
    assert (made / "r" / RESOLVED_CONFIG).read_text() == before
    assert not (made / "r/iter1/votes").exists()


def test_one_stage_alone_is_refused_under_settings_that_another_was_not_made_under(made: Path):
    undo(made / "r", "iter2/eval_h2h", "iter2/report")
    before = (made / "r" / RESOLVED_CONFIG).read_text()
    words = ["stage", "eval_h2h", "--iteration", "2", "--config-name", "tiny", f"run.root={made}", "run.name=r"]
    assert cli.main([*words, "dpo.beta=0.9"]) == 2
    assert (made / "r" / RESOLVED_CONFIG).read_text() == before


def test_a_run_that_another_config_began_is_refused_though_its_first_stage_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """As with a forgotten --config-name: a run of files has no stage `world`, which the seed data of the tiny world waits for."""
    files = tmp_path / "seed.jsonl"
    files.write_text('{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n')
    other = tiny(tmp_path, "world.enabled=false", f"seed.files=[{files}]")
    save_resolved_config(other, tmp_path / "r")
    (tmp_path / "r/iter0/seed").mkdir(parents=True)
    write_json(tmp_path / "r/iter0/seed" / PLAN, identity_of(load("seed"), other, 0, tmp_path / "r"))
    before = (tmp_path / "r" / RESOLVED_CONFIG).read_text()
    assert cli.main(["run", f"run.root={tmp_path}", "run.name=r"]) == 2
    assert 'inputs.world: (absent) -> "iter0/world"' in capsys.readouterr().err
    assert (tmp_path / "r" / RESOLVED_CONFIG).read_text() == before
    assert not (tmp_path / "r/iter0/world").exists()


def test_an_input_that_another_stage_is_to_make_is_refused_before_it_is_made(made: Path):
    with pytest.raises(StaleError, match=r'iter1/export: .*\n.*inputs\.\w+: "\w+" -> "iter1/sft_chosen"'):
        remaining(tiny(made, "run.arm=sft_only"), made / "r")


@pytest.mark.parametrize(
    ("settings", "added"),
    [
        (["iterations=3"], {"iter3/prompts", "iter3/dpo", "iter3/report"}),
        (["eval.kl=true"], {"iter1/eval_kl", "iter2/eval_kl", "iter2/report"}),
        (["iterations=1"], set()),
        (["generate.replicas=1", "judge.shards=3", "sft.save_every=7"], set()),
        ([f"run.reuse={Path(__file__).parent}"], set()),
    ],
)
def test_what_leaves_finished_work_as_it_is_is_accepted(made: Path, settings: list[str], added: set[str]):
    todo = {str(ref) for ref in remaining(tiny(made, *settings), made / "r")}
    assert added <= todo
    assert bool(todo) == bool(added)
    assert not any((made / "r" / ref / manifest.NAME).exists() and "report" not in ref for ref in todo)


def test_finished_work_behind_a_stage_that_is_made_again_is_accepted_under_its_own_settings_alone(made: Path):
    """As `redo --only iter0/export` leaves a run."""
    undo(made / "r", "iter0/export")
    assert remaining(tiny(made), made / "r")[0] == Ref("export", 0)
    with pytest.raises(StaleError, match=r"iter1/candidates: .*\n.*temperature: 0\.\d+ -> 0\.1"):
        remaining(tiny(made, "candidates.temperature=0.1"), made / "r")


def test_stages_linked_from_another_run_are_compared_too(made: Path, tmp_path: Path):
    here = tmp_path / "linked" / "iter1"
    here.mkdir(parents=True)
    (here / "pairs").symlink_to(made / "r/iter1/pairs", target_is_directory=True)
    assert Ref("pairs", 1) in remaining(tiny(made, "run.name=linked"), here.parent)
    with pytest.raises(StaleError, match="iter1/pairs"):
        remaining(tiny(made, "run.name=linked", *VOTES), here.parent)


def test_a_file_that_is_gone_is_named_among_all_that_is_absent(made: Path):
    undo(made / "r", "iter0/seed")
    with pytest.raises(UserError, match=r"its stages would not start:\n(.*\n)*.*nowhere: no config\.json") as refused:
        remaining(tiny(made, "prompts.writer_path=nowhere", "run.reuse=never"), made / "r")
    assert not isinstance(refused.value, StaleError)

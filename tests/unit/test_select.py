"""Early stopping by head-to-head: the rule, its stages on a fake engine, its position in the pipeline."""

import json
from pathlib import Path

import pytest

from nemo_srlm.config.compose import compose
from nemo_srlm.config.schema import Config
from nemo_srlm.core.files import write_json
from nemo_srlm.core.pipeline import pipeline
from nemo_srlm.core.progress import Progress
from nemo_srlm.core.slot import Slot
from nemo_srlm.core.stage import Context, Ref, Stage
from nemo_srlm.errors import CheckpointError, ConfigError, DataError
from nemo_srlm.evaluate.selection import choose
from nemo_srlm.generate import vllm_engine as engines
from nemo_srlm.generate.requests import Failure
from nemo_srlm.stages import load, select, select_responses
from nemo_srlm.train.checkpoint_dir import FINAL, mark_complete, weights_to_compare
from tests.unit.fake_engine import FakeEngine

NAMES = ["weights_00000200", "weights_00000400", "final"]


@pytest.mark.parametrize(
    ("nets", "chosen"),
    [
        ([], 0),
        ([0.2], 1),
        ([-0.1], 0),
        ([0.3, 0.1, 0.2], 3),
        ([0.3, -0.1, 0.9], 1),  # training would have stopped there: later checkpoints are not considered
        ([0.3, 0.0], 1),
    ],
)
def test_the_walk_stops_at_the_first_checkpoint_that_does_not_win(nets: list[float], chosen: int):
    assert choose(nets) == chosen


# --- position in the pipeline ---------------------------------------------------------------------------------------


def test_it_is_off_by_default_and_then_changes_no_fingerprint():
    cfg = Config()
    assert not any(ref.stage.startswith("select") for ref in pipeline(cfg))
    assert "select" not in load("dpo").identity(cfg, 1)
    assert load("export").inputs(cfg, 1)["policy"] == Ref("dpo", 1)


def test_what_it_chooses_is_the_policy_for_everything_that_follows():
    cfg = compose("tiny", ["select.every=10", "select.stages=[dpo]", "world.split=test"])
    refs = pipeline(cfg)
    place = refs.index(Ref("dpo", 1))
    names = ["dpo", "select_export", "select_responses", "select", "export"]
    assert refs[place : place + 5] == [Ref(name, 1) for name in names]
    assert Ref("select", 0) not in refs  # select.stages does not contain sft
    assert load("export").inputs(cfg, 1)["policy"] == load("dpo").inputs(cfg, 2)["policy"] == Ref("select", 1)
    assert load("dpo").identity(cfg, 1)["select"] == {"every": 10}
    assert "select" not in load("sft").identity(cfg, 0)
    made = {Ref("world", 0)}
    for ref in refs:
        assert set(load(ref.stage).inputs(cfg, ref.iteration).values()) <= made
        made.add(ref)


@pytest.mark.parametrize(
    ("overrides", "stage", "words"),
    [
        (["select.stages=[dpo]"], "select_responses", r"world\.split: dev"),
        (["world.split=test"], "select", r"select\.judge_path: empty"),
        (["world.split=test", "select.stages=[dpo]", "select.judge_path=nowhere"], "select", r"no config\.json"),
        (["world.enabled=false"], "select_responses", r"select\.prompts: empty"),
    ],
)
def test_what_cannot_work_is_refused_before_the_run(overrides: list[str], stage: str, words: str):
    with pytest.raises(ConfigError, match=words):
        load(stage).check(compose("tiny", ["select.every=10", *overrides]))


def test_a_wrong_setting_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"select\.stages.*pretrain"):
        compose("tiny", ["select.stages=[pretrain]"])
    with pytest.raises(ConfigError, match=r"select\.by.*compare, score"):
        compose("tiny", ["select.by=luck"])


# --- the stages -----------------------------------------------------------------------------------------------------


def context(cfg: Config, root: Path, name: str, iteration: int = 1, shard: int = 0, shards: int = 1) -> Context:
    directory = root / name
    directory.mkdir(exist_ok=True)
    inputs = {
        "exports": root / "select_export", "responses": root / "select_responses", "trained": root / "dpo",
        "judge": root / "export",
    }  # fmt: skip
    return Context(cfg, iteration, directory, inputs, Progress(directory), shard, shards)


def do(stage: Stage, cfg: Config, root: Path, shards: int = 1) -> dict:
    for shard in range(shards):
        stage.run(context(cfg, root, stage.name, shard=shard, shards=shards))
    return stage.finalize(context(cfg, root, stage.name))


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A finished training with three exported checkpoints."""
    for name in NAMES:
        directory = tmp_path / "dpo" / "checkpoint" / name
        directory.mkdir(parents=True)
        (directory / "weights").write_text(name)
        mark_complete(directory)
    (tmp_path / "select_export").mkdir()
    write_json(tmp_path / "select_export" / "manifest.json", {"metrics": {"checkpoints": NAMES}})
    return tmp_path


QUALITY = {"weights_00000200": "fair", "weights_00000400": "good", "final": "poor"}


def config(root: Path, by: str) -> Config:
    cfg = Config()
    rows = [{"prompt": f"question {i}"} for i in range(5)]
    (root / "prompts.json").write_text(json.dumps(rows))
    (root / "compare.txt").write_text("<INSTRUCTION_HERE>|<FIRST_HERE>|<SECOND_HERE>")
    (root / "judge.txt").write_text("<INSTRUCTION_HERE>|<RESPONSE_HERE>")
    cfg.select.by, cfg.select.prompts, cfg.select.num_prompts = by, str(root / "prompts.json"), 4
    cfg.select.template, cfg.judge.template = str(root / "compare.txt"), str(root / "judge.txt")
    cfg.judge.draws = cfg.judge.min_valid = 1
    return cfg


def answered(cfg: Config, root: Path, monkeypatch: pytest.MonkeyPatch, shards: int = 1) -> dict:
    def shared(slot: Slot, path: Path, _: Config) -> FakeEngine:
        return FakeEngine(lambda text, seed: f"{QUALITY[path.parent.name]} answer to {text}")

    monkeypatch.setattr(engines, "shared", shared)
    return do(select_responses.STAGE, cfg, root, shards)


def verdict(text: str, seed: int) -> str | Failure:
    """A judge's text for a comparison and for a score."""
    parts, worth = text.split("|"), {"poor": 1, "fair": 3, "good": 5}
    scores = [worth[part.split()[0]] for part in parts[1:]]
    if len(scores) == 1:
        return f"Score: {scores[0]}"
    return "Better: A" if scores[0] >= scores[1] else "Better: B"


@pytest.mark.parametrize("by", ["compare", "score"])
@pytest.mark.parametrize("shards", [1, 3])
def test_the_last_checkpoint_that_beat_the_one_before_it_is_the_policy(
    trained: Path, monkeypatch: pytest.MonkeyPatch, by: str, shards: int
):
    cfg = config(trained, by)
    metrics = answered(cfg, trained, monkeypatch, shards)
    assert (metrics["prompts"], metrics["responses"]) == (4, 12)
    monkeypatch.setattr(engines, "shared", lambda slot, path, cfg: FakeEngine(verdict))
    found = do(select.STAGE, cfg, trained, shards)
    assert found["chosen"] == "weights_00000400"
    assert [step["counts"]["win"] for step in found["comparisons"]] == [4, 0]
    assert [step["net"] for step in found["comparisons"]] == [1.0, -1.0]
    chosen = trained / "select" / "checkpoint" / FINAL
    assert (chosen / "weights").read_text() == "weights_00000400"
    assert (chosen / "weights").samefile(trained / "dpo" / "checkpoint" / "weights_00000400" / "weights")
    assert "weights_00000400 of 3 checkpoints" in found["summary"]


def test_a_comparison_of_which_nothing_could_be_judged_is_an_error_and_no_choice(
    trained: Path, monkeypatch: pytest.MonkeyPatch
):
    cfg = config(trained, "compare")
    answered(cfg, trained, monkeypatch)
    monkeypatch.setattr(
        engines, "shared", lambda slot, path, cfg: FakeEngine(lambda text, seed: Failure("engine: dead"))
    )
    with pytest.raises(DataError, match=r"not one response of .'weights_00000400', 'final'. could be judged"):
        do(select.STAGE, cfg, trained)
    assert not (trained / "select" / "checkpoint").exists()


def test_a_torn_checkpoint_is_no_choice(trained: Path):
    directory = trained / "dpo" / "checkpoint"
    assert [path.name for path in weights_to_compare(directory, 200, 410)] == NAMES
    assert [path.name for path in weights_to_compare(directory, 200, 400)] == [NAMES[0], FINAL]
    with pytest.raises(CheckpointError, match="weights_00000600"):
        weights_to_compare(directory, 200, 601)
    (directory / NAMES[1] / "weights").write_text("cut")
    with pytest.raises(CheckpointError, match="weights has 3 bytes, not 16"):
        weights_to_compare(directory, 200, 410)

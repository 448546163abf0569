"""The stages import_hf and export on a tiny model, as a worker runs them."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from nemo_srlm.config.schema import Config, ExportSection, ImportSection, WorldSection
from nemo_srlm.convert import verify
from nemo_srlm.convert.children import Child
from nemo_srlm.convert.import_hf import import_hf as import_into
from nemo_srlm.core.progress import Progress
from nemo_srlm.core.stage import Context, Ref, Stage
from nemo_srlm.errors import CheckpointError, ConfigError, DataError
from nemo_srlm.stages import export, export_base, export_baseline, import_hf
from nemo_srlm.train.checkpoint_dir import latest
from tests.unit import tiny_llama

MODEL = replace(tiny_llama.SHAPES["gqa"], vocab_size=300)


@pytest.fixture
def cfg(tmp_path: Path) -> Config:
    made = tmp_path / "hf"
    tiny_llama.make(made, MODEL)
    tiny_llama.make_tokenizer(made, 259)
    return Config(model=MODEL, import_hf=ImportSection(path=str(made)), export=ExportSection(verify="round_trip"))


def run(stage: Stage, cfg: Config, directory: Path, **inputs: Path) -> dict[str, object]:
    directory.mkdir(exist_ok=True)
    ctx = Context(cfg, 0, directory, inputs, Progress(directory))
    stage.run(ctx)
    return stage.finalize(ctx)


def test_an_imported_m0_is_exported_with_its_tokenizer_and_the_chat_template(cfg: Config, tmp_path: Path):
    found = run(import_hf.STAGE, cfg, tmp_path / "import_hf")
    assert found["dtype"] == "bf16"
    assert found["num_parameters"] == sum(t.numel() for t in tiny_llama.read(tmp_path / "hf").values())
    assert latest(tmp_path / "import_hf" / "checkpoint") == tmp_path / "import_hf" / "checkpoint" / "final"
    metrics = run(
        export_base.STAGE, cfg, tmp_path / "export", policy=tmp_path / "import_hf", tokenizer=tmp_path / "import_hf"
    )
    assert metrics["verified"] == "round_trip"
    assert metrics["padding_rows_dropped"] == 0
    assert tiny_llama.equal_bits(tiny_llama.read(tmp_path / "export" / "hf"), tiny_llama.read(tmp_path / "hf"))
    settings = json.loads((tmp_path / "export" / "hf" / "tokenizer_config.json").read_text())
    assert cfg.chat.user_prefix in settings["chat_template"]


def test_a_finished_export_is_not_made_again_but_an_unverified_one_is(cfg: Config, tmp_path: Path):
    run(import_hf.STAGE, cfg, tmp_path / "m0")
    inputs = {"policy": tmp_path / "m0", "tokenizer": tmp_path / "m0"}
    run(export.STAGE, cfg, tmp_path / "export", **inputs)
    weights, card = tmp_path / "export" / "hf" / "model.safetensors", tmp_path / "export" / "hf.verification.json"
    inode = weights.stat().st_ino
    run(export.STAGE, cfg, tmp_path / "export", **inputs)
    assert weights.stat().st_ino == inode
    card.unlink()
    run(export.STAGE, cfg, tmp_path / "export", **inputs)
    assert weights.stat().st_ino != inode
    assert json.loads(card.read_text())["passed"]


def test_a_torn_checkpoint_is_passed_over_for_an_older_one(cfg: Config, tmp_path: Path):
    for step in ("step_00000010", "step_00000020"):
        import_into(tmp_path / "hf", tmp_path / "m0" / "checkpoint" / step)
    (tmp_path / "m0" / "checkpoint" / "step_00000020" / "__0_0.distcp").write_bytes(b"torn")
    shutil.copytree(tmp_path / "hf", tmp_path / "m0" / "tokenizer")
    with pytest.warns(UserWarning, match="step_00000020: __0_0.distcp has 4 bytes"):
        run(export.STAGE, cfg, tmp_path / "export", policy=tmp_path / "m0", tokenizer=tmp_path / "m0")
    card = json.loads((tmp_path / "export" / "hf.verification.json").read_text())
    assert card["checkpoint"].endswith("step_00000010")


def test_without_a_complete_checkpoint_the_export_says_where_it_looked(cfg: Config, tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"sft/checkpoint: no complete checkpoint"):
        run(export.STAGE, cfg, tmp_path / "export", policy=tmp_path / "sft", tokenizer=tmp_path / "sft")


def test_an_import_without_a_path_or_with_a_wrong_one_says_what_to_set(cfg: Config, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"import_hf.path: empty"):
        import_hf.STAGE.identity(replace(cfg, import_hf=ImportSection()), 0)
    with pytest.raises(DataError, match="is no directory"):
        import_hf.STAGE.identity(replace(cfg, import_hf=ImportSection(path=str(tmp_path / "absent"))), 0)


def test_the_imports_identity_is_what_the_directory_holds_not_where_it_lies(cfg: Config, tmp_path: Path):
    shutil.copytree(tmp_path / "hf", tmp_path / "moved")
    moved = replace(cfg, import_hf=ImportSection(path=str(tmp_path / "moved")))
    assert import_hf.STAGE.identity(cfg, 0) == import_hf.STAGE.identity(moved, 0)
    (tmp_path / "moved" / "config.json").write_text("{}")
    assert import_hf.STAGE.identity(cfg, 0) != import_hf.STAGE.identity(moved, 0)


def test_each_export_reads_its_own_model_and_the_runs_tokenizer():
    tiny, real = Config(world=WorldSection(enabled=True)), Config()
    assert export_base.STAGE.inputs(tiny, 0) == {"policy": Ref("pretrain", 0), "tokenizer": Ref("world", 0)}
    assert export_base.STAGE.inputs(real, 0) == {"policy": Ref("import_hf", 0), "tokenizer": Ref("import_hf", 0)}
    assert export_baseline.STAGE.inputs(real, 0)["policy"] == Ref("baseline", 0)
    assert export.STAGE.inputs(real, 0)["policy"] == Ref("sft", 0)
    assert export.STAGE.inputs(real, 2)["policy"] == Ref("dpo", 2)


def test_the_progress_of_an_export_is_complete_only_when_its_logits_are_checked(
    cfg: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run(import_hf.STAGE, cfg, tmp_path / "m0")
    seen: list[tuple[float, float]] = []
    monkeypatch.setattr(Progress, "update", lambda self, done, total, *_, **__: seen.append((done, total)))
    finished = iter([len(seen), len(seen)])

    def result(self: object, hf: Path, waiting: object) -> dict[str, object]:
        next(finished)
        assert seen[-1][0] < seen[-1][1]
        return {}

    monkeypatch.setattr(Child, "__init__", lambda self, *_: setattr(self, "result_path", tmp_path / "x"))
    monkeypatch.setattr(Child, "send", lambda *_: None)
    monkeypatch.setattr(Child, "result", result)
    equal = {"max_abs": 0.0, "mean_abs": 0.0, "largest_logit": 1.0, "same_top_token": 1.0, "tokens": 3, "dtype": "fp32"}
    monkeypatch.setattr(verify.compare_logits, "compare", lambda *_: equal)
    cfg.export.verify = "logits"
    run(export.STAGE, cfg, tmp_path / "export", policy=tmp_path / "m0", tokenizer=tmp_path / "m0")
    size = sum(t.numel() for t in tiny_llama.read(tmp_path / "hf").values())
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert {total for _, total in seen} == {4 * size}  # written, compared, and two forward passes
    assert seen[-1][0] == 4 * size
    assert list(finished) == []

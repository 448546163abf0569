"""What a killed or failing writer leaves behind: no part of a file under its name, no temporary file beside it."""

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from nemo_srlm.config.atomic import write_atomic
from nemo_srlm.config.compose import as_yaml, compose, load_resolved_config, save_resolved_config
from nemo_srlm.config.schema import Config
from nemo_srlm.core.files import write_records
from nemo_srlm.core.parts import PartWriter, merge_parts
from nemo_srlm.core.progress import Progress
from nemo_srlm.core.records import Candidate, Prompt
from nemo_srlm.core.stage import Context
from nemo_srlm.errors import ConfigError, DataError
from nemo_srlm.judge import pair_files
from nemo_srlm.judge.join import ScoredFiles

FIRST = (
    "iterations", "run", "world", "seed", "eft", "import_hf", "chat", "model", "parallel", "precision", "pretrain", "sft",
    "dpo", "generate", "prompts", "candidates", "judge", "pairs", "eval",
)  # fmt: skip
VERSIONS = (
    FIRST, {*FIRST, "export", "drift", "cluster"}, {*FIRST, "export", "drift", "cluster", "api", "select", "checker"},
    {f.name for f in fields(Config)},
)  # fmt: skip


@pytest.mark.parametrize("text", ["", "iterations: 2\n"])
def test_an_empty_config_of_a_run_is_refused_not_read_as_defaults(tmp_path: Path, text: str):
    (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"config\.yaml: no .*run, world, .*; expected the whole file.*restore it"):
        load_resolved_config(tmp_path)


def test_a_config_of_a_run_that_was_cut_before_its_last_section_is_refused(tmp_path: Path):
    lines = as_yaml(compose("tiny")).splitlines(keepends=True)
    sections = [i for i, line in enumerate(lines) if line.partition(":")[0] in VERSIONS[-1]]
    for cut in sections:
        (tmp_path / "config.yaml").write_text("".join(lines[:cut]), encoding="utf-8")
        with pytest.raises(ConfigError, match=r"config\.yaml: no "):
            load_resolved_config(tmp_path)


@pytest.mark.parametrize("sections", VERSIONS, ids=len)
def test_a_config_of_an_earlier_version_is_read(tmp_path: Path, sections: set[str]):
    from omegaconf import OmegaConf

    cfg = compose("tiny")
    OmegaConf.save(OmegaConf.masked_copy(OmegaConf.structured(cfg), list(sections)), tmp_path / "config.yaml")
    assert load_resolved_config(tmp_path).judge == cfg.judge


def test_a_config_is_flushed_to_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    there: list[bool] = []
    monkeypatch.setattr("os.fsync", lambda descriptor: there.append((tmp_path / "config.yaml").exists()))
    save_resolved_config(compose("tiny"), tmp_path)
    assert there == [False]
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def failing(records: list[Prompt]) -> Iterator[Prompt]:
    yield from records
    raise ValueError("no more")


def test_records_that_cannot_be_made_leave_the_old_file_and_no_temporary_one(tmp_path: Path):
    path = tmp_path / "x.jsonl"
    write_atomic(path, "old\n")
    with pytest.raises(ValueError, match="no more"):
        write_records(path, failing([Prompt("p", "x")]))
    assert [(found.name, found.read_text(encoding="utf-8")) for found in tmp_path.iterdir()] == [("x.jsonl", "old\n")]


def test_pairs_that_cannot_be_made_leave_no_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def no_scores(files: ScoredFiles, min_valid: int) -> Iterator[None]:
        raise DataError("judgements.jsonl", "do not match")
        yield

    monkeypatch.setattr(pair_files, "prompts_with_scores", no_scores)
    (tmp_path / "prompts.jsonl").touch()
    files = ScoredFiles(*(tmp_path / "prompts.jsonl",) * 3)
    with pytest.raises(DataError, match="do not match"):
        pair_files.write_pairs(files, 1, lambda one: "none", tmp_path, lambda *numbers: None)
    assert [found.name for found in tmp_path.iterdir()] == ["prompts.jsonl"]


def test_parts_that_cannot_be_merged_leave_no_temporary_file(tmp_path: Path):
    ctx = Context(Config(), 1, tmp_path, {}, Progress(tmp_path))
    writer = PartWriter(ctx)
    writer.append(Prompt("a", "text"))
    writer.close()
    with pytest.raises(DataError, match=r"candidates\.jsonl"):
        merge_parts(ctx, Candidate, ["a"], "candidates.jsonl")  # the parts hold other records
    assert not list(tmp_path.glob("*candidates*"))
    with (tmp_path / "parts/00000-of-00001.jsonl").open("a", encoding="utf-8") as part:
        part.write("{}\n")
    with pytest.raises(DataError, match="not a record"):
        merge_parts(ctx, Prompt, ["a", "b"], "prompts.jsonl")
    assert not list(tmp_path.glob("*prompts*"))

"""Every shipped YAML file composes, fits its GPUs, and contains only settings that differ from the schema's defaults."""

import re
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from nemo_srlm.config.compose import compose
from nemo_srlm.config.schema import Config
from nemo_srlm.config.shipped import CONFIGS
from nemo_srlm.core.pipeline import NAMES, pipeline
from nemo_srlm.stages import load
from nemo_srlm.train import estimate
from nemo_srlm.train.layout import check_batches, check_layout, check_precision

FILES = sorted(CONFIGS.glob("*.yaml"))
NO_SIZE = ("tiny", "real", "smollm2_135m")  # the one is tiny, the others take the architecture of import_hf.path


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_a_config_builds_and_its_pipeline_is_ordered(path: Path):
    cfg = compose(path.stem)
    seen = set()
    for ref in pipeline(cfg):
        assert ref.stage in NAMES
        stage = load(ref.stage)
        assert set(stage.inputs(cfg, ref.iteration).values()) <= seen, f"{ref} reads what comes after it"
        seen.add(ref)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_a_configs_layout_batches_and_precision_are_possible_on_its_gpus(path: Path):
    cfg = compose(path.stem)
    check_layout(cfg.model, cfg.parallel)
    for name in ("pretrain", "sft", "dpo") if cfg.world.enabled else ("sft", "dpo"):
        check_batches(name, getattr(cfg, name), cfg.parallel)
    check_precision(cfg.precision, transformer_engine=True, capability=(9, 0))


@pytest.mark.parametrize("path", [p for p in FILES if p.stem not in NO_SIZE], ids=lambda p: p.stem)
def test_a_configs_training_fits_its_gpus_and_takes_the_memory_that_its_comment_states(path: Path):
    cfg = compose(path.stem)
    found = {
        w.name: estimate.peak_memory(cfg.model, cfg.parallel, cfg.precision, w)[1].total for w in estimate.works(cfg)
    }
    assert max(found.values()) <= estimate.GPUS["h100"].memory * estimate.GIB
    stated = re.findall(r"(SFT|DPO) (\d+) GiB", path.read_text(encoding="utf-8"))
    for name, number in stated:
        assert found[name.lower()] / estimate.GIB == pytest.approx(float(number), rel=0.03)


def leaves(tree: DictConfig, prefix: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        found |= leaves(value, f"{name}.") if isinstance(value, DictConfig) and value else {name: value}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_a_config_holds_deltas_only(path: Path):
    loaded = OmegaConf.load(path)
    assert isinstance(loaded, DictConfig)
    loaded.pop("defaults", None)
    defaults = OmegaConf.structured(Config)
    same = [k for k, v in leaves(loaded).items() if OmegaConf.select(defaults, k) == v]
    assert same == [], "these repeat the schema's default"

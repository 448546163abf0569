"""A folder of configs of the user's own beside the shipped ones (--config-dir)."""

import re
from pathlib import Path

import pytest

from nemo_srlm.config.compose import compose
from nemo_srlm.config.shipped import CONFIGS
from nemo_srlm.errors import ConfigError


def own(folder: Path, **files: str) -> Path:
    """A folder with a file per name; two underscores stand for a folder."""
    for name, text in files.items():
        path = folder / f"{name.replace('__', '/')}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_a_config_builds_on_a_shipped_one_and_picks_clusters_of_both_folders(tmp_path: Path):
    folder = own(
        tmp_path / "it's mine, [b]=1 é", mine="defaults: [tiny, _self_]\nrun: {name: mine}\n",
        site="defaults: [mine, {cluster: ours}, _self_]\n", cluster__ours="defaults: [dgx_h100, _self_]\naccount: us\n",
    )  # fmt: skip
    found, shipped = compose("mine", ["dpo.beta=0.3"], folder), compose("tiny", ["dpo.beta=0.3"])
    assert (found.run.name, found.model, found.world, found.dpo) == ("mine", shipped.model, shipped.world, shipped.dpo)
    for cfg in (compose("mine", ["cluster=ours"], folder), compose("site", [], folder)):
        assert (cfg.cluster.account, cfg.cluster.gpus_per_node) == ("us", 8)
    assert compose("site", ["cluster=cpu"], folder).cluster.partition == "cpu"
    assert compose("tiny", ["cluster=ours"], folder).cluster.account == "us"  # a profile for a shipped config


def test_a_file_of_ones_own_hides_the_shipped_one(tmp_path: Path):
    folder = own(tmp_path, tiny="run: {name: other}\nsft: {lr: 0.5}\n", cluster__dev="partition: ours\n")
    assert compose("tiny", [], folder).sft.lr == 0.5
    for name in ("tiny", "smollm2_135m"):
        assert compose(name, ["cluster=dev"], folder).cluster.partition == "ours"


def test_a_cluster_replaces_one_that_the_defaults_of_defaults_name():
    assert compose("german", ["cluster=cpu"]).cluster.partition == "cpu"


def test_what_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(
        ConfigError, match=r"--config-dir: .*/nowhere is no directory; expected a directory of YAML files"
    ):
        compose("tiny", [], tmp_path / "nowhere")
    folder = own(tmp_path, mine="defaults: [tiny]\n", other="defaults: [tinny]\n")
    with pytest.raises(
        ConfigError, match=rf"no mein\.yaml in {tmp_path} or {CONFIGS}; expected one of: .*mine.*, tiny"
    ):
        compose("mein", [], folder)
    with pytest.raises(ConfigError, match="'other': Could not load 'tinny'"):
        compose("other", [], folder)
    for word in ("a/b", "nope", "null", ""):
        with pytest.raises(
            ConfigError,
            match=rf"cluster: '{word}'; expected the name of a file in {CONFIGS}/cluster, .*: .*cpu, .*dgx_h100",
        ):
            compose("mine", [f"cluster={word}"], folder)


def test_a_config_with_a_shipped_name_cannot_build_on_it(tmp_path: Path):
    folder = own(tmp_path, tiny="defaults: [tiny, _self_]\n")
    with pytest.raises(ConfigError, match=rf"tiny -> tiny; .*give it another name than that of {CONFIGS}/tiny\.yaml"):
        compose("tiny", [], folder)


@pytest.mark.parametrize("word", ["dgx_h100", "dgx_h100.yaml"])
def test_a_profile_that_builds_on_the_shipped_one_of_its_own_name_is_told_which_file_it_hides(
    tmp_path: Path, word: str
):
    (tmp_path / "cluster").mkdir()
    (tmp_path / "cluster" / "dgx_h100.yaml").write_text("defaults: [dgx_h100, _self_]\n", encoding="utf-8")
    with pytest.raises(
        ConfigError, match=f"that of {re.escape(str(CONFIGS / 'cluster' / 'dgx_h100.yaml'))}, which it hides"
    ):
        compose("tiny", [f"cluster={word}"], tmp_path)


@pytest.mark.parametrize("word", ["iterations=3", "+iterations=3", "dpo.beta=0.2", "++dpo.beta=0.2", "~dpo.beta"])
def test_a_folder_with_the_name_of_a_setting_is_refused(tmp_path: Path, word: str):
    """`iterations=3` was the file 3.yaml of the folder: "expected the name of a file"."""
    key = word.strip("~+").partition("=")[0]
    (tmp_path / key).mkdir()
    with pytest.raises(
        ConfigError,
        match=rf"{re.escape(str(tmp_path / key))}: a folder with the name of the setting {re.escape(key)}, .*; expected .*"
        r"named like a section.*; rename the folder, or keep the configs in a folder without it",
    ):
        compose("tiny", [word], tmp_path)
    assert compose("tiny", ["run.name=x"], tmp_path).run.name == "x", "nothing asks for it"


def test_settings_of_a_section_are_settings_beside_a_folder_of_its_name(tmp_path: Path):
    folder = own(tmp_path, dpo__strong="beta: 0.5\n")
    assert compose("tiny", ["dpo=strong"], folder).dpo.beta == 0.5
    assert compose("tiny", ["dpo={beta: 0.25}"], folder).dpo.beta == 0.25

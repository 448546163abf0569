"""The training image's Dockerfile: it is linted, and its lines but FROM are run, with this environment in the image's place."""

import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from nemo_srlm.config.compose import compose
from tools.image_constraints import NEED_NUMPY_2, constraints, normal

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "containers/train.Dockerfile"
HADOLINT = Path(sys.executable).parent / "hadolint"


def instructions() -> list[tuple[str, str]]:
    """(instruction, its argument) of the Dockerfile, continued lines joined."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(encoding="utf-8"), flags=re.M).replace("\\\n", " ")
    return [(word, rest) for line in text.splitlines() if line for word, _, rest in [line.partition(" ")]]


def test_hadolint_finds_nothing():
    if not HADOLINT.exists():
        pytest.skip("hadolint is not installed")
    done = subprocess.run([HADOLINT, "--no-color", DOCKERFILE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.slow
def test_every_line_but_from_runs(tmp_path: Path):
    """pip resolves offline and installs nothing: this environment holds what the image lacks, its torch is the image's."""
    work = tmp_path / "work"
    folder = str(Path(sys.executable).parent)
    env = {"WORK": str(work), "PIP_DRY_RUN": "1", "PIP_NO_INDEX": "1", "PATH": f"{folder}:{os.environ['PATH']}"}
    ran = []
    for word, rest in instructions():
        if word == "COPY":
            source, target = (part.replace("${WORK}", str(work)) for part in rest.split())
            work.mkdir(exist_ok=True)
            copied = ROOT / source
            if copied.is_dir():
                shutil.copytree(copied, target)
            else:
                shutil.copy2(copied, target)
        elif word == "RUN":
            done = subprocess.run(
                ["bash", "-o", "pipefail", "-c", rest], capture_output=True, text=True, cwd=tmp_path, check=False,
                env={**os.environ, **env},
            )  # fmt: skip
            assert done.returncode == 0, done.stdout + done.stderr
            assert "Would install" not in done.stdout
        ran.append(word)
    assert {"FROM", "COPY", "RUN"} <= set(ran) <= {"ARG", "FROM", "SHELL", "COPY", "RUN"}


def test_the_images_own_stack_is_kept_and_our_pins_hold_for_the_rest():
    pins = [
        "# comment",
        "numpy==2.3.5 # why",
        "protobuf==7.36.2",
        "torchmetrics==1.9.0",
        'setuptools==80.10.2 ; python_version >= "3.12"',
    ]
    image = {
        "torch": "2.10.0a0+b4e4ee81d3.nv25.12", "transformer_engine": "2.10.0", "apex": "0.1", "numpy": "1.26.4",
        "nvidia-cudnn-frontend": "1.16.0", "protobuf": "4.25.8", "torchvision": "0.25.0a0", "torchmetrics": "1.0",
    }  # fmt: skip
    assert constraints(pins, image) == [
        "apex==0.1", "numpy==1.26.4", "nvidia-cudnn-frontend==1.16.0", "torch==2.10.0a0+b4e4ee81d3.nv25.12",
        "torchvision==0.25.0a0", "transformer-engine==2.10.0", "protobuf==7.36.2", "torchmetrics==1.9.0",
        'setuptools==80.10.2 ; python_version >= "3.12"',
    ]  # fmt: skip


def test_pins_that_need_numpy_2_hold_only_beside_it():
    pins = ["ml_dtypes==0.6.0", "numpy==2.3.5", "pandas==3.1.1", "protobuf==7.36.2"]
    assert constraints(pins, {"numpy": "1.26.4"}) == ["numpy==1.26.4", "protobuf==7.36.2"]
    assert constraints(pins, {"numpy": "2.1.0"}) == ["numpy==2.1.0", pins[0], *pins[2:]]
    assert constraints(pins, {}) == pins


def test_the_pins_that_need_numpy_2_are_known():
    """Of what is installed here: each that accepts no older numpy is named, so that an image with one still resolves."""
    lines = (ROOT / "tools/requirements/constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {normal(line.partition("==")[0]) for line in lines if "==" in line}
    needed = {}
    for found in distributions():
        wanted = [Requirement(line) for line in found.requires or ()]
        numpy = [
            r.specifier for r in wanted if r.name == "numpy" and (not r.marker or r.marker.evaluate({"extra": ""}))
        ]
        needed[normal(found.metadata["Name"])] = numpy
    needing = {name for name in pinned & needed.keys() if not all("1.26.4" in one for one in needed[name])}
    assert needing == NEED_NUMPY_2 & needed.keys()


def test_the_shipped_gpu_profile_names_an_image_for_every_kind_of_stage_and_vllms_for_generation():
    site = compose("llama2_70b", ["cluster=dgx_h100"]).cluster
    images = {kind: getattr(site, kind).image or site.image for kind in ("train", "convert", "cpu", "generate")}
    assert all(images.values())
    assert images["train"] == images["convert"] == images["cpu"] != images["generate"]

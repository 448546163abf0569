"""Puts the toy pipeline in the place of the real one in every process whose PYTHONPATH names this folder."""

import os

import toy_pipeline

import nemo_srlm.stages

nemo_srlm.stages.load = toy_pipeline.load  # first: what is imported from here on takes these
nemo_srlm.stages.pipeline = toy_pipeline.pipeline

import nemo_srlm.slurm.jobs  # noqa: E402

nemo_srlm.slurm.jobs.TRAINER = ["-m", "toy_trainer"]
if not os.environ.get("TOY_TORCH"):
    nemo_srlm.slurm.jobs.LAUNCHER = ["-m", "toy_launch"]

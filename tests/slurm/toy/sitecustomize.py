"""Replaces the real pipeline by the toy pipeline in every process whose PYTHONPATH contains this folder."""

import os

import toy_pipeline

import nemo_srlm.core.pipeline
import nemo_srlm.stages

nemo_srlm.stages.load = toy_pipeline.load  # before other imports, which then use these functions
nemo_srlm.core.pipeline.pipeline = toy_pipeline.pipeline

import nemo_srlm.launch.contract  # noqa: E402

nemo_srlm.launch.contract.load = toy_pipeline.load
nemo_srlm.launch.contract.TRAIN_WORKER = "toy_trainer"
if not os.environ.get("TOY_TORCH"):
    nemo_srlm.launch.contract.TORCHRUN = "toy_torchrun"

"""Measurements of a model: judging against humans, model against model, benchmarks, drift. Pure functions on records.

Light: numpy at most. Nothing here imports torch, vllm or nemo, and nothing here runs a model.
"""

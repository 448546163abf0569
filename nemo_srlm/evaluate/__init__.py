"""Measurements of a model: judging against human rankings, head-to-head, benchmarks, drift. Functions on finished records.

Needs numpy at most: nothing here imports torch, vllm or nemo, and nothing here runs a model.
"""

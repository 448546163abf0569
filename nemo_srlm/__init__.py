"""Self-Rewarding Language Models (arXiv 2401.10020) as a Megatron-scale trainer: M0 -> M1 -> M2 -> M3."""

__version__ = "0.2.0"

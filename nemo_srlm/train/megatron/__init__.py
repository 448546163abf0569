"""The only place that imports megatron, nemo, transformer_engine and apex. Importing this package imports none of them."""

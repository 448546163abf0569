"""The generators of tools/bench/bad_inputs.py: one module for each kind of input."""

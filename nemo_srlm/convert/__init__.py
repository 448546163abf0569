"""Checkpoints in and out: HF safetensors <-> Megatron torch_dist, streamed, for any size and layout.

mapping          the one table between HF and Megatron tensors
hf_config        config.json <-> config.ModelSection
hf_weights        the weights of an HF directory, checked
stored           tensors in files, read by rows; directories that appear whole or not at all
safetensors_files, torch_save_files, torch_dist   the three file formats
spread           one process or several, and the sum of their progress
importing, exporting, tokenizer_files       the two directions
verify           exact round trip, logits against transformers, greedy tokens of vLLM; the verification card
"""

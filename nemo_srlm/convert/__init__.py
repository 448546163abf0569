"""HF safetensors <-> Megatron torch_dist checkpoints, streamed, for any model size and parallel layout.

families/            one file per model family: config.json and the mapping of its tensors; table.py lists them
mapping              the terms of such a mapping: which rows of an HF tensor lie where in a Megatron tensor
config_json          the fields of a config.json that families share
hf_config            config.json <-> config.ModelSection
hf_weights           the weight files of an HF directory, checked against config.json
import_hf            HF -> Megatron
export_hf            Megatron -> HF
tokenizer_files      the files beside the weights: tokenizer, chat template, generation settings
verify               exact round trip, equal logits, equal greedy tokens; the verification card
children             the processes that it starts, with their requests and results
compare_logits, vllm_check   what runs in them
tensor_files         tensors in files: reading rows, writing bytes, buffers
safetensors_files, torch_save_files, torch_dist_files   the three file formats
atomic_directory     a directory that appears when it is complete
processes            one process or several, reading ahead, progress
"""

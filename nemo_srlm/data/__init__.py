"""Data: files to records and token ids: tokenizer, chat format, templates, Open Assistant, splits, prompts, preferences."""

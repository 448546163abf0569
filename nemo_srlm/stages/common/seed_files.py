"""The files of the stage seed that exist only where the user's config names more than trees."""

CONVERSATIONS = "conversations.jsonl"  # Conversation, of seed.chat_files
FILE_PROMPTS = "file_prompts.jsonl"  # Prompt, of prompts.files
HELD_OUT = "held_out.jsonl"  # Prompt: those of eval.prompts and select.prompts; absent without any

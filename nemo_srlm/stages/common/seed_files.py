"""The files of the stage seed that exist only where the user's config names more than trees, and what is held out."""

from pathlib import Path

from nemo_srlm.core.files import read_records
from nemo_srlm.core.records import Prompt, RankedReply

CONVERSATIONS = "conversations.jsonl"  # Conversation, of seed.chat_files
FILE_PROMPTS = "file_prompts.jsonl"  # Prompt, of prompts.files
HELD_OUT = "held_out.jsonl"  # Prompt: those of the files of seed.held_out; absent without any


def held_out_texts(seed: Path) -> list[str]:
    """Every instruction that the stage seed held out, or that the user's files hold out: each once, sorted.

    seed: the directory of the finished stage.
    """
    texts = {prompt.text for prompt in read_records(seed / "eval_prompts.jsonl", Prompt)}
    texts |= {reply.instruction for reply in read_records(seed / "ranked_valid.jsonl", RankedReply)}
    if (seed / HELD_OUT).exists():
        texts |= {prompt.text for prompt in read_records(seed / HELD_OUT, Prompt)}
    return sorted(texts)

"""What a DPO training is given: the preference pairs of its inputs that fit, and the EFT examples that it replays.

For the stage dpo, and for an estimate of it from a run's own data.
"""

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from nemo_srlm.core.files import read_records
from nemo_srlm.core.records import PreferencePair
from nemo_srlm.core.stage import Context
from nemo_srlm.stages.common import training

if TYPE_CHECKING:
    from nemo_srlm.data.chat import Chat, Document


class PairDocuments(NamedTuple):
    """A pair and both of its sides as documents."""

    pair: PreferencePair
    chosen: "Document"
    rejected: "Document"


def records(ctx: Context, dropped: Counter[str]) -> Iterator[PreferencePair]:
    """The pairs of this iteration, or of all so far, each once (those of pairs.files are in every iteration); of responses
    and, with judge_training, of judgements."""
    earlier = [name for name in ctx.inputs if name.startswith(("pairs_", "judge_pairs_"))]
    seen: set[str] = set()
    for name in (*earlier, "pairs", *(["judge_pairs"] if "judge_pairs" in ctx.inputs else [])):
        for pair in read_records(ctx.inputs[name] / "pairs.jsonl", PreferencePair):
            if pair.id in seen:
                dropped["duplicate"] += 1
            else:
                seen.add(pair.id)
                yield pair


def examples(ctx: Context, chat: "Chat", dropped: Counter[str]) -> "tuple[list[PairDocuments], list[Document]]":
    """(pairs, examples to replay) that fit dpo.max_length; the others are counted by reason."""
    from nemo_srlm.train.batches import drop_reason

    section = ctx.cfg.dpo
    pairs = []
    for pair in records(ctx, dropped):
        found = PairDocuments(pair, chat.document(pair.prompt, pair.chosen), chat.document(pair.prompt, pair.rejected))
        reason = drop_reason((found.chosen, found.rejected), section.max_length)
        if reason:
            dropped[reason] += 1
        else:
            pairs.append(found)
    if not section.replay_weight:
        return pairs, []
    return pairs, training.sft_documents(ctx.inputs["eft"] / "eft_train.jsonl", chat, section.max_length, dropped)

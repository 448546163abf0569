"""What a DPO training is given: the preference pairs of its inputs that fit, and the EFT examples that it replays.

For the stage dpo, and for an estimate of it from a run's own data.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from nemo_srlm.core.files import read_records
from nemo_srlm.core.records import PreferencePair
from nemo_srlm.core.stage import Context
from nemo_srlm.stages.common import training

if TYPE_CHECKING:
    from nemo_srlm.data.chat import Chat, Document


class PairDocuments(NamedTuple):
    """A pair and both of its sides as documents. `kind`: the stage of the pair, pairs or judge_pairs."""

    pair: PreferencePair
    chosen: "Document"
    rejected: "Document"
    kind: str


def records(ctx: Context, dropped: Counter[str]) -> Iterator[tuple[str, PreferencePair]]:
    """(kind, pair) of this iteration, or of all so far, each once (those of pairs.files are in every iteration); of responses
    and, with judge_training, of judgements. kind: see PairDocuments."""
    earlier = [name for name in ctx.inputs if name.startswith(("pairs_", "judge_pairs_"))]
    seen: set[str] = set()
    for name in (*earlier, "pairs", *(["judge_pairs"] if "judge_pairs" in ctx.inputs else [])):
        kind = "judge_pairs" if name.startswith("judge_pairs") else "pairs"
        for pair in read_records(ctx.inputs[name] / "pairs.jsonl", PreferencePair):
            if pair.id in seen:
                dropped[_reason(kind, "duplicate")] += 1
            else:
                seen.add(pair.id)
                yield kind, pair


def _reason(kind: str, reason: str) -> str:
    """The name under which a dropped pair is counted."""
    return reason if kind == "pairs" else f"{kind}_{reason}"


def examples(ctx: Context, chat: "Chat", dropped: Counter[str]) -> "tuple[list[PairDocuments], list[Document]]":
    """(pairs, examples to replay) that fit dpo.max_length; the others are counted by reason."""
    from nemo_srlm.train.batches import drop_reason

    section = ctx.cfg.dpo
    pairs = []
    for kind, pair in records(ctx, dropped):
        sides = (chat.document(pair.prompt, pair.chosen), chat.document(pair.prompt, pair.rejected))
        found = PairDocuments(pair, *sides, kind)
        reason = drop_reason((found.chosen, found.rejected), section.max_length)
        if reason:
            dropped[_reason(kind, reason)] += 1
        else:
            pairs.append(found)
    if not section.replay_weight:
        return pairs, []
    return pairs, training.sft_documents(ctx.inputs["eft"] / "eft_train.jsonl", chat, section.max_length, dropped)


def count(ctx: Context, found: Sequence[PairDocuments]) -> dict[str, int]:
    """The number of pairs of each kind that the stage reads."""
    kinds = Counter(one.kind for one in found)
    return {kind: kinds[kind] for kind in ("pairs", "judge_pairs") if kind in ctx.inputs}

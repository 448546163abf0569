"""sft_chosen (run.arm=sft_only): M(t+1) without preferences, as the paper's "positive examples only" control.

M0 is tuned as M1 was (IFT + EFT, the settings of `sft`), with the chosen responses of all iterations so far added to
the seed data. Everything up to the pairs is as in the arm "self", so the two arms differ only in whether the rejected
responses are used. From M0 and not from the policy: more epochs over the same seed data would be a second change.
"""

from collections import Counter
from typing import Any

from nemo_srlm.config.schema import Config
from nemo_srlm.core.files import read_records
from nemo_srlm.core.records import PreferencePair
from nemo_srlm.core.stage import Context, Ref, Stage
from nemo_srlm.stages.common import training


def _inputs(cfg: Config, iteration: int) -> dict[str, Ref]:
    return {**training.sft_inputs(cfg, eft=True), **{f"pairs_{t}": Ref("pairs", t) for t in range(1, iteration + 1)}}


def _identity(cfg: Config, iteration: int) -> dict[str, Any]:
    return training.policy_identity(cfg, "sft", "sft_chosen")


def _run(ctx: Context) -> None:
    from nemo_srlm.data.chat import Chat

    section = ctx.cfg.sft
    chat = Chat.of(training.open_tokenizer(ctx), ctx.cfg.chat)
    dropped: Counter[str] = Counter()
    used = training.seed_documents(ctx, chat, dropped)
    for t in range(1, ctx.iteration + 1):
        pairs = read_records(ctx.inputs[f"pairs_{t}"] / "pairs.jsonl", PreferencePair)
        chosen = (chat.document(pair.prompt, pair.chosen) for pair in pairs)
        used[f"chosen_{t}"] = training.keep(chosen, section.max_length, dropped)
    training.fit_sft(ctx, used, dropped)


STAGE = Stage("sft_chosen", "train", _inputs, _identity, _run, training.summary, check=training.checks("sft"))

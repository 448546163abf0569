"""sft: M1, M0 tuned on IFT + EFT (the paper's seed data; an instruct model on EFT alone). The loss is on the responses only."""

from collections import Counter
from typing import Any

from nemo_srlm.config.schema import Config
from nemo_srlm.core.stage import Context, Ref, Stage
from nemo_srlm.stages.common import training


def _inputs(cfg: Config, iteration: int) -> dict[str, Ref]:
    return training.sft_inputs(cfg, eft=True)


def _identity(cfg: Config, iteration: int) -> dict[str, Any]:
    return training.policy_identity(cfg, "sft", "sft")


def _run(ctx: Context) -> None:
    from nemo_srlm.data.chat import Chat

    chat = Chat.of(training.open_tokenizer(ctx), ctx.cfg.chat)
    dropped: Counter[str] = Counter()
    training.fit_sft(ctx, training.seed_documents(ctx, chat, dropped), dropped)


STAGE = Stage("sft", "train", _inputs, _identity, _run, training.summary, check=training.checks("sft"))

"""sft: M1, M0 tuned on IFT + EFT (the paper's seed data). The loss is on the responses only."""

from collections import Counter
from typing import Any

from nemo_srlm.config.schema import Config
from nemo_srlm.core.stage import Context, Ref, Stage
from nemo_srlm.stages.common import training


def _inputs(cfg: Config, iteration: int) -> dict[str, Ref]:
    return training.sft_inputs(cfg)


def _identity(cfg: Config, iteration: int) -> dict[str, Any]:
    return training.policy_identity(cfg, "sft", "sft")


def _run(ctx: Context) -> None:
    from nemo_srlm.data.chat import Chat

    section = ctx.cfg.sft
    chat = Chat.of(training.open_tokenizer(ctx), ctx.cfg.chat)
    dropped: Counter[str] = Counter()
    ift = training.sft_documents(ctx.inputs["seed"] / "ift.jsonl", chat, section.max_length, dropped)
    eft = training.sft_documents(ctx.inputs["eft"] / "eft_train.jsonl", chat, section.max_length, dropped)
    training.fit_sft(ctx, {"ift": ift, "eft": eft}, dropped)


STAGE = Stage("sft", "train", _inputs, _identity, _run, training.summary, check=training.check)

"""baseline: the SFT baseline of the paper, M0 tuned on IFT alone. It writes the EFT judgements and is evaluated too."""

from collections import Counter
from typing import Any

from nemo_srlm.config.schema import Config
from nemo_srlm.core.stage import Context, Ref, Stage
from nemo_srlm.stages.common import training


def _inputs(cfg: Config, iteration: int) -> dict[str, Ref]:
    return training.sft_inputs(cfg, eft=False)


def _identity(cfg: Config, iteration: int) -> dict[str, Any]:
    return training.common_identity(cfg, "sft")


def _run(ctx: Context) -> None:
    from nemo_srlm.data.chat import Chat

    chat = Chat.of(training.open_tokenizer(ctx), ctx.cfg.chat)
    dropped: Counter[str] = Counter()
    training.fit_sft(ctx, training.seed_documents(ctx, chat, dropped), dropped)


STAGE = Stage("baseline", "train", _inputs, _identity, _run, training.summary, check=training.checks("sft"))

"""baseline: the SFT baseline of the paper, M0 tuned on IFT alone. It writes the EFT judgements and is evaluated too."""

from collections import Counter
from typing import Any

from nemo_srlm.config.schema import Config
from nemo_srlm.core.files import read_records
from nemo_srlm.core.records import RankedReply
from nemo_srlm.core.stage import Context, Ref, Stage
from nemo_srlm.errors import DataError
from nemo_srlm.stages.common import training


def _inputs(cfg: Config, iteration: int) -> dict[str, Ref]:
    return training.sft_inputs(cfg, eft=False)


def _identity(cfg: Config, iteration: int) -> dict[str, Any]:
    return training.common_identity(cfg, "sft")


def _run(ctx: Context) -> None:
    """Raises DataError where it would be trained to write judgements of nothing."""
    from nemo_srlm.data.chat import Chat

    ranked = ctx.inputs["seed"] / "ranked_train.jsonl" if "seed" in ctx.inputs else None
    if ctx.cfg.eft.source == "baseline" and ranked and not any(read_records(ranked, RankedReply)):
        raise DataError(
            ranked, f"no ranked reply is left for EFT: IFT has the {ctx.cfg.seed.num_ift} it asks for (seed.num_ift)",
            "ranked replies to instructions that are not in IFT", "in a new run: lower seed.num_ift, add seed data, or "
            "eft.source=none",
        )  # fmt: skip
    chat = Chat.of(training.open_tokenizer(ctx), ctx.cfg.chat)
    dropped: Counter[str] = Counter()
    training.fit_sft(ctx, training.seed_documents(ctx, chat, dropped), dropped)


STAGE = Stage("baseline", "train", _inputs, _identity, _run, training.summary, check=training.checks("sft"))

"""pretrain (tiny world only): M0 from random weights on the web corpus. Writes checkpoint/ and metrics.jsonl."""

from collections import Counter
from typing import Any

from nemo_srlm.config.schema import Config
from nemo_srlm.core import pipeline
from nemo_srlm.core.files import read_json_lines
from nemo_srlm.core.stage import Context, Ref, Stage
from nemo_srlm.stages.common import training
from nemo_srlm.tiny_world.files import CORPUS

_VALIDATION = 0.005  # share of the documents, at the end of the corpus, that are held out for the validation loss


def _inputs(cfg: Config, iteration: int) -> dict[str, Ref]:
    return {"world": Ref("world", 0), "tokenizer": pipeline.tokenizer_ref(cfg)}


def _identity(cfg: Config, iteration: int) -> dict[str, Any]:
    return training.common_identity(cfg, "pretrain")


def _run(ctx: Context) -> None:
    from nemo_srlm.data.chat import weighted_document
    from nemo_srlm.train.megatron.job import start
    from nemo_srlm.train.megatron.tasks import sft_task
    from nemo_srlm.train.megatron.trainer import fit

    section = ctx.cfg.pretrain
    tokenizer = training.open_tokenizer(ctx)
    dropped: Counter[str] = Counter()
    corpus = (
        weighted_document(tokenizer, data["segments"]) for _, data in read_json_lines(ctx.inputs["world"] / CORPUS)
    )
    documents = training.keep(corpus, section.max_length, dropped)
    num_held = int(len(documents) * _VALIDATION)
    fitted, held = documents[: len(documents) - num_held], documents[len(documents) - num_held :]
    training.write_data(ctx, {"documents": len(fitted), "validation": len(held)}, dropped)
    job = training.job(ctx, section, initial=None)
    weight = section.question_weight
    validation = sft_task(held, job.seed, weight, shuffled=False) if held else None
    fit(start(job), sft_task(fitted, job.seed, weight), validation)


STAGE = Stage("pretrain", "train", _inputs, _identity, _run, training.summary, check=training.checks("pretrain"))

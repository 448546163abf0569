"""pretrain (tiny world only): M0 from random weights on the web corpus. Writes checkpoint/ and metrics.jsonl."""

from collections import Counter
from typing import Any

from nemo_srlm.config.schema import Config
from nemo_srlm.core import pipeline
from nemo_srlm.core.files import read_json_lines
from nemo_srlm.core.stage import Context, Ref, Stage
from nemo_srlm.stages.common import training
from nemo_srlm.tiny_world.files import CORPUS

_VALIDATION = 0.005  # share of the documents, at the end of the corpus, that only the validation loss sees


def _inputs(cfg: Config, iteration: int) -> dict[str, Ref]:
    return {"world": Ref("world", 0), "tokenizer": pipeline.tokenizer_ref(cfg)}


def _identity(cfg: Config, iteration: int) -> dict[str, Any]:
    return training.common_identity(cfg, "pretrain")


def _run(ctx: Context) -> None:
    from nemo_srlm.data.chat import weighted_document
    from nemo_srlm.train.megatron import tasks
    from nemo_srlm.train.megatron import trainer as megatron_trainer

    section = ctx.cfg.pretrain
    tokenizer = training.open_tokenizer(ctx)
    dropped: Counter[str] = Counter()
    corpus = (
        weighted_document(tokenizer, data["segments"]) for _, data in read_json_lines(ctx.inputs["world"] / CORPUS)
    )
    documents = training.keep(corpus, section.max_length, dropped)
    held_out = int(len(documents) * _VALIDATION)
    fit, check = documents[: len(documents) - held_out], documents[len(documents) - held_out :]
    training.write_data(ctx, {"documents": len(fit), "validation": len(check)}, dropped)
    job = training.job(ctx, section, initial=None)
    trainer = megatron_trainer.start(job)
    weight = section.question_weight
    validation = tasks.sft_task(check, job.seed, weight, shuffled=False) if check else None
    megatron_trainer.fit(trainer, tasks.sft_task(fit, job.seed, weight), validation)


STAGE = Stage("pretrain", "train", _inputs, _identity, _run, training.summary, check=training.check)

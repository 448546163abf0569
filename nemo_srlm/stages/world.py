"""world (tiny only): web text, seed trees, held-out sets and the tokenizer of the tiny world. See nemo_srlm/tiny_world."""

import random
from collections import Counter
from typing import TYPE_CHECKING, Any

from nemo_srlm.config.fields import identity
from nemo_srlm.config.schema import Config
from nemo_srlm.core.files import read_json_lines, write_records
from nemo_srlm.core.records import content_id
from nemo_srlm.core.stage import Context, Ref, Stage
from nemo_srlm.data import templates
from nemo_srlm.data.few_shot import few_shot_text
from nemo_srlm.tiny_world.files import (
    CORPUS,
    HELD_OUT_SPLITS,
    TOKENIZER,
    TREES,
    eval_prompts_file,
    judge_eval_file,
    read_eval_prompts,
    read_judge_eval,
)

if TYPE_CHECKING:
    from nemo_srlm.tiny_world import web

_VERSION = 2  # of texts and splits: a finished world of another version has other held-out questions and is not reused
_TOKENIZER_DOCUMENTS = 10_000  # of the corpus: more change nothing with 300 words


def _inputs(cfg: Config, iteration: int) -> dict[str, Ref]:
    return {}


def _identity(cfg: Config, iteration: int) -> dict[str, Any]:
    return {
        "version": _VERSION,
        "world": identity(cfg.world),
        "chat": identity(cfg.chat),
        "vocab_size": cfg.model.vocab_size,
        "max_length": cfg.model.max_length,
        "question_weight": cfg.pretrain.question_weight,
        "write_prompt": templates.read_text(cfg.prompts.template),
        "shots": cfg.prompts.seed_shots + cfg.prompts.generated_shots,
        **({"templates": _comparing_templates(cfg)} if cfg.world.comparisons else {}),
    }


def _comparing_templates(cfg: Config) -> list[str]:
    """The texts in whose words the web compares: of the judge, of two replies, of two ratings."""
    names = (cfg.judge.template, cfg.judge.compare_template, cfg.judge_training.template)
    return [templates.read_text(name) for name in names]


def _rng(cfg: Config, part: str) -> random.Random:
    """Each part has its own random stream: more documents change neither seeds nor held-out sets."""
    return random.Random(f"{cfg.world.seed} {part}")


def _comparisons(cfg: Config) -> "web.Comparisons | None":
    from nemo_srlm.tiny_world import web

    if not cfg.world.comparisons:
        return None
    judge, compare, compare_ratings = _comparing_templates(cfg)

    def of_replies(question: str, first: str, second: str) -> str:
        return templates.fill(compare, INSTRUCTION=question, FIRST=first, SECOND=second)

    def of_ratings(question: str, response: str, first: str, second: str) -> str:
        asked = templates.fill(judge, INSTRUCTION=question, RESPONSE=response)
        return templates.fill(compare_ratings, INSTRUCTION=asked, FIRST=first, SECOND=second)

    return web.Comparisons(cfg.world.comparisons, of_replies, of_ratings)


def _run(ctx: Context) -> None:
    from nemo_srlm.tiny_world import replies, seeds, tokenizer, web
    from nemo_srlm.tiny_world.questions import Split

    cfg = ctx.cfg
    train = Split(cfg.world.seed, "train")
    shots = templates.load_shots(cfg.prompts.template)
    style = web.Style(
        user_prefix=cfg.chat.user_prefix,
        user_suffix=cfg.chat.user_suffix,
        question_weight=cfg.pretrain.question_weight,
        few_shot=lambda demonstrations: few_shot_text(shots, demonstrations),
        num_shots=cfg.prompts.seed_shots + cfg.prompts.generated_shots,
        comparisons=_comparisons(cfg),
    )
    ctx.progress.update(0, 4, "parts")
    documents = web.documents(_rng(cfg, "web"), train, style, cfg.world.num_documents)
    write_records(ctx.dir / CORPUS, (web.Document(content_id("document", i, d), d) for i, d in enumerate(documents)))
    ctx.progress.update(1, 4, "parts")
    seen: set[str] = set()
    quality = replies.ift_quality(cfg.world.ift_right, cfg.world.ift_one_error)
    ift = seeds.ift_pairs(_rng(cfg, "ift"), train, cfg.world.num_ift, seen, quality)
    judged = seeds.judged_replies(_rng(cfg, "eft"), train, cfg.world.num_eft, seen, cfg.world.eft_noise)
    seeds.write_trees(ctx.dir / TREES, ift, judged)
    ctx.progress.update(2, 4, "parts")
    for name in HELD_OUT_SPLITS:
        split = Split(cfg.world.seed, name)
        prompts = seeds.eval_prompts(_rng(cfg, f"prompts {name}"), split, cfg.world.num_eval_prompts)
        write_records(eval_prompts_file(ctx.dir, name), prompts)
        ranked = seeds.judge_eval(_rng(cfg, f"judge {name}"), split, cfg.world.num_eval_judge)
        write_records(judge_eval_file(ctx.dir, name), ranked)
    ctx.progress.update(3, 4, "parts")
    texts = [text for document in documents[:_TOKENIZER_DOCUMENTS] for text, _ in document]
    texts += [judgement for _, replies in judged for _, judgement in replies]
    texts += tokenizer.every_word(_TOKENIZER_DOCUMENTS // 10)  # rare words become single tokens too
    tokenizer.train(ctx.dir / TOKENIZER, texts, cfg.model.vocab_size, cfg.model.max_length)
    ctx.progress.update(4, 4, "parts")


def _finalize(ctx: Context) -> dict[str, Any]:
    from nemo_srlm.tiny_world import oracle

    trees = [tree for _, tree in read_json_lines(ctx.dir / TREES)]
    replies = Counter(len(tree["prompt"]["replies"]) for tree in trees)
    levels: Counter[int] = Counter()
    for tree in trees:
        for reply in tree["prompt"]["replies"]:
            found = oracle.score(tree["prompt"]["text"], reply["text"])
            assert found is not None
            levels[found.level] += 1 if "judgement" in reply else 0
    return {
        "num_documents": sum(1 for _ in read_json_lines(ctx.dir / CORPUS)),
        "num_trees": len(trees),
        "trees_by_replies": {str(k): replies[k] for k in sorted(replies)},
        "judged_replies_by_oracle_level": {str(k): levels[k] for k in sorted(levels)},
        "num_eval_prompts": {split: len(read_eval_prompts(ctx.dir, split)) for split in HELD_OUT_SPLITS},
        "num_judge_eval_replies": {split: len(read_judge_eval(ctx.dir, split)) for split in HELD_OUT_SPLITS},
    }


STAGE = Stage("world", "cpu", _inputs, _identity, _run, _finalize)

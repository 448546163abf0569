"""select (select.every): which checkpoint of a training is the policy, by head-to-head (the paper's early stopping).

Every checkpoint's responses are judged against those of the checkpoint before it; the search stops at the first that
does not win (evaluate/selection.py). Writes comparisons.json and checkpoint/final, the chosen weights (hard links: no
second copy). The judge: the endpoint where api.stages names this stage, else `select.judge_path`, else the policy from
before this training. It compares two responses in both orders, or (select.by=score) scores each as it scores candidates.
"""

import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nemo_srlm.config.fields import identity
from nemo_srlm.config.schema import Config
from nemo_srlm.core.files import read_records, write_json
from nemo_srlm.core.parts import merge_parts
from nemo_srlm.core.pipeline import export_ref, policy_stage, world_inputs
from nemo_srlm.core.records import Candidate, Judgement, Prompt, content_id
from nemo_srlm.core.stage import Context, Ref, Stage
from nemo_srlm.core.terminal import say
from nemo_srlm.data.words import count_words
from nemo_srlm.errors import ConfigError, DataError
from nemo_srlm.evaluate import compare_template, headtohead, selection
from nemo_srlm.evaluate.headtohead import Comparison, Outcome
from nemo_srlm.judge import scores as judge_scores
from nemo_srlm.judge.judgements import JudgeItem
from nemo_srlm.stages.common import comparing, selecting
from nemo_srlm.stages.common.comparing import Pairing
from nemo_srlm.stages.common.generating import stage_identity, thinking_identity, usage_metrics
from nemo_srlm.stages.common.judge_model import check_judge, judge_directory, judge_model_identity, needs_own_judge
from nemo_srlm.stages.common.judging import JUDGEMENTS, checked_health, judge_all, judge_identity

NAME, OUTPUT, SETTING = "select", "comparisons.json", "select.judge_path"


def _inputs(cfg: Config, iteration: int) -> dict[str, Ref]:
    found = {
        "trained": Ref(policy_stage(cfg, iteration), iteration), "exports": Ref("select_export", iteration),
        "responses": Ref("select_responses", iteration),
    }  # fmt: skip
    own = needs_own_judge(cfg, NAME, cfg.select.judge_path) and iteration
    return found | world_inputs(cfg) | ({"judge": export_ref(cfg, iteration - 1)} if own else {})


def _identity(cfg: Config, iteration: int) -> dict[str, Any]:
    found = {"by": cfg.select.by, "who": judge_model_identity(cfg, NAME, cfg.select.judge_path, SETTING)}
    if cfg.select.by == "score":
        return found | judge_identity(cfg, NAME)
    template = compare_template.load(cfg.select.template).text
    judge = {"max_tokens": identity(cfg.judge)["max_tokens"], **thinking_identity(cfg)}
    return {**found, "template": template, "judge": judge, **stage_identity(cfg, NAME)}


def _check(cfg: Config) -> None:
    if "sft" in cfg.select.stages and needs_own_judge(cfg, NAME, cfg.select.judge_path):
        raise ConfigError(
            SETTING, "empty, and there is no policy before sft that could judge its checkpoints",
            "an HF directory", "set it, or api.stages=[select], or select.stages=[dpo]",
        )  # fmt: skip
    check_judge(cfg, NAME, cfg.select.judge_path, SETTING)


def _responses(ctx: Context) -> list[tuple[str, list[tuple[Prompt, Candidate]]]]:
    """(checkpoint, its responses in the prompts' order), oldest first."""
    made = {c.id: c for c in read_records(ctx.inputs["responses"] / selecting.RESPONSES, Candidate)}
    prompts, names = selecting.prompts(ctx), selecting.checkpoints(ctx)
    return [(name, [(p, made[selecting.response_id(p.id, name)]) for p in prompts]) for name in names]


def _pairings(ctx: Context) -> Iterator[Pairing]:
    """Each checkpoint's responses against those of the one before it."""
    for (older, before), (_, after) in itertools.pairwise(_responses(ctx)):
        for (prompt, theirs), (_, ours) in zip(before, after, strict=True):
            yield Pairing(content_id("select", ours.id, theirs.id), older, prompt, ours, theirs)


def _scored(ctx: Context) -> Iterator[JudgeItem]:
    for _, rows in _responses(ctx):
        yield from (JudgeItem(c.id, p.id, p.text, c.text) for p, c in rows if not c.error)


def _run(ctx: Context) -> None:
    model = judge_directory(ctx, ctx.cfg.select.judge_path)
    if ctx.cfg.select.by == "score":
        judge_all(ctx, _scored(ctx), NAME, ctx.iteration, model=model)
    else:
        comparing.compare(ctx, NAME, _pairings(ctx), model, compare_template.load(ctx.cfg.select.template))


def _by_score(ctx: Context, pairings: list[Pairing]) -> list[Outcome]:
    merge_parts(ctx, Judgement, (item.id for item in _scored(ctx)), JUDGEMENTS)
    valid = judge_scores.required_valid(ctx.cfg.judge)
    found = {j.id: judge_scores.aggregate(j.scores, valid) for j in read_records(ctx.dir / JUDGEMENTS, Judgement)}
    both = [(found.get(p.ours.id), found.get(p.theirs.id)) for p in pairings]
    return ["unjudged" if a is None or b is None else headtohead.outcome_of_scores(a, b) for a, b in both]


def _by_verdict(ctx: Context, pairings: list[Pairing]) -> list[Outcome]:
    both = comparing.merge_verdicts(ctx, pairings)
    return [headtohead.outcome(a.verdict if a else "", b.verdict if b else "") for a, b in both]


def _finalize(ctx: Context) -> dict[str, Any]:
    names = selecting.checkpoints(ctx)
    pairings, scores = list(_pairings(ctx)), ctx.cfg.select.by == "score"
    outcomes = (_by_score if scores else _by_verdict)(ctx, pairings)
    steps = []
    for older, newer in itertools.pairwise(names):
        these = [
            Comparison(p.id, p.prompt.id, newer, older, outcome, words=count_words(p.ours.text),
                       other_words=count_words(p.theirs.text))
            for p, outcome in zip(pairings, outcomes, strict=True) if p.other == older
        ]  # fmt: skip
        steps.append({"checkpoint": newer, "other": older, **headtohead.summary(these)})
    if nothing := [step["checkpoint"] for step in steps if not step["judged"]]:
        raise DataError(
            ctx.dir, f"not one response of {nothing} could be judged", "responses and verdicts",
            f"look at the errors in {ctx.inputs['responses']} and at the judge's words here",
        )  # fmt: skip
    chosen = names[selection.choose([step["net"] for step in steps])]
    write_json(ctx.dir / OUTPUT, {"chosen": chosen, "comparisons": steps})
    _link(ctx.inputs["trained"] / "checkpoint" / chosen, ctx.dir / "checkpoint" / "final")
    health = {"judge": checked_health(ctx, read_records(ctx.dir / JUDGEMENTS, Judgement), False)} if scores else {}
    shown = " ".join(f"{step['net']:+.2f}" for step in steps)
    return {
        "chosen": chosen, "checkpoints": names, "comparisons": steps, **health, "engine": usage_metrics(ctx),
        "summary": f"{chosen} of {len(names)} checkpoints; wins - losses against the one before: {shown or 'none'}",
    }  # fmt: skip


def _link(source: Path, target: Path) -> None:
    """`target` with the files of `source`, whole or not at all."""
    temporary = target.with_name(f".tmp-{target.name}")
    for old in (temporary, target):
        shutil.rmtree(old, ignore_errors=True)
    shutil.copytree(source, temporary, copy_function=_link_or_copy)
    os.replace(temporary, target)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError as error:  # another file system (run.reuse), or one without links
        say(f"note: {source} is copied, it cannot be linked ({error.strerror})", error=True)
        shutil.copy2(source, target)


STAGE = Stage(
    NAME, "generate", _inputs, _identity, _run, _finalize, lambda cfg: cfg.judge.shards, _check
)  # fmt: skip

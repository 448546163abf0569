"""judge_pairs (judge_training.method): pairs of judgements of one response that join the iteration's DPO.

Writes pairs.jsonl (PreferencePair; the prompt is the judge's input) and dropped.jsonl ({"id", "reason", "stage"}, the id of a
candidate, or of a prompt of which no candidate was used, and the stage that wrote it: a worse response's id is also that of the
prompt's first candidate). Reasons: "no_spread" (no response of the prompt has two different scores), "no_response" and
"no_worse_response" (none was judged), "same_text" (the worse response is the response), "too_long" (more than max_words),
"inflation" and "not_needed" (judge/meta.py `guarded`), and those of judge/meta.py and judge/self_taught.py.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from nemo_srlm.config.fields import identity
from nemo_srlm.config.methods import JudgeTrainingSection
from nemo_srlm.config.schema import Config
from nemo_srlm.core.files import read_json, read_json_lines, read_records, write_json, write_json_lines, write_records
from nemo_srlm.core.records import Candidate, Judgement, PreferencePair, Prompt, content_id
from nemo_srlm.core.stage import Context, Ref, Stage
from nemo_srlm.core.terminal import say
from nemo_srlm.data import templates
from nemo_srlm.judge import meta, self_taught
from nemo_srlm.judge.meta import Battle, Draw
from nemo_srlm.judge.pair_files import DROPPED, PAIRS
from nemo_srlm.judge.scores import judge_input
from nemo_srlm.stages.common.comparing import ORDERS, VERDICTS, Verdict
from nemo_srlm.stages.common.judge_pairs import USABLE_SPREAD, comparison_id, judged_prompts
from nemo_srlm.stages.common.judging import JUDGEMENTS

COUNTS = "counts.json"
READS = {"meta": ("meta_judge",), "self_taught": ("worse_responses", "judge_worse")}  # beside what every method reads


class Choice(NamedTuple):
    """Two judgements of a response. `text`: the judge's input; `stage` wrote the response."""

    judgement: Judgement
    text: str
    preferred: Draw
    other: Draw
    stage: str


class Unused(NamedTuple):
    """A candidate, or a prompt, that gives no pair; `stage` wrote it."""

    id: str
    reason: str
    stage: str = "prompts"


def _choice(
    judgement: Judgement, text: str, found: tuple[Draw, Draw] | str, stage: str = "candidates"
) -> Choice | Unused:
    return Unused(judgement.id, found, stage) if isinstance(found, str) else Choice(judgement, text, *found, stage)


def _inputs(cfg: Config, iteration: int) -> dict[str, Ref]:
    names = ("prompts", "candidates", "judge", "pairs", *READS.get(cfg.judge_training.method, ()))
    return {name: Ref(name, iteration) for name in names}


def _identity(cfg: Config, iteration: int) -> dict[str, Any]:
    own = identity(cfg.judge_training)
    for name in ("template", "modified", "modify_template"):  # of stages that are inputs
        own.pop(name)
    chosen = {} if cfg.judge_training.method == "self_taught" else USABLE_SPREAD
    return {"judge_training": own, "judge_template": templates.load(cfg.judge.template, templates.JUDGE), **chosen}


def _any_draw(ctx: Context) -> Iterator[Choice | Unused]:
    for one in judged_prompts(ctx):
        if one.judgement is None:
            yield Unused(one.prompt_id, "no_spread")
        else:
            yield _choice(one.judgement, one.text, meta.any_two(meta.draws(one.judgement), one.judgement.id))


def _meta(ctx: Context) -> Iterator[Choice | Unused]:
    section = ctx.cfg.judge_training
    verdicts = {v.id: v.verdict for v in read_records(ctx.inputs["meta_judge"] / VERDICTS, Verdict)}

    def battles(judgement: Judgement) -> list[Battle]:
        ids = [(a, b, comparison_id(judgement, a, b)) for a, b in meta.compared(judgement)]
        return [Battle(a, b, *(verdicts[content_id(name, order)] for order in ORDERS)) for a, b, name in ids]

    judged = list(judged_prompts(ctx))
    fought = {one.judgement.id: battles(one.judgement) for one in judged if one.judgement}
    weights = meta.position_weights([battle for some in fought.values() for battle in some])
    for one in judged:
        if one.judgement is None:
            yield Unused(one.prompt_id, "no_spread")
            continue
        draws = meta.draws(one.judgement)
        won = meta.wins(fought[one.judgement.id], len(draws), weights)
        strengths = meta.elo(won) if section.rank == "elo" else meta.win_shares(won)
        yield _choice(one.judgement, one.text, meta.best_and_worst(draws, strengths))


def _first_judged(ctx: Context, made: str, scored: str) -> dict[str, tuple[str, Judgement]]:
    """Prompt id -> the first candidate that was judged: (its text, the judgement)."""
    first: dict[str, Judgement] = {}
    for judgement in read_records(ctx.inputs[scored] / JUDGEMENTS, Judgement):
        if not judgement.error:
            first.setdefault(judgement.prompt_id, judgement)
    ids = {judgement.id for judgement in first.values()}
    candidates = read_records(ctx.inputs[made] / "candidates.jsonl", Candidate)
    return {c.prompt_id: (c.text, first[c.prompt_id]) for c in candidates if c.id in ids}


def _self_taught(ctx: Context) -> Iterator[Choice | Unused]:
    """Of every prompt the judgements of its first candidate that was judged, and those of its worse response."""
    template = templates.load(ctx.cfg.judge.template, templates.JUDGE)
    judged = _first_judged(ctx, "candidates", "judge")
    worse = _first_judged(ctx, "worse_responses", "judge_worse")
    for prompt in read_records(ctx.inputs["prompts"] / "prompts.jsonl", Prompt):
        if prompt.id not in judged or prompt.id not in worse:
            yield Unused(prompt.id, "no_response" if prompt.id not in judged else "no_worse_response")
            continue
        (good_text, good), (worse_text, bad) = judged[prompt.id], worse[prompt.id]
        if good_text == worse_text:
            yield Unused(prompt.id, "same_text")
            continue
        of_good, of_bad = meta.draws(good), meta.draws(bad)
        found = self_taught.right_against_wrong(of_good, of_bad, better=True)
        yield _choice(good, judge_input(template, prompt.text, good_text), found)
        found = self_taught.right_against_wrong(of_bad, of_good, better=False)
        yield _choice(bad, judge_input(template, prompt.text, worse_text), found, "worse_responses")


METHODS: dict[str, Callable[[Context], Iterator[Choice | Unused]]] = {
    "any_draw": _any_draw, "meta": _meta, "self_taught": _self_taught
}  # fmt: skip


def _pairs(
    choices: Iterable[Choice | Unused], section: JudgeTrainingSection, num_responses: int
) -> tuple[list[PreferencePair], list[PreferencePair], list[Unused]]:
    """(pairs that were found, those that are kept, what gives no pair and why)."""
    unused: list[Unused] = []
    candidates: dict[str, tuple[str, str]] = {}  # pair id -> candidate id, its stage
    found: list[PreferencePair] = []
    for choice in choices:
        if isinstance(choice, Unused):
            unused.append(choice)
        elif meta.is_too_long(choice.preferred, section.max_words):
            unused.append(Unused(choice.judgement.id, "too_long", choice.stage))
        else:
            found.append(meta.to_pair(choice.judgement, choice.text, choice.preferred, choice.other))
            candidates[found[-1].id] = (choice.judgement.id, choice.stage)
    kept, reasons = meta.guarded(found, section, num_responses)
    for pair_id, reason in reasons.items():
        candidate, stage = candidates[pair_id]
        unused.append(Unused(candidate, reason, stage))
    return found, kept, unused


def _judgements(ctx: Context) -> Iterator[Judgement]:
    """All that draws are taken from."""
    for name in ("judge", "judge_worse"):
        if name in ctx.inputs:
            yield from read_records(ctx.inputs[name] / JUDGEMENTS, Judgement)


def _run(ctx: Context) -> None:
    """Draws that no pair may hold are counted, too (`draws_<reason>`, see meta.why_unusable)."""
    section = ctx.cfg.judge_training
    num_responses = sum(1 for _ in read_json_lines(ctx.inputs["pairs"] / PAIRS))
    found, kept, unused = _pairs(METHODS[section.method](ctx), section, num_responses)
    write_records(ctx.dir / PAIRS, kept)
    write_json_lines(ctx.dir / DROPPED, (one._asdict() for one in unused))
    reasons = Counter(f"dropped_{one.reason}" for one in unused)
    draws = Counter(reason for one in _judgements(ctx) for reason in meta.why_unusable(one) if reason)
    raising = {f"rising_{name}": sum(map(meta.rises, some)) for name, some in (("found", found), ("kept", kept))}
    counts = {"choices": len(kept) + len(unused), **dict(sorted(reasons.items()))}
    counts |= {f"draws_{reason}": number for reason, number in sorted(draws.items())}
    write_json(ctx.dir / COUNTS, {**counts, "found": len(found), "pairs": len(kept), **raising})


def _finalize(ctx: Context) -> dict[str, Any]:
    """Counts by reason. No pair at all is a warning: the iteration goes on with the pairs of responses."""
    counts: dict[str, Any] = read_json(ctx.dir / COUNTS)
    if not counts["pairs"]:
        words = f"not one judge pair ({counts}); the judge is not trained in this iteration"
        say(f"warning: {ctx.dir}: {words}", error=True)
    return {**counts, "summary": f"{counts['pairs']} judge pairs, {counts['rising_kept']} prefer the higher score"}


STAGE = Stage("judge_pairs", "cpu", _inputs, _identity, _run, _finalize)

"""judge_pairs (judge_training.method): pairs of judgements of one response that join the iteration's DPO.

Writes pairs.jsonl (PreferencePair; the prompt is the judge's input) and dropped.jsonl ({"id", "reason"}, the id of a candidate,
or of a prompt of which no candidate was used): "no_spread" (no response has two different scores), "no_other_response" (the same
text, or none that was judged) and the reasons of judge/meta.py and judge/self_taught.py.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from nemo_srlm.config.fields import identity
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
from nemo_srlm.stages.common.judge_pairs import comparison_id, judged_prompts
from nemo_srlm.stages.common.judging import JUDGEMENTS

COUNTS = "counts.json"
READS = {"meta": ("meta_judge",), "self_taught": ("worse_responses", "judge_worse")}  # beside what every method reads


class Choice(NamedTuple):
    """The judgements of a response: `chosen` is (preferred, other), or the reason for none. `text`: the judge's input."""

    judgement: Judgement
    text: str
    chosen: tuple[Draw, Draw] | str


def _inputs(cfg: Config, iteration: int) -> dict[str, Ref]:
    names = ("prompts", "candidates", "judge", "pairs", *READS.get(cfg.judge_training.method, ()))
    return {name: Ref(name, iteration) for name in names}


def _identity(cfg: Config, iteration: int) -> dict[str, Any]:
    own = identity(cfg.judge_training)
    for name in ("template", "modified", "modify_template"):  # of stages that are inputs
        own.pop(name)
    return {"judge_training": own, "judge_template": templates.load(cfg.judge.template, templates.JUDGE)}


def _any_draw(ctx: Context) -> Iterator[Choice | str]:
    for one in judged_prompts(ctx):
        if one.judgement is None:
            yield one.prompt_id
        else:
            yield Choice(one.judgement, one.text, meta.any_two(meta.draws(one.judgement), one.judgement.id))


def _meta(ctx: Context) -> Iterator[Choice | str]:
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
            yield one.prompt_id
            continue
        draws = meta.draws(one.judgement)
        won = meta.wins(fought[one.judgement.id], len(draws), weights)
        strengths = meta.elo(won) if section.rank == "elo" else meta.win_shares(won)
        yield Choice(one.judgement, one.text, meta.best_and_worst(draws, strengths, section.max_words))


def _self_taught(ctx: Context) -> Iterator[Choice | str]:
    """Of every prompt with a worse response both its judgements and those of the first candidate that was judged."""
    template = templates.load(ctx.cfg.judge.template, templates.JUDGE)
    prompts = {p.id: p.text for p in read_records(ctx.inputs["prompts"] / "prompts.jsonl", Prompt)}
    texts: list[dict[str, str]] = []
    judged: list[dict[str, Judgement]] = []
    for made, scored in (("candidates", "judge"), ("worse_responses", "judge_worse")):
        rows = list(read_records(ctx.inputs[made] / "candidates.jsonl", Candidate))
        texts.append({c.id: c.text for c in rows})
        first: dict[str, Judgement] = {}
        for judgement in read_records(ctx.inputs[scored] / JUDGEMENTS, Judgement):
            if not judgement.error:
                first.setdefault(judgement.prompt_id, judgement)
        judged.append(first)
    for prompt_id, worse in judged[1].items():
        good = judged[0].get(prompt_id)
        if good is None or texts[0][good.id] == texts[1][worse.id]:
            yield prompt_id
            continue
        both = meta.draws(good), meta.draws(worse)
        for judgement, of, (own, other), better in ((good, 0, both, True), (worse, 1, both[::-1], False)):
            text = judge_input(template, prompts[prompt_id], texts[of][judgement.id])
            yield Choice(judgement, text, self_taught.right_against_wrong(own, other, better))


METHODS: dict[str, tuple[Callable[[Context], Iterator[Choice | str]], str]] = {  # and the reason where a prompt has no choice
    "any_draw": (_any_draw, "no_spread"), "meta": (_meta, "no_spread"), "self_taught": (_self_taught, "no_other_response"),
}  # fmt: skip


def _run(ctx: Context) -> None:
    section, counts = ctx.cfg.judge_training, Counter[str]()
    choices, reason = METHODS[section.method]
    pairs: list[PreferencePair] = []
    dropped = []
    for choice in choices(ctx):
        counts["choices"] += 1
        if isinstance(choice, str):
            dropped.append({"id": choice, "reason": reason})
        elif isinstance(choice.chosen, str):
            dropped.append({"id": choice.judgement.id, "reason": choice.chosen})
        else:
            pairs.append(meta.to_pair(choice.judgement, choice.text, *choice.chosen))
    counts.update(f"dropped_{row['reason']}" for row in dropped)
    num_responses = sum(1 for _ in read_json_lines(ctx.inputs["pairs"] / PAIRS))
    kept = meta.guarded(pairs, section, num_responses, counts)
    write_records(ctx.dir / PAIRS, kept)
    write_json_lines(ctx.dir / DROPPED, dropped)
    raising = {f"rising_{name}": sum(map(meta.rises, some)) for name, some in (("found", pairs), ("kept", kept))}
    write_json(ctx.dir / COUNTS, {**dict(sorted(counts.items())), "found": len(pairs), "pairs": len(kept), **raising})


def _finalize(ctx: Context) -> dict[str, Any]:
    """Counts by reason. No pair at all is a warning: the iteration goes on with the pairs of responses."""
    counts: dict[str, Any] = read_json(ctx.dir / COUNTS)
    if not counts["pairs"]:
        words = f"not one judge pair ({counts}); the judge is not trained in this iteration"
        say(f"warning: {ctx.dir}: {words}", error=True)
    return {**counts, "summary": f"{counts['pairs']} judge pairs, {counts['rising_kept']} prefer the higher score"}


STAGE = Stage("judge_pairs", "cpu", _inputs, _identity, _run, _finalize)

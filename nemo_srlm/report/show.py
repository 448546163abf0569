"""`nemo-srlm show`: one prompt through every stage: demonstrations, candidates, judgements, the pair or the reason for none."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from nemo_srlm.config.compose import require_run
from nemo_srlm.core.files import read_records
from nemo_srlm.core.records import Candidate, Judgement, PreferencePair, Prompt, Record
from nemo_srlm.errors import DataError
from nemo_srlm.judge import scores
from nemo_srlm.judge.pair_files import read_dropped

# stages that write responses -> (what one is called, stages that write judgements of them: their ids may be equal)
RESPONSES = {
    "candidates": ("candidate", ("oracle_scores", "votes", "checker", "reward_model", "judge", "judge_previous")),
    "anchors": ("anchor", ("judge_anchors",)),
    "worse_responses": ("worse response", ("judge_worse",)),
}
PAIRS = {"pairs": "pair", "judge_pairs": "judge pair"}  # stages that write pairs
NUM_PAIRS = 3  # examples of an iteration's prompts
R = TypeVar("R", bound=Record)


def _iterations(run_dir: Path) -> list[Path]:
    found = [path for path in run_dir.glob("iter*") if re.fullmatch("iter[0-9]{1,4}", path.name)]
    return sorted(found, key=lambda p: int(p.name.removeprefix("iter")))


def _prompt_id(iteration: Path, wanted: str) -> str | None:
    """The id of the prompt that `wanted` (the beginning of a prompt's, response's or pair's id) belongs to."""
    kinds: tuple[tuple[str, type[Record]], ...] = (
        ("prompts/prompts", Prompt), *((f"{stage}/candidates", Candidate) for stage in RESPONSES),
        *((f"{stage}/pairs", PreferencePair) for stage in PAIRS),
    )  # fmt: skip
    for name, kind in kinds:
        path = iteration / f"{name}.jsonl"
        for record in read_records(path, kind) if os.path.lexists(path) else ():
            if record.id.startswith(wanted):
                return record.prompt_id if isinstance(record, (Candidate, PreferencePair)) else record.id
    return None


def _of_prompt(path: Path, kind: type[Candidate | Judgement | PreferencePair], prompt_id: str) -> list[dict[str, Any]]:
    if not os.path.lexists(path):
        return []
    return [record.to_json() for record in read_records(path, kind) if record.prompt_id == prompt_id]


def item(run_dir: Path, wanted: str) -> dict[str, Any]:
    """All records of one prompt. `wanted`: the beginning of its id or of one of its responses' or pairs' ids.

    Raises DataError when no iteration has such an id, ConfigError when `run_dir` is not the directory of a run.
    """
    for iteration in _iterations(run_dir):
        prompt_id = _prompt_id(iteration, wanted)
        if prompt_id is None:
            continue
        prompts = [p for p in read_records(iteration / "prompts/prompts.jsonl", Prompt) if p.id == prompt_id]
        return {
            "iteration": iteration.name,
            "prompt": prompts[0].to_json() if prompts else {"id": prompt_id},
            **{stage: _of_prompt(iteration / stage / "candidates.jsonl", Candidate, prompt_id) for stage in RESPONSES},
            "judgements": [
                {"stage": stage, **judgement}
                for stage in (scorer for _, scorers in RESPONSES.values() for scorer in scorers)
                for judgement in _of_prompt(iteration / stage / "judgements.jsonl", Judgement, prompt_id)
            ],
            **{stage: _of_prompt(iteration / stage / "pairs.jsonl", PreferencePair, prompt_id) for stage in PAIRS},
            "dropped": [d.reason for d in read_dropped(iteration / "pairs/dropped.jsonl") if d.prompt_id == prompt_id],
        }
    require_run(run_dir)
    raise DataError(
        run_dir,
        f"no item whose id begins with {wanted!r}",
        remedy="iter*/prompts/prompts.jsonl lists the prompts with their ids",
    )


def examples(run_dir: Path) -> list[dict[str, Any]]:
    """Some prompts of each iteration, for who has no id yet: [{"iteration", "id", "prompt", "what"}].

    "what": a pair, or the reason for none. Up to NUM_PAIRS that gave a pair and one of each reason for none, the first by id.
    Raises ConfigError without a run.
    """
    require_run(run_dir)
    found = []
    for iteration in _iterations(run_dir):
        prompts = {p.id: p for p in _records(iteration / "prompts/prompts.jsonl", Prompt)}
        pairs = sorted(
            {p.prompt_id for p in _records(iteration / "pairs/pairs.jsonl", PreferencePair)} & prompts.keys()
        )
        path = iteration / "pairs/dropped.jsonl"
        dropped = sorted((d.reason, d.prompt_id) for d in read_dropped(path)) if os.path.lexists(path) else []
        first = {reason: prompt_id for reason, prompt_id in reversed(dropped) if prompt_id in prompts}
        chosen = [(i, "pair") for i in pairs[:NUM_PAIRS]] + [(i, f"no pair: {why}") for why, i in sorted(first.items())]
        chosen = chosen or [(i, "not judged yet") for i in sorted(prompts)[:NUM_PAIRS]]
        found += [{"iteration": iteration.name, "id": i, "prompt": prompts[i].text, "what": what} for i, what in chosen]
    return found


def examples_text(run_dir: Path, found: list[dict[str, Any]]) -> str:
    """`examples` as text for the terminal."""
    if not found:
        return f"{run_dir} has no prompts of its own yet"
    lines = [f"{row['iteration']}  {row['id']}  {row['what']}\n    {_short(row['prompt'])}" for row in found]
    return "\n".join([*lines, "", f"nemo-srlm show {found[0]['id'][:4]} {run_dir}"])


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 100 else f"{line[:97]}..."


def _records(path: Path, kind: type[R]) -> Iterator[R]:
    """The records of a file; none where it is not there yet."""
    yield from read_records(path, kind) if os.path.lexists(path) else ()


def _judgement_lines(judgement: Judgement) -> list[str]:
    lines = [f"    not judged: {judgement.error}"] if judgement.error else []
    mean, spread = scores.aggregate(judgement.scores, 1), scores.spread(judgement)
    if mean is not None and spread is not None:
        lines += [f"    score {mean:.2f}, spread {spread:.2f}"]
    for score, words in zip(judgement.scores, judgement.texts, strict=True):
        lines += [f"    [{'-' if score is None else f'{score:g}'}] {' '.join(words.split())}"]
    return lines


def text(run_dir: Path, wanted: str) -> str:
    """`item` as text for the terminal."""
    found = item(run_dir, wanted)
    prompt = Prompt.from_json(found["prompt"]) if "text" in found["prompt"] else None
    lines = [f"{found['iteration']}  prompt {found['prompt']['id']}", ""]
    if prompt:
        lines += [f"  {prompt.text}", "", f"  written after {len(prompt.demonstrations)} demonstrations:"]
        lines += [f"    - {d}" for d in prompt.demonstrations]
    for stage in RESPONSES:
        lines += _response_lines(found, stage)
    for stage, name in PAIRS.items():
        for pair in (PreferencePair.from_json(p) for p in found[stage]):
            lines += ["", f"  {name} {pair.id}: chosen {pair.chosen_score}, rejected {pair.rejected_score}"]
            lines += [f"    + {pair.chosen}", f"    - {pair.rejected}"]
    lines += [f"  no pair: {reason}" for reason in found["dropped"]]
    return "\n".join(lines)


def _response_lines(found: dict[str, Any], stage: str) -> list[str]:
    """The responses of a stage, each with its judgements."""
    name, scorers = RESPONSES[stage]
    judgements: dict[str, list[tuple[str, Judgement]]] = {}
    for row in (row for row in found["judgements"] if row["stage"] in scorers):
        judgement = Judgement.from_json({key: value for key, value in row.items() if key != "stage"})
        judgements.setdefault(judgement.id, []).append((row["stage"], judgement))
    lines = []
    for one in (Candidate.from_json(c) for c in found[stage]):
        lines += ["", f"  {name} {one.index}  {one.id}  {one.num_tokens} tokens, {one.finish_reason}"]
        lines += [f"    {one.error or one.text}"]
        made = judgements.get(one.id, [])
        if not made:
            lines += ["    not judged"]
        for scorer, judgement in made:
            # several count with pairs.score=judge_vote and with pairs.consistency
            lines += [f"    {scorer}:"] if len(made) > 1 else []
            lines += _judgement_lines(judgement)
    return lines

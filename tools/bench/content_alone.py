"""The judge of a tiny-world run on the held-out pairs of replies of one style that differ in content alone."""

from itertools import permutations

from nemo_srlm.core.files import read_records
from nemo_srlm.core.records import Judgement, RankedReply
from nemo_srlm.evaluate import statistics
from nemo_srlm.evaluate.statistics import Units
from nemo_srlm.judge.scores import aggregate
from nemo_srlm.report import units
from nemo_srlm.report.run_files import RunFiles
from nemo_srlm.report.units import Figure
from nemo_srlm.tiny_world import oracle

FIGURE = Figure("judge, content alone", "share", 0, 1, 0.02)


def judged(files: RunFiles, iteration: int) -> Units:
    """Share of the pairs of held-out replies that differ in content alone and are in the right order (ties half)."""
    ranked = files.path(0, "held_out", "ranked_valid.jsonl")
    judgements = files.path(iteration, "eval_reward", "judgements.jsonl")
    assert ranked, "held_out is done"
    assert judgements, "eval_reward is done"
    given = {j.id: aggregate(j.scores, files.min_valid_of_judge) for j in read_records(judgements, Judgement)}
    groups: dict[str, list[RankedReply]] = {}
    for reply in read_records(ranked, RankedReply):
        groups.setdefault(reply.instruction_id, []).append(reply)
    found: list[tuple[str, float]] = []
    for instruction, replies in groups.items():
        for a, b in permutations(replies, 2):
            high, low = given[a.id], given[b.id]
            if high is not None and low is not None and differs_in_content_alone(a, b):
                found.append((instruction, 1.0 if high > low else 0.5 if high == low else 0.0))
    return units.merged(statistics.grouped(found), units.questions(files))


def differs_in_content_alone(a: RankedReply, b: RankedReply) -> bool:
    first, second = (oracle.score(reply.instruction, reply.response) for reply in (a, b))
    if first is None or second is None:
        return False
    return (first.framed, first.clean) == (second.framed, second.clean) and first.correctness > second.correctness

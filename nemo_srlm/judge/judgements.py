"""What a judge is asked to score (JudgeItem), and the Judgement record that its sampled draws give."""

from dataclasses import dataclass

from nemo_srlm.config.generation import JudgeSection
from nemo_srlm.core.records import Judgement, RankedReply
from nemo_srlm.generate.requests import Failure, Outcome
from nemo_srlm.judge.scores import parse_draws


@dataclass(frozen=True, slots=True)
class JudgeItem:
    """One response to judge. `prompt_id`: of its prompt or instruction."""

    id: str
    prompt_id: str
    instruction: str
    response: str

    @classmethod
    def of_ranked(cls, reply: RankedReply) -> "JudgeItem":
        return cls(reply.id, reply.instruction_id, reply.instruction, reply.response)


def failed_judgement(item: JudgeItem, failure: Failure) -> Judgement:
    """A judgement without draws that says why there are none."""
    return Judgement(item.id, item.prompt_id, (), (), (), failure.reason)


def sampled_judgement(item: JudgeItem, outcome: Outcome, judge: JudgeSection) -> Judgement:
    """Sampled draws with their scores; None for a draw that states none."""
    if isinstance(outcome, Failure):
        return failed_judgement(item, outcome)
    texts, reasons = tuple(d.text for d in outcome), tuple(d.finish_reason for d in outcome)
    scores = parse_draws(texts, reasons, judge.max_score, item.response, judge.thinking_end)
    return Judgement(item.id, item.prompt_id, scores, texts, reasons)

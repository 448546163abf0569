"""What eval_mt_answers and eval_mt_bench share: MT-Bench's questions, and the file of turns."""

from pathlib import Path

from nemo_srlm.config.schema import Config
from nemo_srlm.core.files import read_records
from nemo_srlm.evaluate import mtbench
from nemo_srlm.evaluate.mtbench import Question, Turn
from nemo_srlm.stages.common.evaluating import require

TURNS = "turns.jsonl"


def read_questions(cfg: Config) -> list[Question]:
    """The questions, with the reference answers of eval.mt_bench.references where that is set. Raises ConfigError."""
    section = cfg.eval.mt_bench
    found = mtbench.read_questions(require("eval.mt_bench.questions", section.questions, "FastChat's question.jsonl"))
    if not section.references:
        return found
    path = require("eval.mt_bench.references", section.references, "FastChat's reference_answer/gpt-4.jsonl")
    return mtbench.with_references(found, path)


def read_turns(directory: Path) -> dict[int, tuple[str, str]]:
    """Question id -> the responses of both turns; $ERROR$ for a turn that failed or was not asked."""
    found: dict[tuple[int, int], str] = {
        (t.question_id, t.turn): mtbench.ERROR if t.error else t.text for t in read_records(directory / TURNS, Turn)
    }
    return {q: (found[q, 1], found.get((q, 2), mtbench.ERROR)) for q, turn in found if turn == 1}

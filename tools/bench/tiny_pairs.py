"""What the judge of a finished tiny-world run knows and what its pairs teach, by family of questions.

    python tools/bench/tiny_pairs.py runs/tiny [more runs]

By the oracle, after the fact. A family whose right answer the judge does not even state is one that M0 never learned: its pairs
are noise, and the loop has nothing to raise it with. Markdown, a table for each run and iteration.
"""

import argparse
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from nemo_srlm.core.files import read_records
from nemo_srlm.core.records import Candidate, Judgement, PreferencePair, Prompt, Record
from nemo_srlm.errors import UserError
from nemo_srlm.judge.scores import aggregate
from nemo_srlm.report.run_files import RunFiles
from nemo_srlm.tiny_world import oracle
from nemo_srlm.tiny_world.questions import FAMILIES, Question, parse

NO_QUESTION = "no question of the world"
ALL_RIGHT = 2.5  # a mean score of at least this is a verdict of "all right": 3 points and more say so
_STATED = re.compile(r"It should be ([^.]*)\.")
HEAD = (
    "| family | prompts | candidates all right | right answer stated | verdict on the content right | pairs | chosen all right "
    "| rejected all right |"
)

R = TypeVar("R", bound=Record)


def states_the_answer(judgement: str, question: Question) -> bool:
    """Whether a judgement begins with the right answer."""
    stated = _STATED.match(judgement)
    return stated is not None and tuple(stated[1].split(", ")) == oracle.answer(question)


def all_right(question: Question, response: str) -> bool:
    found = oracle.score(question, response)
    return found is not None and found.correctness == 1


def _read(files: RunFiles, iteration: int, stage: str, name: str, kind: type[R]) -> Iterable[R]:
    path = files.path(iteration, stage, name)
    if path is None:
        sys.exit(
            f"{files.dir}: {stage} of iteration {iteration} is not done; expected a run whose iterations have pairs"
        )
    return read_records(path, kind)


def table(files: RunFiles, iteration: int) -> list[str]:
    """The rows of one iteration."""
    texts = {p.id: p.text for p in _read(files, iteration, "prompts", "prompts.jsonl", Prompt)}
    asked = {i: parse(text) for i, text in texts.items()}
    replies = {c.id: c.text for c in _read(files, iteration, "candidates", "candidates.jsonl", Candidate)}
    shares: dict[str, dict[str, list[bool]]] = {name: defaultdict(list) for name in (*FAMILIES, NO_QUESTION)}
    for judgement in _read(files, iteration, "judge", "judgements.jsonl", Judgement):
        question = asked[judgement.prompt_id]
        if question is None:
            continue
        own, is_right = shares[question.family], all_right(question, replies[judgement.id])
        own["right"].append(is_right)
        own["stated"] += [states_the_answer(text, question) for text in judgement.texts]
        score = aggregate(judgement.scores, files.min_valid_of_judge)
        if score is not None:
            own["verdict"].append((score >= ALL_RIGHT) == is_right)
    pairs = Counter[str]()
    for pair in _read(files, iteration, "pairs", "pairs.jsonl", PreferencePair):
        question = asked[pair.prompt_id]
        pairs[question.family if question else NO_QUESTION] += 1
        if question:
            shares[question.family]["chosen"].append(all_right(question, pair.chosen))
            shares[question.family]["rejected"].append(all_right(question, pair.rejected))
    prompts = Counter(question.family if question else NO_QUESTION for question in asked.values())
    rows = [HEAD, "|---|---|---|---|---|---|---|---|"]
    for name, own in shares.items():
        right, stated, verdict, chosen, rejected = (
            f"{sum(own[key]) / len(own[key]):.2f}" if own[key] else "-"
            for key in ("right", "stated", "verdict", "chosen", "rejected")
        )
        rows.append(
            f"| {name} | {prompts[name]} | {right} | {stated} | {verdict} | {pairs[name]} | {chosen} | {rejected} |"
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dirs", nargs="+", type=Path, metavar="run_dir")
    for run_dir in parser.parse_args().run_dirs:
        try:
            files = RunFiles(run_dir)
        except UserError as error:
            sys.exit(str(error))
        iterations = sorted(iteration for iteration, stage in files.manifests if stage == "pairs")
        if not iterations:
            sys.exit(f"{run_dir}: no finished pairs; expected a run of the tiny world whose first iteration has them")
        for iteration in iterations:
            print(f"{run_dir.name}, iteration {iteration}\n", *table(files, iteration), "", sep="\n")


if __name__ == "__main__":
    main()

"""How an iteration made its preference pairs: the funnel from attempts to pairs, the judging, the pairs themselves."""

from collections import Counter
from pathlib import Path

from nemo_srlm.core.files import read_json_lines, read_records
from nemo_srlm.core.pipeline import model_name
from nemo_srlm.core.records import Candidate, Judgement, PreferencePair
from nemo_srlm.data.words import count_words
from nemo_srlm.evaluate import drift
from nemo_srlm.judge.pair_files import read_dropped
from nemo_srlm.report.run_files import Data, RunFiles

STAGES = (
    "prompts",
    "candidates",
    "judge",
    "oracle_scores",
    "votes",
    "checker",
    "reward_model",
    "pairs",
    "dpo",
    "sft_chosen",
)


def read(files: RunFiles, t: int) -> Data | None:
    """The making of the preference pairs of iteration t; None when none of its stages is finished."""
    if not any((t, stage) in files.manifests for stage in STAGES):
        return None
    judgements = files.judgements(t)
    candidates = files.path(t, "candidates", "candidates.jsonl")
    return {
        "iteration": t,
        "policy": model_name(t - 1),
        "makes": model_name(t),
        "funnel": _funnel(files, t),
        "prompts": files.metrics(t, "prompts"),
        "candidates": drift.response_metrics(list(read_records(candidates, Candidate))) if candidates else None,
        "judging": drift.judging_metrics(list(read_records(judgements, Judgement)), files.min_valid)
        if judgements
        else None,
        "pairs": _pairs(files.path(t, "pairs", "pairs.jsonl")),
    }


def num_lines(path: Path | None) -> int | None:
    """Records in a JSONL file; None without a file."""
    return None if path is None else sum(1 for _ in read_json_lines(path))


def _funnel(files: RunFiles, t: int) -> Data:
    """From attempts to pairs: how many remain after each stage, and why the others do not."""
    prompts = files.metrics(t, "prompts")
    dropped = files.path(t, "pairs", "dropped.jsonl")
    return {
        "attempts": None if prompts is None else prompts["attempts"],
        "rejected": None if prompts is None else _largest_first(prompts["rejected"]),
        "accepted": num_lines(files.path(t, "prompts", "prompts.jsonl")),
        "candidates": num_lines(files.path(t, "candidates", "candidates.jsonl")),
        "judged": num_lines(files.judgements(t)),
        "pairs": num_lines(files.path(t, "pairs", "pairs.jsonl")),
        "dropped": None if dropped is None else _reasons(dropped),
    }


def _largest_first(counts: dict[str, int]) -> dict[str, int]:
    return dict(sorted(((k, n) for k, n in counts.items() if n), key=lambda item: (-item[1], item[0])))


def _reasons(dropped: Path) -> dict[str, int]:
    return dict(Counter(row.reason for row in read_dropped(dropped)).most_common())


def _pairs(path: Path | None) -> Data | None:
    """Score margin, and length of chosen against rejected: a difference here becomes longer responses of the next model."""
    if path is None:
        return None
    margins, chosen, rejected = [], [], []
    for pair in read_records(path, PreferencePair):
        if pair.chosen_score is not None and pair.rejected_score is not None:
            margins.append(pair.chosen_score - pair.rejected_score)
        chosen.append(count_words(pair.chosen))
        rejected.append(count_words(pair.rejected))
    return {
        "count": len(chosen),
        "margin": sum(margins) / len(margins) if margins else None,
        "chosen_words": sum(chosen) / len(chosen) if chosen else None,
        "rejected_words": sum(rejected) / len(rejected) if rejected else None,
        "chosen_longer": sum(a > b for a, b in zip(chosen, rejected, strict=True)) / len(chosen) if chosen else None,
    }

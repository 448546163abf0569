"""pairs.score=judge_vote: sums that are equal are a tie, whatever the rounding of their parts."""

import math
from pathlib import Path

from nemo_srlm.core.files import write_records
from nemo_srlm.core.records import Candidate, Judgement, Prompt
from nemo_srlm.judge.join import ScoredFiles, prompts_with_scores


def test_sums_that_are_equal_are_equal_numbers(tmp_path: Path):
    """7/3 + 5 x share with five shares: the judge's means make each sum 7/3 + 5, exactly where numbers were exact."""
    thirds = [(7 + 15 * (1 - k / 5)) / 3 for k in range(1, 6)]
    ids = [f"c{k}" for k in range(5)]
    write_records(tmp_path / "prompts", [Prompt("p", "Why?")])
    write_records(tmp_path / "candidates", [Candidate(i, "p", n, i, "stop", 1) for n, i in enumerate(ids)])
    for name, scores in (("judge", thirds), ("votes", [k / 5 for k in range(1, 6)])):
        rows = [Judgement(i, "p", (s,), ("",), ("stop",)) for i, s in zip(ids, scores, strict=True)]
        write_records(tmp_path / name, rows)
    assert len({a + 5.0 * k / 5 for a, k in zip(thirds, range(1, 6), strict=True)}) > 1, "the case is one of rounding"
    files = ScoredFiles(tmp_path / "prompts", tmp_path / "candidates", tmp_path / "judge", tmp_path / "votes", 5.0)
    (one,) = prompts_with_scores(files, 1)
    assert len({candidate.score for candidate in one.candidates}) == 1
    assert math.isclose(one.candidates[0].score or 0.0, 22 / 3, abs_tol=1e-9)

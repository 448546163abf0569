"""The random control's pairs, balanced: as many in the judge's order as against it."""

from collections import Counter
from pathlib import Path

import pytest

from nemo_srlm.config.compose import compose
from nemo_srlm.config.generation import PairsSection
from nemo_srlm.config.schema import Config, RunSection
from nemo_srlm.core.records import Prompt, content_id
from nemo_srlm.errors import ConfigError
from nemo_srlm.stages.pairs import STAGE
from tests.unit.test_pairs import row, run, stage


def test_a_balanced_control_is_in_the_judges_order_as_often_as_against_it(tmp_path: Path):
    """Within each kind of prompt, too, and also of the pairs that an iteration keeps; the loop itself does not change."""
    rows = [row(i, (5.0,) * 3, (1.0,) * 3, (3.0,) * 3, (3.0,) * 3) for i in range(60)]
    rows = [
        (Prompt(prompt.id, f"{'Count' if i % 3 else 'Name'} {prompt.text}"), made, judged)
        for i, (prompt, made, judged) in enumerate(rows)
    ]
    ctx = stage(tmp_path, rows, run=RunSection(arm="random", seed=4))
    free, _ = run(ctx)
    ctx.cfg.pairs.balanced_control = True
    ctx.cfg.pairs.per_iteration = [50]
    found, _ = run(ctx)
    assert len(found) == 50
    score = {"text 0": 5, "text 1": 1, "text 2": 3, "text 3": 3}
    signs = {
        kind: Counter(
            (score[p.chosen] > score[p.rejected]) - (score[p.chosen] < score[p.rejected])
            for p in found
            if p.prompt.startswith(kind)
        )
        for kind in ("Count", "Name")
    }
    assert all(abs(counts[1] - counts[-1]) <= 1 < counts[1] for counts in signs.values())
    assert abs(sum(counts[1] - counts[-1] for counts in signs.values())) <= 1
    metrics = STAGE.finalize(ctx)
    assert metrics["in_the_judges_order"] == sum(counts[1] for counts in signs.values())
    assert metrics["against_the_judges_order"] == sum(counts[-1] for counts in signs.values())
    assert metrics["equal_for_the_judge"] == sum(counts[0] for counts in signs.values())
    assert all(p.chosen_score == 5 and p.rejected_score == 1 for p in found)  # the permuted ones
    assert all(p.id == content_id("pair", p.prompt_id, p.chosen, p.rejected) for p in found)
    both = {p.prompt_id: {p.chosen, p.rejected} for p in free}
    assert all(both[p.prompt_id] == {p.chosen, p.rejected} for p in found)
    assert any(p not in free for p in found)
    plain = Config(pairs=PairsSection(balanced_control=True))
    assert STAGE.identity(plain, 1) == STAGE.identity(Config(), 1)
    with pytest.raises(ConfigError, match=r"pairs\.balanced_control: True with pairs\.rejected_from=m1"):
        compose("tiny", ["run.arm=random", "pairs.rejected_from=m1"])

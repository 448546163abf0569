"""What DPO is given: pairs of responses and pairs of judgements are counted apart."""

from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from nemo_srlm.config.compose import compose
from nemo_srlm.core.files import write_records
from nemo_srlm.core.progress import Progress
from nemo_srlm.core.records import PreferencePair
from nemo_srlm.core.stage import Context
from nemo_srlm.data.chat import Document
from nemo_srlm.stages.common import preference_examples


def document(prompt: str, response: str) -> Document:
    number = len(response) + 1
    return Document(np.arange(number, dtype=np.int32), np.array([0.0] + [1.0] * (number - 1), dtype=np.float32))


def test_pairs_of_judgements_are_counted_apart(tmp_path: Path):
    cfg = compose("tiny", ["dpo.max_length=8", "dpo.replay_weight=0"])
    inputs = {name: tmp_path / name for name in ("pairs_1", "judge_pairs_1", "pairs", "judge_pairs")}
    texts = {"pairs_1": ["ok"], "judge_pairs_1": ["long"], "pairs": ["ok", "long"], "judge_pairs": ["ok", "ok", "long"]}
    for name, directory in inputs.items():
        directory.mkdir()
        sides = {"ok": ("a" * 5, "b" * 5), "long": ("a" * 20, "b")}
        rows = [PreferencePair(f"{name}{i}", "p", "q", *sides[text]) for i, text in enumerate(texts[name])]
        write_records(directory / "pairs.jsonl", rows)
    ctx, dropped = Context(cfg, 2, tmp_path, inputs, Progress(tmp_path)), Counter[str]()
    found, _ = preference_examples.examples(ctx, SimpleNamespace(document=document), dropped)  # type: ignore[arg-type]
    assert preference_examples.count(ctx, found) == {"pairs": 2, "judge_pairs": 2}
    assert dropped == {"too_long": 1, "judge_pairs_too_long": 2}
    del inputs["judge_pairs"], inputs["judge_pairs_1"]
    assert preference_examples.count(ctx, found).keys() == {"pairs"}

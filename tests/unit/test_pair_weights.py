"""Weight and certainty of a preference pair: on disk only where they are set, and in the loss of its own pair."""

from pathlib import Path

import numpy as np
import pytest
import torch

from nemo_srlm.config.training import DpoSection
from nemo_srlm.core.files import dump, read_records, write_records
from nemo_srlm.core.records import PreferencePair
from nemo_srlm.data.chat import Document
from nemo_srlm.train.batches import BatchLayout, collate
from nemo_srlm.train.megatron import dpo, ranks
from nemo_srlm.train.megatron.reference import Pair
from nemo_srlm.train.megatron.step import LocalBatch

PLAIN = PreferencePair("i", "p", "Why?", "Because.", "No.", 4.0, 1.0)


def test_a_pair_of_weight_one_is_written_as_before_there_were_weights(tmp_path: Path):
    assert dump(PLAIN) == (
        '{"id":"i","prompt_id":"p","prompt":"Why?","chosen":"Because.","rejected":"No.","chosen_score":4.0,"rejected_score":1.0}\n'
    )
    weighted = PreferencePair("i", "p", "Why?", "Because.", "No.", 4.0, 1.0, weight=0.5, certainty=0.75)
    assert dump(weighted).endswith('"rejected_score":1.0,"weight":0.5,"certainty":0.75}\n')
    write_records(tmp_path / "pairs.jsonl", [PLAIN, weighted])
    assert list(read_records(tmp_path / "pairs.jsonl", PreferencePair)) == [PLAIN, weighted]


def test_every_pair_of_a_shuffled_batch_gets_its_own_weight(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ranks, "is_first_context_rank", lambda: True)
    monkeypatch.setattr(dpo, "document_sums", lambda values, batch: values.sum(dim=1))

    def document(length: int) -> Document:
        return Document(np.arange(length, dtype=np.int32), np.array([0] + [1] * (length - 1), np.float32))

    pairs = [Pair(str(i), document(4), document(3), weight=float(i), certainty=0.5 + i / 10) for i in range(4)]
    section = DpoSection(loss="simpo", beta=1.0, simpo_gamma=0.0)
    task = dpo.dpo_task(pairs, (), None, section, seed=1)
    positions = (2, 0, 3)
    units = [task.unit_at(p) for p in positions]
    batch = collate(units, positions, BatchLayout(packed=False))
    local = LocalBatch(
        torch.from_numpy(batch.tokens_BS), torch.from_numpy(batch.labels_BS), torch.from_numpy(batch.weights_BS),
        torch.from_numpy(batch.segments_BS), torch.from_numpy(batch.positions_S), None, 0, batch.num_documents,
        batch.positions, batch.tokens_BS.shape[1], None,
    )  # fmt: skip
    nll = torch.where(local.segments_BS % 2 == 0, 1.0, 2.0)  # per token: chosen 1, rejected 2
    found = task.loss(nll, local)
    term, turned = (float(-torch.nn.functional.logsigmoid(torch.tensor(x))) for x in (1.0, -1.0))
    mine = [pairs[dpo.index_at(p, 4, 1)] for p in positions]
    wanted = sum(p.weight * (p.certainty * term + (1 - p.certainty) * turned) for p in mine)
    assert found.total.item() == pytest.approx(wanted, rel=1e-5)

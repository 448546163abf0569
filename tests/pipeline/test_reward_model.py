"""pairs.score=reward_model: vLLM's scores of a sequence classifier are transformers' logits, and order the candidates."""

from contextlib import closing
from pathlib import Path

import pytest
import torch

from nemo_srlm.config.compose import compose
from nemo_srlm.core.files import read_records, write_records
from nemo_srlm.core.progress import Progress
from nemo_srlm.core.records import Candidate, Judgement, PreferencePair, Prompt
from nemo_srlm.core.slot import Slot
from nemo_srlm.core.stage import Context
from nemo_srlm.stages import pairs, reward_model
from tests.unit import tiny_llama

pytestmark = pytest.mark.slow

TEXTS = ("A bear.", "An owl, and nothing else", "no", "x" * 400)


def classifier(path: Path) -> None:
    from transformers import LlamaConfig, LlamaForSequenceClassification

    torch.manual_seed(3)
    config = LlamaConfig(
        hidden_size=96, intermediate_size=136, num_hidden_layers=2, num_attention_heads=3, num_key_value_heads=1,
        vocab_size=261, max_position_embeddings=256, num_labels=1, pad_token_id=2,
    )  # fmt: skip
    LlamaForSequenceClassification(config).save_pretrained(path)
    tiny_llama.make_tokenizer(path, 259)


def test_the_scores_are_the_logits_of_transformers_and_make_pairs(tmp_path: Path):
    from transformers import LlamaForSequenceClassification

    from nemo_srlm.data.chat import Chat
    from nemo_srlm.data.tokenizer import Tokenizer

    classifier(tmp_path / "rm")
    cfg = compose("tiny", ["pairs.score=reward_model", f"reward_model.path={tmp_path}/rm", "generate.max_model_len=0"])
    reward_model.STAGE.check(cfg)
    for name in ("prompts", "candidates", "reward_model", "pairs"):
        (tmp_path / name).mkdir()
    write_records(tmp_path / "prompts/prompts.jsonl", [Prompt("p", "Name an animal.")])
    made = [Candidate(f"c{i}", "p", i, text, "stop", 1) for i, text in enumerate(TEXTS)]
    write_records(tmp_path / "candidates/candidates.jsonl", made)
    inputs = {name: tmp_path / name for name in ("prompts", "candidates")}
    with closing(Slot()) as slot:
        here = tmp_path / "reward_model"
        ctx = Context(cfg, 1, here, inputs, Progress(here, 0), 0, 1, slot)
        reward_model.STAGE.run(ctx)
        metrics = reward_model.STAGE.finalize(ctx)
    scored = list(read_records(here / "judgements.jsonl", Judgement))
    assert metrics["errors"] == {"too_long": 1}
    assert scored[3].error.startswith("too_long: ")
    net = LlamaForSequenceClassification.from_pretrained(tmp_path / "rm", dtype=torch.float32).eval()
    chat = Chat.of(Tokenizer(tmp_path / "rm"), cfg.chat)
    for text, found in zip(TEXTS, scored[:3], strict=False):
        with torch.no_grad():
            logit = net(torch.tensor([chat.document("Name an animal.", text).ids.tolist()])).logits.item()
        assert found.scores == (pytest.approx(logit, abs=1e-4),)
    ctx = Context(cfg, 1, tmp_path / "pairs", {**inputs, "judge": here}, Progress(tmp_path / "pairs", 0))
    pairs.STAGE.run(ctx)
    pairs.STAGE.finalize(ctx)
    (pair,) = read_records(tmp_path / "pairs/pairs.jsonl", PreferencePair)
    by_score = sorted(range(3), key=lambda i: scored[i].scores[0] or 0.0)
    assert (pair.chosen, pair.rejected) == (TEXTS[by_score[-1]], TEXTS[by_score[0]])

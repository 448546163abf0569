"""A run from an instruct model and a file of prompts alone, and one that learns to judge from ranks first.

Import, Megatron, vLLM and the shipped config are real; the model is a random Llama of a million parameters, which never
writes a score by itself: every response has one all the same, because it is read behind a lead-in.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nemo_srlm.config.training import ModelSection
from nemo_srlm.core import manifest
from nemo_srlm.core.files import read_records
from nemo_srlm.core.records import Judgement, Prompt, SftExample
from tests.unit import tiny_llama
from tests.unit.test_oasst import message, tree, write

ROOT = Path(__file__).resolve().parents[2]
MODEL = ModelSection(
    num_layers=2, hidden_size=64, ffn_hidden_size=128, num_attention_heads=2, num_query_groups=1, vocab_size=512,
    max_length=2048,
)  # fmt: skip
# No architecture and no chat format: the model's directory has both.
TINY = [
    "precision.dtype=fp32", "iterations=1", "export.verify=round_trip", "generate.dtype=float32", "generate.enforce_eager=true",
    "generate.max_num_seqs=32", "candidates.max_tokens=12", "eval.max_tokens=12", "judge.max_tokens=8", "eval.bootstrap=20",
    *(f"{name}.{setting}" for name in ("sft", "dpo") for setting in (
        "dropout=0.0", "global_batch=4", "micro_batch=2", "max_length=2048", "save_every=0", "lr=1e-3", "min_lr=1e-4")),
]  # fmt: skip
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama with a byte-level tokenizer that writes digits one by one, as the tokenizers of real models do."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    directory = tmp_path_factory.mktemp("model")
    tiny_llama.make(directory, MODEL, "fp32", scale=0.02)
    core = Tokenizer(models.BPE(unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    core.decoder = decoders.ByteLevel()
    core.train_from_iterator([(ROOT / "configs/prompts/judge.txt").read_text()], trainers.BpeTrainer(
        vocab_size=MODEL.vocab_size, special_tokens=["<s>", "</s>", "<unk>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False,
    ))  # fmt: skip
    core.save(str(directory / "tokenizer.json"))
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    template = (
        "{% for m in messages %}<s>{{ m.role }}: {{ m.content }}</s>{% endfor %}"
        "{% if add_generation_prompt %}<s>assistant: {% endif %}"
    )
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": template, **names}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    return directory


def call(command: list[str], variables: dict[str, str]) -> None:
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"} | variables
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def start(*arguments: str) -> None:
    call([sys.executable, "-m", "nemo_srlm.cli", "run", "--config-name", "real", *TINY, *arguments], {})


def test_a_model_and_a_file_of_prompts_are_enough(model: Path, tmp_path: Path):
    # of words of their own: near copies of a held-out prompt are left out
    prompts = [" ".join(f"{word}{n}" for word in ("describe", "harbour", "lantern", "winter")) + "." for n in range(40)]
    (tmp_path / "prompts.txt").write_text("\n".join([*prompts, prompts[0], ""]))
    start(f"run.root={tmp_path}", f"import_hf.path={model}", f"prompts.files=[{tmp_path / 'prompts.txt'}]")
    run = tmp_path / "real"
    assert not (run / "iter0" / "sft").exists()
    assert not (run / "iter0" / "eft").exists()
    counts = manifest.read(run / "iter0/seed").metrics
    assert (counts["file_prompts"], counts["eval_prompts"], counts["file_prompts_duplicate"]) == (35, 5, 1)
    used = {p.text for p in read_records(run / "iter1/prompts/prompts.jsonl", Prompt)}
    held_out = {p.text for p in read_records(run / "iter0/held_out/eval_prompts.jsonl", Prompt)}
    assert len(used) == 35
    assert not used & held_out
    judgements = list(read_records(run / "iter1/judge/judgements.jsonl", Judgement))
    assert len(judgements) == 4 * 35
    assert all(0 < j.scores[0] < 5 and j.texts[0].startswith("Score: ") for j in judgements)
    (run / "iter1/dpo/checkpoint/final").resolve(strict=True)  # M2, of M0 without an SFT between them
    models = json.loads((run / "report.json").read_text())["runs"][0]["models"]
    assert [m["name"] for m in models] == ["M1", "M2"]


def test_the_real_demo_on_a_users_model_and_ranked_data_with_its_control(model: Path, tmp_path: Path):
    """`make demo-real MODEL=... DATA=...`, reduced: ranks teach the model to judge before the first iteration."""
    rows = [
        tree(
            f"q{i}",
            *(message(f"q{i}-{rank}", f"Answer {rank} " + "good " * (3 - rank), f"q{i}", rank) for rank in range(3)),
        )
        for i in range(40)
    ]
    write(tmp_path / "ranked.trees.jsonl", rows)
    (tmp_path / "prompts.txt").write_text("\n".join(f"Write {n} words about the sea." for n in range(40)))
    call(
        ["bash", "tools/demo_real.sh", *TINY, f"run.root={tmp_path}", "prompts.source=file", "prompts.num_prompts=8",
         "dpo.num_validation=2", "parallel.processes=1", f"prompts.files=[{tmp_path / 'prompts.txt'}]"],
        {"MODEL": str(model), "DATA": str(tmp_path / "ranked.trees.jsonl")},
    )  # fmt: skip
    run = tmp_path / f"{model.name}-ranked"
    control = run.with_name(f"{run.name}-random")
    examples = list(read_records(run / "iter0/eft/eft_train.jsonl", SftExample))
    assert sorted({e.response for e in examples}) == ["Score: 0", "Score: 3", "Score: 5"]
    assert set(manifest.read(run / "iter0/sft").metrics["data"]["used"]) == {"eft"}
    models = json.loads((run / "report.json").read_text())["runs"][0]["models"]
    assert [m["name"] for m in models] == ["M0", "M1", "M2"]
    assert all(m["reward"]["counts"]["unscored"] == 0 for m in models)  # M0 too, which cannot judge
    reused = [path for path in control.glob("iter*/*") if path.is_symlink()]
    assert {p.name for p in reused} >= {"seed", "eft", "import_hf", "sft", "prompts", "candidates", "judge"}
    assert not (control / "iter1/pairs").is_symlink()  # of permuted scores
    report = json.loads((run / "report.json").read_text())
    assert [r["name"] for r in report["runs"]] == [run.name, control.name]

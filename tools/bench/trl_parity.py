"""Compares 20 steps of our SFT and DPO with TRL's trainers: the largest difference of a loss.

    python tools/bench/trl_parity.py [--venv /tmp/nemo-srlm-trl]

A small random Llama; same weights, sequences, order and hyperparameters; fp32; no dropout. Ours: packed, two
micro-batches of four. TRL: padded, one micro-batch of eight. TRL and accelerate (pinned) are installed into a separate
environment, created if missing, which uses torch and transformers of this one. Fails above 1e-3.
"""

import argparse
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PINS = ("trl==1.16.0", "accelerate==1.15.0")
LIMIT, STEPS, BATCH, BETA = 1e-3, 20, 8, 0.1
LR, DECAY, CLIP, BETAS, EPS = 1e-3, 0.1, 1.0, (0.9, 0.95), 1e-8


# --- our trainer ---------------------------------------------------------------------------------------------------


def make(folder: Path) -> None:
    """Writes weights (folder/hf) and sequences (folder/data.json): rows [prompt, chosen, rejected] as token ids."""
    import numpy as np

    from tests.unit import tiny_llama

    tiny_llama.make(folder / "hf", tiny_llama.SHAPES["gqa"], "fp32", seed=3)
    tiny_llama.make_tokenizer(folder / "hf")
    rng = np.random.default_rng(0)

    def ids(low: int, high: int) -> list[int]:
        return [int(x) for x in rng.integers(3, 250, rng.integers(low, high))]

    pairs = [([1, *ids(4, 12)], [*ids(6, 30), 2], [*ids(6, 30), 2]) for _ in range(STEPS * BATCH // 2)]
    (folder / "data.json").write_text(json.dumps(pairs))


def ours(folder: Path) -> dict[str, list[float]]:
    """Returns losses by kind; writes folder/order.json, the pairs in the order of our training."""
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1"}
    import numpy as np

    from nemo_srlm.config.training import DpoSection, ParallelSection, PrecisionSection, TrainSection
    from nemo_srlm.convert.import_hf import import_hf
    from nemo_srlm.data.chat import Document
    from nemo_srlm.train import metrics
    from nemo_srlm.train.batches import index_at
    from nemo_srlm.train.megatron.dpo import fit_dpo
    from nemo_srlm.train.megatron.job import Job, start
    from nemo_srlm.train.megatron.quiet import quiet
    from nemo_srlm.train.megatron.reference import Pair
    from nemo_srlm.train.megatron.tasks import sft_task
    from nemo_srlm.train.megatron.trainer import fit
    from tests.pipeline.trainer_worker import Silent
    from tests.unit import tiny_llama

    quiet()
    import_hf(folder / "hf", folder / "imported")
    rows = json.loads((folder / "data.json").read_text())

    def document(prompt: list[int], response: list[int]) -> Document:
        weights = np.array([0.0] * len(prompt) + [1.0] * len(response), np.float32)
        return Document(np.array(prompt + response, np.int32), weights)

    section = TrainSection(
        lr=LR, min_lr=LR, schedule="constant", warmup_steps=0, weight_decay=DECAY, beta1=BETAS[0], beta2=BETAS[1],
        eps=EPS, clip_grad=CLIP, dropout=0.0, global_batch=BATCH, micro_batch=4, max_steps=STEPS, max_length=128,
    )  # fmt: skip
    seed, found = 5, {}
    for kind in ("sft", "dpo"):
        directory = folder / kind
        directory.mkdir()
        job = Job(
            kind, tiny_llama.SHAPES["gqa"], ParallelSection(processes=1), PrecisionSection(dtype="fp32"), section, seed,
            directory, folder / "imported", Silent(),
        )  # fmt: skip
        trainer = start(job)
        if kind == "sft":
            fit(trainer, sft_task([document(p, c) for p, c, _ in rows], seed))
        else:
            pairs = [Pair(str(i), document(p, c), document(p, r)) for i, (p, c, r) in enumerate(rows)]
            fit_dpo(trainer, pairs, (), DpoSection(beta=BETA))
        lines = (directory / metrics.METRICS).read_text().splitlines()
        found[kind] = [json.loads(line)["loss"] for line in lines]
    order = [rows[index_at(i, len(rows), seed)] for i in range(STEPS * BATCH)]
    (folder / "order.json").write_text(json.dumps(order))
    return found


# --- TRL's trainers, in their own environment ----------------------------------------------------------------------


def theirs(folder: Path) -> None:
    """Writes folder/theirs.json: losses by kind."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    rows = json.loads((folder / "order.json").read_text())
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "hf")
    tokenizer.pad_token = tokenizer.eos_token
    settings: dict[str, Any] = {
        "per_device_train_batch_size": BATCH, "max_steps": STEPS, "learning_rate": LR, "lr_scheduler_type": "constant",
        "weight_decay": DECAY, "adam_beta1": BETAS[0], "adam_beta2": BETAS[1], "adam_epsilon": EPS, "optim": "adamw_torch",
        "max_grad_norm": CLIP, "bf16": False, "use_cpu": True, "gradient_checkpointing": False, "report_to": "none",
        "save_strategy": "no", "logging_strategy": "no", "disable_tqdm": True, "max_length": None,
    }  # fmt: skip
    found: dict[str, list[float]] = {}

    def in_order(trainer: type, kind: str) -> type:
        """The trainer class with a fixed data order; records the loss of each step in `found`."""

        class Ordered(trainer):  # type: ignore[misc]
            def _get_train_sampler(self, dataset: Any = None) -> Any:
                return torch.utils.data.SequentialSampler(self.train_dataset if dataset is None else dataset)

            def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
                return dataset  # already token ids

            def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
                result = super().compute_loss(*args, **kwargs)
                loss = result[0] if isinstance(result, tuple) else result
                found.setdefault(kind, []).append(float(loss.detach()))
                return result

        return Ordered

    def model() -> Any:
        return AutoModelForCausalLM.from_pretrained(folder / "hf", dtype=torch.float32)

    sft = Dataset.from_list([{"input_ids": p + c, "labels": [-100] * len(p) + c} for p, c, _ in rows])
    config = SFTConfig(output_dir=str(folder / "trl-sft"), **settings)
    in_order(SFTTrainer, "sft")(model(), config, train_dataset=sft, processing_class=tokenizer).train()
    dpo = Dataset.from_list([{"prompt_ids": p, "chosen_ids": c, "rejected_ids": r} for p, c, r in rows])
    config = DPOConfig(output_dir=str(folder / "trl-dpo"), beta=BETA, **settings)
    in_order(DPOTrainer, "dpo")(model(), model(), config, train_dataset=dpo, processing_class=tokenizer).train()
    (folder / "theirs.json").write_text(json.dumps(found))


def environment(venv: Path) -> Path:
    """The Python interpreter of TRL's environment, which is created if it is missing."""
    python = venv / "bin" / "python"
    if not (venv / "made").exists():
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        code = "import sysconfig; print(sysconfig.get_path('purelib'))"
        site = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
        (Path(site) / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
        subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", *PINS], check=True)
        (venv / "made").touch()
    return python


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venv", type=Path, default=Path(tempfile.gettempdir()) / "nemo-srlm-trl")
    parser.add_argument("--peer", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--quick", action="store_true", help="no effect: the benchmark is small")
    args = parser.parse_args()
    if args.peer:
        theirs(args.peer)
        return 0
    python = environment(args.venv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder)
        own = ours(folder)
        env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled"}
        env = {k: v for k, v in env.items() if k not in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")}
        subprocess.run([python, __file__, "--peer", str(folder)], check=True, env=env)
        peer = json.loads((folder / "theirs.json").read_text())
    worst = 0.0
    for kind in ("sft", "dpo"):
        assert len(own[kind]) == len(peer[kind]) == STEPS, (len(own[kind]), len(peer[kind]))
        gap = max(abs(a - b) for a, b in zip(own[kind], peer[kind], strict=True))
        worst = max(worst, gap)
        print(f"{kind}: first {own[kind][0]:.6f} / {peer[kind][0]:.6f}, last {own[kind][-1]:.6f} / {peer[kind][-1]:.6f},"
              f" largest difference over {STEPS} steps {gap:.2e}")  # fmt: skip
    print(f"worst {worst:.2e}, limit {LIMIT:.0e}: {'holds' if worst <= LIMIT else 'DOES NOT HOLD'}")
    return int(worst > LIMIT)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main())

"""Benchmark of SFT and DPO on two cores against TRL's trainers, packed against padded, on a run's own sequence lengths.

    python tools/bench/train.py [RUN_DIR]      a finished run (default: runs/tiny): its seed data and first pairs
    python tools/bench/train.py --quick        one round with few steps
    python tools/bench/train.py --limit        our trainer alone, beside the limit: torch's matrix products of the same rows
    python tools/bench/train.py --limit --shapes 135M --kinds dpo

Same examples, model shape, precision (fp32) and settings for all; new weights; one epoch per round; the trainers
alternate. Ours: two processes with one thread each, packed and padded. TRL (environment: see trl_parity.py): padded, the
better of one process with two threads and two processes with one thread each. Metric: tokens (without padding) per wall
second, from the start of training, reference passes included, to the end of the last step; the median of the rounds.
"Steps" excludes everything before the end of the first step, that is our reference pass and the check of ln 2, which
happen once; TRL computes the reference in each step. Losses of packed and padded must agree to 1e-4.
The limit (products.py) is measured by the training processes themselves, when their training has ended.
"""

import argparse
import copy
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
AIMS = {"sft": 1.2, "dpo": 2.0}  # required speed, as a multiple of TRL's tokens per second
SHAPES = {  # layers, hidden, feed-forward, heads, key/value heads, vocabulary (0: that of the run)
    "0.9M": (4, 128, 352, 4, 4, 0),
    "13M": (6, 384, 1024, 6, 6, 0),
    "135M": (30, 576, 1536, 9, 3, 49152),
}
BESIDE_TRL = ("0.9M", "13M")
LIMIT_AIMS = {"13M": 0.6, "135M": 0.75}  # required share of the limit
LIMIT_STEPS = {"135M": 6}  # half a minute each; until the third glibc does not keep its memory, and pages are made anew


def prepare(run_dir: Path, folder: Path, steps: int) -> None:
    """Writes folder/data.json: settings, and the examples and pairs for `steps` steps as [prompt ids, response ids, ...]."""
    from nemo_srlm.config.compose import load_resolved_config
    from nemo_srlm.core.files import read_records
    from nemo_srlm.core.pipeline import tokenizer_ref
    from nemo_srlm.core.records import PreferencePair, SftExample
    from nemo_srlm.data.chat import Chat, Document
    from nemo_srlm.data.tokenizer import Tokenizer
    from nemo_srlm.train.batches import drop_reason

    cfg = load_resolved_config(run_dir)
    chat = Chat.of(Tokenizer(run_dir / "iter0" / tokenizer_ref(cfg).stage / "tokenizer"), cfg.chat)

    def split(document: Document) -> tuple[list[int], list[int]]:
        start = int(document.weights.argmax())
        ids = document.ids.tolist()
        return ids[:start], ids[start:]

    paths = [run_dir / "iter0" / "seed" / "ift.jsonl", run_dir / "iter0" / "eft" / "eft_train.jsonl"]
    examples = [chat.document(e.prompt, e.response) for path in paths for e in read_records(path, SftExample)]
    sft = [split(d) for d in examples if not drop_reason((d,), cfg.sft.max_length)]
    pairs = []
    for p in read_records(run_dir / "iter1" / "pairs" / "pairs.jsonl", PreferencePair):
        chosen, rejected = chat.document(p.prompt, p.chosen), chat.document(p.prompt, p.rejected)
        if not drop_reason((chosen, rejected), cfg.dpo.max_length):
            pairs.append((*split(chosen), split(rejected)[1]))
    wanted = {"sft": steps * cfg.sft.global_batch, "dpo": steps * cfg.dpo.global_batch}
    data = {
        "batch": {"sft": cfg.sft.global_batch, "dpo": cfg.dpo.global_batch}, "steps": steps,
        "vocab": cfg.model.vocab_size, "length": cfg.sft.max_length, "beta": cfg.dpo.beta,
        "sft": [sft[i * 7919 % len(sft)] for i in range(wanted["sft"])],  # shuffled: the files are sorted by kind
        "dpo": [pairs[i % len(pairs)] for i in range(wanted["dpo"])],
    }  # fmt: skip
    (folder / "data.json").write_text(json.dumps(data))


def num_tokens(kind: str, rows: list[Any]) -> int:
    """Tokens that the model processes: the prompt of a pair counts twice."""
    return sum(len(row[0]) * (2 if kind == "dpo" else 1) + sum(map(len, row[1:])) for row in rows)


# --- our trainer, one rank ------------------------------------------------------------------------------------------


def ours(folder: Path, kind: str, shape: str, packing: bool) -> None:
    """Writes folder/ours.json: seconds, seconds without the first step, losses."""
    import numpy as np

    from nemo_srlm.config.training import DpoSection, ModelSection, ParallelSection, PrecisionSection, TrainSection
    from nemo_srlm.data.chat import Document
    from nemo_srlm.train import metrics
    from nemo_srlm.train.megatron.dpo import dpo_task, fit_dpo
    from nemo_srlm.train.megatron.job import Job, start
    from nemo_srlm.train.megatron.quiet import quiet
    from nemo_srlm.train.megatron.reference import Pair
    from nemo_srlm.train.megatron.tasks import sft_task
    from nemo_srlm.train.megatron.trainer import fit
    from tools.bench import products

    quiet()
    data = json.loads((folder / "data.json").read_text())
    clock: list[float] = []
    processor: list[float] = []

    class Clock:
        def update(self, done: float, total: float, unit: str = "items", **info: float | str) -> None:
            clock.append(time.perf_counter())
            processor.append(time.process_time())

    def document(prompt: list[int], response: list[int]) -> Document:
        weights = np.array([0.0] * len(prompt) + [1.0] * len(response), np.float32)
        return Document(np.array(prompt + response, np.int32), weights)

    layers, hidden, ffn, heads, groups, vocabulary = SHAPES[shape]
    model = ModelSection(
        num_layers=layers, hidden_size=hidden, ffn_hidden_size=ffn, num_attention_heads=heads, num_query_groups=groups,
        vocab_size=vocabulary or data["vocab"], max_length=data["length"],
    )  # fmt: skip
    section = TrainSection(
        lr=1e-4, min_lr=1e-4, schedule="constant", warmup_steps=0, dropout=0.0, global_batch=data["batch"][kind],
        micro_batch=data["batch"][kind] // 2, epochs=1.0, max_length=data["length"], packing=packing, save_every=0,
    )  # fmt: skip
    job = Job(
        kind, model, ParallelSection(processes=2), PrecisionSection(dtype="fp32"), section, 0, folder / kind, None, Clock()
    )  # fmt: skip
    trainer = start(job)
    began = time.perf_counter()
    settings = DpoSection(beta=data["beta"])
    if kind == "sft":
        task = sft_task([document(p, r) for p, r in data["sft"]], 0)
        fit(trainer, task)
    else:
        pairs = [Pair(str(i), document(p, c), document(p, r)) for i, (p, c, r) in enumerate(data["dpo"])]
        task = dpo_task(pairs, (), None, settings, 0)
        fit_dpo(trainer, pairs, (), settings)
    found: dict[str, Any] = {}
    if packing:  # every rank, so that both cores are busy, as in the training
        found |= products.beside_trainer(trainer, task, data["steps"])
    if os.environ["RANK"] == "0":
        if packing:
            spent = found.pop("step_products")
            found["limit"] = {
                "wall": spent.wall / (clock[-1] - clock[0]),
                "cpu": spent.cpu / (processor[-1] - processor[0]),
            }
            forward, pure = found.pop("forward"), found.pop("forward_products")
            found["forward"] = {"wall": pure.wall / forward.wall, "cpu": pure.cpu / forward.cpu}
        lines = [json.loads(line) for line in (folder / kind / metrics.METRICS).read_text().splitlines()]
        found |= {
            "seconds": clock[-1] - began,
            "steps": clock[-1] - clock[0],
            "losses": [line["loss"] for line in lines],
        }
        (folder / "ours.json").write_text(json.dumps(found))


# --- TRL's trainers, in their own environment -----------------------------------------------------------------------


def theirs(folder: Path, kind: str, shape: str) -> None:
    """Writes folder/theirs.json: seconds, and seconds without the first step."""
    import torch
    from datasets import Dataset
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, TrainerCallback
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    data = json.loads((folder / "data.json").read_text())
    world = int(os.environ.get("WORLD_SIZE", "1"))
    torch.set_num_threads(2 // world)
    layers, hidden, ffn, heads, groups, vocabulary = SHAPES[shape]
    config = LlamaConfig(
        vocab_size=vocabulary or data["vocab"], hidden_size=hidden, intermediate_size=ffn, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=groups, max_position_embeddings=data["length"],
        tie_word_embeddings=False,
    )  # fmt: skip
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer")
    tokenizer.pad_token = tokenizer.eos_token
    settings: dict[str, Any] = {
        "per_device_train_batch_size": data["batch"][kind] // world, "num_train_epochs": 1, "learning_rate": 1e-4,
        "lr_scheduler_type": "constant", "weight_decay": 0.0, "adam_beta2": 0.95, "optim": "adamw_torch", "max_grad_norm": 1.0,
        "bf16": False, "use_cpu": True, "gradient_checkpointing": False, "report_to": "none", "save_strategy": "no",
        "logging_strategy": "no", "disable_tqdm": True, "max_length": None, "output_dir": str(folder / f"trl-{kind}"),
        **({"ddp_backend": "gloo", "ddp_find_unused_parameters": False} if world > 1 else {}),
    }  # fmt: skip
    clock: dict[str, float] = {}

    class Clock(TrainerCallback):
        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            clock["began"] = time.perf_counter()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            clock["ended"] = time.perf_counter()
            clock.setdefault("first", clock["ended"])

    def with_ids(trainer: type) -> type:
        class Ready(trainer):  # type: ignore[misc]
            def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
                return dataset  # already token ids

        return Ready

    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    if kind == "sft":
        rows = [{"input_ids": p + r, "labels": [-100] * len(p) + r} for p, r in data["sft"]]
        trainer = with_ids(SFTTrainer)(
            model, SFTConfig(**settings), train_dataset=Dataset.from_list(rows), processing_class=tokenizer
        )
    else:
        rows = [{"prompt_ids": p, "chosen_ids": c, "rejected_ids": r} for p, c, r in data["dpo"]]
        trainer = with_ids(DPOTrainer)(
            model, copy.deepcopy(model), DPOConfig(beta=data["beta"], **settings), train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
        )  # fmt: skip
    trainer.add_callback(Clock())
    trainer.train()
    if os.environ.get("RANK", "0") == "0":
        found = {"seconds": clock["ended"] - clock["began"], "steps": clock["ended"] - clock["first"]}
        (folder / "theirs.json").write_text(json.dumps(found))
    if world > 1:
        torch.distributed.barrier()
    sys.stdout.flush()
    os._exit(0)  # gloo's threads sometimes abort a process at normal interpreter exit


# --- comparison -----------------------------------------------------------------------------------------------------


def call(python: Path, processes: int, *words: str) -> None:
    launch = (
        ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)] if processes > 1 else []
    )
    env = {**os.environ, "OMP_NUM_THREADS": str(2 // processes), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [str(python), "-W", "ignore", *launch, __file__, *words], env=env, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{' '.join(words)} ended with {done.returncode}\n{done.stdout}{done.stderr}")


def print_limit(shape: str, kind: str, found: dict[str, Any]) -> bool:
    """Prints our shares of the limit; returns whether they reach the aim."""
    aim, reached = LIMIT_AIMS.get(shape, 0.0), True
    for part, title in (("limit", f"{kind} steps"), ("forward", f"forward pass ({kind})")):
        share = found.pop(part)
        reached = reached and share["cpu"] >= aim
        print(
            f"{shape} {title}: torch's matrix products alone take {share['cpu']:.2f} of our processor time"
            f"{f' (aim {aim})' if aim else ''}, {share['wall']:.2f} of our time by the clock", flush=True,
        )  # fmt: skip
    return reached


def beside_limit(folder: Path, kind: str, shape: str) -> bool:
    """Our packed training alone, beside the limit."""
    (folder / kind).mkdir()
    call(Path(sys.executable), 2, "--ours", str(folder), kind, shape, "packed")
    found = json.loads((folder / "ours.json").read_text())
    shutil.rmtree(folder / kind)
    data = json.loads((folder / "data.json").read_text())
    speed = (1 - 1 / data["steps"]) * num_tokens(kind, data[kind]) / found["steps"]
    print(f"{shape} {kind} steps: {speed:,.0f} tokens/s", flush=True)
    return print_limit(shape, kind, found)


def beside(folder: Path, kind: str, shape: str, rounds: int, peer: Path) -> bool:
    """Prints the results; returns whether the required speed is reached and the losses agree."""
    times: dict[str, list[dict[str, float]]] = {}
    losses: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name in ("packed", "padded"):
            shutil.rmtree(folder / kind, ignore_errors=True)
            (folder / kind).mkdir()
            call(Path(sys.executable), 2, "--ours", str(folder), kind, shape, name)
            found = json.loads((folder / "ours.json").read_text())
            losses[name] = found.pop("losses")
            if name == "packed":
                print_limit(shape, kind, found)
            times.setdefault(name, []).append(found)
        for name, processes in (("TRL, 2 threads", 1), ("TRL, 2 processes", 2)):
            call(peer, processes, "--theirs", str(folder), kind, shape)
            times.setdefault(name, []).append(json.loads((folder / "theirs.json").read_text()))
    data = json.loads((folder / "data.json").read_text())
    tokens = num_tokens(kind, data[kind])
    shares = {"seconds": 1.0, "steps": 1 - 1 / data["steps"]}
    speed = {
        part: {n: share * tokens / statistics.median(t[part] for t in found) for n, found in times.items()}
        for part, share in shares.items()
    }
    best = {part: max(v for n, v in found.items() if n.startswith("TRL")) for part, found in speed.items()}
    gap = max(abs(a - b) for a, b in zip(losses["packed"], losses["padded"], strict=True))
    for part, title in (("seconds", "all"), ("steps", "steps")):
        shown = ", ".join(f"{name} {value:,.0f}" for name, value in speed[part].items())
        ours_packed = speed[part]["packed"]
        print(f"{shape} {kind}, {title}: tokens/s {shown}; ours / best of TRL {ours_packed / best[part]:.2f}x (aim "
              f"{AIMS[kind]}x), packed / padded {ours_packed / speed[part]['padded']:.2f}x", flush=True)  # fmt: skip
    print(f"{shape} {kind}: losses of packed and padded differ by {gap:.1e}", flush=True)
    return speed["seconds"]["packed"] >= AIMS[kind] * best["seconds"] and gap <= 1e-4


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", nargs="?", type=Path, default=ROOT / "runs" / "tiny")
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--limit", action="store_true", help="without TRL, beside the limit, at three sizes")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES), help="of --limit")
    parser.add_argument("--kinds", nargs="+", choices=AIMS, default=list(AIMS), help="of --limit")
    parser.add_argument("--ours", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--theirs", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--venv", type=Path, default=Path(tempfile.gettempdir()) / "nemo-srlm-trl")
    args = parser.parse_args()
    if args.ours:
        folder, kind, shape, name = args.ours
        ours(Path(folder), kind, shape, name == "packed")
        return 0
    if args.theirs:
        folder, kind, shape = args.theirs
        theirs(Path(folder), kind, shape)
        return 0
    if not (args.run_dir / "iter1" / "pairs" / "manifest.json").exists():
        print(f"{args.run_dir}: no finished pairs of iteration 1; run `make demo` first", file=sys.stderr)
        return 0 if args.quick else 2
    holds = True
    if args.limit:
        for shape in args.shapes:
            with tempfile.TemporaryDirectory() as name:
                steps = LIMIT_STEPS.get(shape, 4 if args.quick else args.steps)
                prepare(args.run_dir, Path(name), steps)
                for kind in args.kinds:
                    holds = beside_limit(Path(name), kind, shape) and holds
        return 0 if holds or args.quick else 1
    from tools.bench.trl_parity import environment

    peer = environment(args.venv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(args.run_dir, folder, 8 if args.quick else args.steps)
        shutil.copytree(args.run_dir / "iter0" / "world" / "tokenizer", folder / "tokenizer")
        for shape in BESIDE_TRL:
            for kind in AIMS:
                holds = beside(folder, kind, shape, 1 if args.quick else args.rounds, peer) and holds
    return 0 if holds or args.quick else 1


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main())

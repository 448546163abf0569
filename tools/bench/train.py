"""What packing is worth: the same SFT and DPO steps packed and padded, on the tiny world's own lengths.

    python tools/bench/train.py [RUN_DIR]      a finished tiny run (default: runs/tiny): its seeds and first pairs
    python tools/bench/train.py --quick        fewer steps

One process, one thread, the run's model and settings, fresh weights. Prints tokens (without padding) per second of
processor time and the ratio; losses of both must agree to 1e-4 after all steps.
"""

import argparse
import dataclasses
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


class Silent:
    def update(self, done: float, total: float, unit: str = "items", **info: float | str) -> None:
        pass


def documents(run_dir: Path) -> tuple[Any, list[Any], list[Any]]:
    """(config, SFT documents, DPO pairs) of a run."""
    from nemo_srlm.records import PreferencePair, SftExample
    from nemo_srlm.settings import thaw
    from nemo_srlm.store import read_records
    from nemo_srlm.tokens import Chat, Tokenizer, fits

    cfg = thaw(run_dir)
    chat = Chat.of(Tokenizer(run_dir / "iter0" / "world" / "tokenizer"), cfg.chat)
    paths = [run_dir / "iter0" / "seed" / "ift.jsonl", run_dir / "iter0" / "eft" / "eft_train.jsonl"]
    sft = [chat.document(e.prompt, e.response) for path in paths for e in read_records(path, SftExample)]
    pairs = [
        (p.id, chat.document(p.prompt, p.chosen), chat.document(p.prompt, p.rejected))
        for p in read_records(run_dir / "iter1" / "pairs" / "pairs.jsonl", PreferencePair)
    ]
    sft = [d for d in sft if not fits((d,), cfg.sft.max_length)]
    return cfg, sft, [p for p in pairs if not fits(p[1:], cfg.dpo.max_length)]


def measure(
    kind: str, cfg: Any, sft: list[Any], pairs: list[Any], packing: bool, steps: int
) -> tuple[float, list[float]]:
    """(tokens per second of processor time over all steps but the first, losses)."""
    import json

    from nemo_srlm.config import ParallelSection
    from nemo_srlm.losses import DpoSettings
    from nemo_srlm.megatron import tasks, train

    clock: list[float] = []

    class Clock(Silent):
        def update(self, done: float, total: float, unit: str = "items", **info: float | str) -> None:
            clock.append(time.process_time())

    section = dataclasses.replace(getattr(cfg, kind), packing=packing, max_steps=steps, save_every=0, log_every=1)
    with tempfile.TemporaryDirectory() as folder:
        job = train.Job(
            kind, cfg.model, ParallelSection(processes=1), cfg.precision, section, 0, Path(folder), None, Clock()
        )
        trainer = train.start(job)
        if kind == "sft":
            train.fit(trainer, tasks.sft_task(sft, 0))
        else:
            settings = DpoSettings(
                beta=cfg.dpo.beta, nll_weight=cfg.dpo.nll_weight, replay_weight=cfg.dpo.replay_weight
            )
            tasks.fit_dpo(trainer, pairs, sft, settings, cfg.dpo.ln2_tolerance)
        lines = [json.loads(line) for line in (Path(folder) / train.METRICS).read_text().splitlines()]
    tokens = sum(line["tokens"] for line in lines[1:])
    return tokens / (clock[-1] - clock[0]), [line["loss"] for line in lines]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", nargs="?", type=Path, default=ROOT / "runs" / "tiny")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    if not (args.run_dir / "iter1" / "pairs" / "manifest.json").exists():
        print(f"{args.run_dir}: no finished pairs of iteration 1; run `make demo` first", file=sys.stderr)
        return 0 if args.quick else 2
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "OMP_NUM_THREADS": "1"}
    from nemo_srlm.megatron.quiet import quiet

    quiet()
    cfg, sft, pairs = documents(args.run_dir)
    steps, worst = 8 if args.quick else args.steps, 0.0
    for kind in ("sft", "dpo"):
        packed, losses = measure(kind, cfg, sft, pairs, True, steps)
        padded, others = measure(kind, cfg, sft, pairs, False, steps)
        gap = max(abs(a - b) for a, b in zip(losses, others, strict=True))
        worst = max(worst, gap)
        print(f"{kind}: {packed:,.0f} tokens per processor second packed, {padded:,.0f} padded: {packed / padded:.2f}x;"
              f" largest difference of a loss over {steps} steps {gap:.1e}")  # fmt: skip
    return int(worst > 1e-4)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main())

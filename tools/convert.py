#!/usr/bin/env python
"""Convert checkpoints between HF and Megatron and verify them. Any model size and parallel layout; no GPU, no run directory."""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from nemo_srlm.core.exit_codes import guarded
from nemo_srlm.errors import CheckpointError
from nemo_srlm.launch.arguments import count, count_or_zero, positive
from nemo_srlm.train.checkpoint_dir import COMPLETE_FILE, latest

EXAMPLES = """\
examples
  HF Llama 2 7B -> a checkpoint from which training starts under any TP/PP/VPP layout:
    tools/convert.py hf-to-megatron Llama-2-7b-hf m0

  a trained policy -> HF, for transformers and vLLM, with the tokenizer and sizes of the original:
    tools/convert.py megatron-to-hf runs/big/iter1/dpo/checkpoint m2-hf --like Llama-2-7b-hf --dtype bf16

  check that both hold the same model (exact tensors, then logits, then vLLM's greedy tokens):
    tools/convert.py verify m2-hf runs/big/iter1/dpo/checkpoint --level vllm

Memory use is about 0.5 GiB plus a few slices of 128 MiB, for any model size. The output gets its name only when it is
complete. Exit code: 0 done; 1 a fault of the program; 2 refused, or the models differ (the message says what and why).
"""


class Meter:
    """Prints progress, rate and time left to stderr: one updated line on a terminal, a line every few seconds in a log."""

    def __init__(self, what: str) -> None:
        self._what, self._start, self._shown = what, time.monotonic(), 0.0
        self._terminal = sys.stderr.isatty()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if done == 0 or (now - self._shown < (0.2 if self._terminal else 5.0) and done < total):
            return
        self._shown = now
        spent = now - self._start
        rate = done / spent if spent > 0 else 0.0
        left = (total - done) / rate if rate > 0 else 0.0
        text = (
            f"{self._what}: {100 * done / max(total, 1):5.1f} %  {done / 1e6:,.1f} of {total / 1e6:,.1f} M parameters  "
            f"{rate / 1e6:,.0f} M/s  {f'ETA {int(left) // 60}:{int(left) % 60:02d}' if done < total else f'{spent:.1f} s'}"
        )
        end = "\r" if self._terminal and done < total else "\n"
        print(text + (" " * 8 if self._terminal else ""), end=end, file=sys.stderr, flush=True)


def checkpoint_in(path: Path) -> Path:
    """`path` if it is a checkpoint, else the newest complete checkpoint in it (a stage's checkpoint/ directory)."""
    if (path / "metadata.json").exists():
        return path
    found = latest(path)
    if found is None:
        raise CheckpointError(
            path, "no complete checkpoint", "a torch_dist directory, or one with final/ or step_*/ in it"
        )
    return found


def replaceable(args: argparse.Namespace) -> bool:
    """Whether OUT may be replaced (--force). Raises where it holds something else than a conversion: its name may be mistyped."""
    if args.force and args.out.exists():
        held = [path.name for path in args.out.iterdir()] if args.out.is_dir() else ["a file"]
        model = "config.json" in held and any(name.endswith((".safetensors", ".bin", ".index.json")) for name in held)
        if held and not model and COMPLETE_FILE not in held:
            raise CheckpointError(
                args.out, "is to be replaced (--force) and is neither a model directory nor a checkpoint",
                f"one with config.json and weights or with {COMPLETE_FILE}, or nothing",
                "choose another output, or remove it yourself",
            )  # fmt: skip
    return bool(args.force)


def hf_to_megatron(args: argparse.Namespace) -> None:
    from nemo_srlm.convert.import_hf import import_hf

    done = import_hf(
        args.hf, args.out, dtype=args.dtype, allow_bin=args.allow_bin, processes=args.processes,
        overwrite=replaceable(args), report=Meter("import"),
    )  # fmt: skip
    print(f"{args.out}: {done.num_parameters:,} parameters of {done.num_tensors} tensors in {done.dtype}")


def megatron_to_hf(args: argparse.Namespace) -> None:
    from nemo_srlm.config.generation import ChatSection
    from nemo_srlm.convert import hf_config
    from nemo_srlm.convert.export_hf import export_hf

    chat = None
    if args.user_prefix is not None or args.user_suffix is not None:
        chat = ChatSection(args.user_prefix or "", args.user_suffix or "")
    tokenizer = args.tokenizer or (args.like if (args.like / "tokenizer.json").exists() else None)
    done = export_hf(
        checkpoint_in(args.checkpoint), args.out, hf_config.read(args.like).model, tokenizer=tokenizer, chat=chat,
        dtype=args.dtype, max_shard_bytes=int(args.max_shard_gb * 1e9), processes=args.processes,
        overwrite=replaceable(args), report=Meter("export"),
    )  # fmt: skip
    print(f"{args.out}: {done.num_parameters:,} parameters, {done.num_tensors} tensors in {done.dtype}, "
          f"{len(done.files)} file(s)" + ("" if tokenizer else "; no tokenizer files: none were found"))  # fmt: skip
    if args.verify:
        args.hf, args.level = args.out, args.verify
        verify(args)


def verify(args: argparse.Namespace) -> None:
    from nemo_srlm.convert.verify import card_path
    from nemo_srlm.convert.verify import verify as check

    card = check(
        args.hf, checkpoint_in(args.checkpoint), level=args.level, layers=args.layers, memory_gb=args.memory_gb,
        allow_bin=args.allow_bin, report=Meter("compare"),
    )  # fmt: skip
    print(f"{args.hf}: the same model; {card['round_trip']['hf_tensors']} tensors are equal bit for bit"
          + (f"; logits differ by at most {card['logits']['max_abs']:.2g}" if "logits" in card else "")
          + ("; vLLM's greedy tokens equal those of transformers" if "vllm" in card else "")
          + f"; card: {card_path(args.hf)}")  # fmt: skip


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="tools/convert.py",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=text)

    def common(p: argparse.ArgumentParser) -> None:
        p.add_argument(
            "--dtype", default="", choices=["", "fp32", "bf16", "fp16"], help="convert to (default: as stored)"
        )
        p.add_argument("--processes", type=count, default=1, help="processes that share the work (default: 1)")
        p.add_argument("--force", action="store_true", help="replace OUT if it is a model directory or a checkpoint")

    def checks(p: argparse.ArgumentParser) -> None:
        p.add_argument(
            "--layers",
            type=count_or_zero,
            default=0,
            help="compare logits of the first N layers only (default: what fits)",
        )
        p.add_argument(
            "--memory-gb", type=positive, default=8.0, help="limit on the fp32 weights of both models (default: 8)"
        )

    p = command("hf-to-megatron", "HF directory -> torch_dist checkpoint, loadable under any TP/PP/VPP")
    p.add_argument("hf", type=Path, help="directory with config.json and safetensors")
    p.add_argument("out", type=Path, help="checkpoint directory to write")
    p.add_argument("--allow-bin", action="store_true", help="accept pytorch_model*.bin (read without unpickling code)")
    common(p)
    p.set_defaults(run=hf_to_megatron)

    p = command("megatron-to-hf", "torch_dist checkpoint of any layout -> HF directory (sharded safetensors)")
    p.add_argument("checkpoint", type=Path, help="torch_dist directory, or a stage's checkpoint/ (newest one)")
    p.add_argument("out", type=Path, help="HF directory to write")
    p.add_argument("--like", type=Path, required=True, help="HF directory with the model's config.json (and tokenizer)")
    p.add_argument("--tokenizer", type=Path, help="directory with the tokenizer files (default: that of --like)")
    p.add_argument(
        "--user-prefix", help="chat template: text before a user turn (default: keep the tokenizer's template)"
    )
    p.add_argument("--user-suffix", help="chat template: text after a user turn")
    p.add_argument("--max-shard-gb", type=positive, default=5.0, help="largest file in 10^9 bytes (default: 5)")
    p.add_argument("--verify", choices=["round_trip", "logits", "vllm"], help="also verify the result")
    common(p)
    checks(p)
    p.set_defaults(run=megatron_to_hf, allow_bin=False)

    p = command(
        "verify", "compare an HF directory with a torch_dist checkpoint; writes HF.verification.json next to it"
    )
    p.add_argument("hf", type=Path, help="HF directory")
    p.add_argument("checkpoint", type=Path, help="torch_dist directory, or a stage's checkpoint/")
    p.add_argument("--level", default="logits", choices=["round_trip", "logits", "vllm"],
                   help="each level includes the earlier ones (default: logits)")  # fmt: skip
    p.add_argument("--allow-bin", action="store_true", help="accept pytorch_model*.bin")
    checks(p)
    p.set_defaults(run=verify)
    return top


def main() -> int:
    args = parser().parse_args()

    def run() -> int:
        args.run(args)
        return 0

    return guarded(run, "interrupted: no output was written under its final name; run it again")


if __name__ == "__main__":
    sys.exit(main())

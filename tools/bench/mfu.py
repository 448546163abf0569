"""Speed of training on one GPU: MFU of layers of Llama 2 70B in bf16 and in each FP8 recipe; packed against padded rows.

    python tools/bench/mfu.py                    needs a GPU (exit code 2 without); FP8 recipes that it has not are left out
    python tools/bench/mfu.py --layers 2 --out mfu.jsonl
    python tools/bench/mfu.py --quick            small layers, on the CPU too: shows that the bench runs, not a figure

Each line is a process of its own: whole steps of SFT (forward, backward, FusedAdam) with random weights and tokens, the
median of those after the first two (packed and padded: the first sixteen). MFU counts the model's FLOPs
(estimate.training_flops) against the dense peak of the data sheet. "packed" and "padded" train the same 16 documents a
step, of lognormal lengths with a median of 250 tokens: whole documents in rows of 4,096 tokens, and one document a row,
padded to the longest of its micro-batch.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from nemo_srlm.config.training import ModelSection, PrecisionSection, TrainSection
from nemo_srlm.doctor.inventory import machine
from nemo_srlm.doctor.layer import FP8, LAYER_70B, SECTION, WARM_UP, measure

QUICK = dataclasses.replace(
    LAYER_70B, hidden_size=128, ffn_hidden_size=256, num_attention_heads=4, num_query_groups=2, max_length=256
)
MEDIAN, SIGMA, BATCH = 250, 1.0, 16  # of the lengths of packed and padded; documents a step
MIXED_STEPS, MIXED_WARM_UP = 24, 16  # new row lengths compile kernels; after 16 steps nearly all have been seen


def lognormal(num: int, longest: int) -> list[int]:
    drawn = np.random.default_rng(0).lognormal(np.log(MEDIAN), SIGMA, num)
    return [int(x) for x in np.clip(drawn, 8, longest)]


def cases(recipes: tuple[str, ...], quick: bool) -> list[dict[str, Any]]:
    """What is measured: a name and the changes to precision and training."""
    longest = QUICK.max_length if quick else SECTION.max_length
    mixed = {"global_batch": BATCH, "mixed": True, "max_steps": MIXED_STEPS}
    found: list[dict[str, Any]] = [{"name": "bf16"}]
    found += [{"name": f"fp8 {recipe}", "recipe": recipe} for recipe in recipes]
    return [
        *found,
        {"name": "packed", "section": {"packing": True, "max_tokens_per_row": longest, **mixed}},
        {"name": "padded", "section": {"packing": False, **mixed}},
    ]


def run(case: dict[str, Any], layers: int, quick: bool, peak: float) -> dict[str, Any]:
    """One case, in this process."""
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")
    model: ModelSection = dataclasses.replace(QUICK if quick else LAYER_70B, num_layers=layers)
    changes = dict(case.get("section", {}))
    is_mixed = changes.pop("mixed", False)
    longest = min(SECTION.max_length, model.max_length)
    section: TrainSection = dataclasses.replace(SECTION, max_length=longest, **changes)
    lengths = lognormal(8 * BATCH, longest) if is_mixed else [longest] * section.global_batch
    precision = PrecisionSection(dtype="bf16")
    if recipe := case.get("recipe"):
        precision = dataclasses.replace(precision, fp8="hybrid", fp8_recipe=recipe, fp8_bf16_layers=0)
    with tempfile.TemporaryDirectory() as temporary:
        speed = measure(
            Path(temporary), model, precision, section, lengths, peak, MIXED_WARM_UP if is_mixed else WARM_UP
        )
    return {"case": case["name"], "layers": layers, **dataclasses.asdict(speed)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=1, help="of the model (default: 1)")
    parser.add_argument("--peak", type=float, default=0.0, metavar="TFLOPS", help="dense peak, if the GPU is not known")
    parser.add_argument("--out", type=Path, help="append the lines to this file, too")
    parser.add_argument("--quick", action="store_true", help="small layers, on any machine")
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        print("RESULT " + json.dumps(run(args.case, args.layers, args.quick, args.peak)), flush=True)
        return 0
    here = machine()
    if not here.gpus and not args.quick:
        print("needs a GPU; --quick shows on any machine that it runs", file=sys.stderr)
        return 2
    assert set(here.fp8_recipes) <= set(FP8)
    name = here.gpus[0].name if here.gpus else "CPU"
    bad = 0
    for case in cases(here.fp8_recipes, args.quick):
        command = [
            sys.executable,
            __file__,
            "--layers",
            str(args.layers),
            "--peak",
            str(args.peak),
            "--case",
            json.dumps(case),
        ]
        done = subprocess.run(
            [*command, *(["--quick"] if args.quick else [])], capture_output=True, text=True, check=False
        )
        answers = [line.removeprefix("RESULT ") for line in done.stdout.splitlines() if line.startswith("RESULT ")]
        found = json.loads(answers[0]) if answers else {"case": case["name"], "failed": done.stderr.strip()[-600:]}
        bad += "failed" in found
        line = json.dumps({"machine": name, **found})
        print(line, flush=True)
        if args.out:
            with args.out.open("a", encoding="utf-8") as f:
                f.write(line + "\n")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())

"""Tokens/s of vLLM as a judge, with and without prefix caching: the shipped judge template, n = 3 draws.

    python tools/bench/judging.py --model HF_DIRECTORY      needs a GPU (exit code 2 without)
    python tools/bench/judging.py                           random weights of Llama 3 8B's layers; tokens are bytes
    python tools/bench/judging.py --layers 8                a quarter of them: written and started sooner
    python tools/bench/judging.py --quick                   a random model of 0.9M parameters, on the CPU too

All candidates of a prompt share the template and the instruction, so with prefix caching only their responses are read.
Instructions and responses are random words of lognormal lengths (medians 25 and 150 words): the speed depends on lengths.
Each line is a process of its own; the start of the engine (with compilation more than a minute) and a first round are not
timed. What it is at goes to stderr.
"""

import argparse
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from nemo_srlm.config.generation import GenerateSection
from nemo_srlm.config.shipped import CONFIGS
from nemo_srlm.doctor.inventory import machine
from nemo_srlm.generate import vllm_engine, vllm_options
from nemo_srlm.generate.requests import Failure, Request, generate
from nemo_srlm.judge.scores import judge_input
from tools.bench.generate import make_model

CANDIDATES, DRAWS, MAX_TOKENS = 4, 3, 256
QUICK_TOKENS, POSITIONS = 8, 8192


def words(rng: random.Random, median: int) -> str:
    num = max(1, round(rng.lognormvariate(math.log(median), 0.7)))
    return " ".join("".join(rng.choices("etaoinshrdlu", k=rng.randint(2, 8))) for _ in range(num))


def requests(engine: vllm_engine.VllmEngine, prompts: int, shrink: int, max_tokens: int, seed: int) -> list[Request]:
    """Judge inputs: `prompts` instructions with CANDIDATES responses each, their lengths divided by `shrink`."""
    template = (CONFIGS / "prompts" / "judge.txt").read_text(encoding="utf-8")
    rng = random.Random(seed)
    made = []
    for p in range(prompts):
        instruction = words(rng, 25 // shrink)
        for c in range(CANDIDATES):
            ids = engine.tokenizer.encode(judge_input(template, instruction, words(rng, 150 // shrink)))
            made.append(Request(f"{seed}-{p}-{c}", tuple(ids), DRAWS, 1000 * len(made), 0.7, 0.9, max_tokens))
    return made


def run(model: Path, prompts: int, caching: bool, quick: bool, dtype: str) -> dict[str, Any]:
    """One setting, in this process."""
    shrink, max_tokens = (10, QUICK_TOKENS) if quick else (1, MAX_TOKENS)
    section = GenerateSection(dtype=dtype, max_model_len=0)
    options = vllm_options.engine_options

    def changed(*args: Any) -> dict[str, Any]:
        return {**options(*args), "enable_prefix_caching": caching}

    with mock.patch.object(vllm_engine, "engine_options", changed):
        engine = vllm_engine.VllmEngine(model, section)
        generate(engine, requests(engine, 1, shrink, max_tokens, 0))
        asked = requests(engine, prompts, shrink, max_tokens, 1)
        wall, cpu = time.perf_counter(), time.process_time()
        found = generate(engine, asked)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    engine.close()
    failed = [outcome for outcome in found if isinstance(outcome, Failure)]
    assert not failed, failed[:3]
    written = sum(c.num_tokens for outcome in found if not isinstance(outcome, Failure) for c in outcome)
    read = sum(len(r.prompt_ids) for r in asked)
    return {
        "prefix_caching": caching, "judgements": len(asked) * DRAWS, "prompt_tokens": read, "output_tokens": written,
        "seconds": round(wall, 2), "cpu_seconds": round(cpu, 2), "output_tokens_per_s": round(written / wall, 1),
        "tokens_per_s": round((read + written) / wall, 1),
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="HF directory (default: random weights)")
    parser.add_argument("--prompts", type=int, default=256, help=f"each with {CANDIDATES} responses (default: 256)")
    parser.add_argument("--layers", type=int, default=0, help="of the random model (default: all 32)")
    parser.add_argument("--quick", action="store_true", help="a random model and 4 prompts, on any machine")
    parser.add_argument("--caching", choices=["on", "off"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    here = machine()
    if args.caching:
        on_gpu = bool(here.gpus)
        found = run(args.model, args.prompts, args.caching == "on", args.quick, "bfloat16" if on_gpu else "float32")
        print("RESULT " + json.dumps(found), flush=True)
        return 0
    if not here.gpus and not args.quick:
        print("needs a GPU; --quick shows on any machine that it runs", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as temporary:
        model, prompts = args.model, args.prompts
        if args.quick:
            prompts = 4
        if model is None:
            model = Path(temporary) / "hf"
            print("writing a random model", file=sys.stderr, flush=True)
            make_model(model, "0.9M" if args.quick else "8b", POSITIONS, args.layers)
        for caching in ("on", "off"):
            print(f"prefix caching {caching}: starting the engine, judging", file=sys.stderr, flush=True)
            command = [sys.executable, __file__, "--model", str(model), "--prompts", str(prompts), "--caching", caching]
            done = subprocess.run(
                [*command, *(["--quick"] if args.quick else [])],
                env=os.environ,
                capture_output=True,
                text=True,
                check=False,
            )
            answers = [line.removeprefix("RESULT ") for line in done.stdout.splitlines() if line.startswith("RESULT ")]
            if not answers:
                print(done.stderr[-2000:], file=sys.stderr)
                return 1
            print(
                json.dumps(
                    {
                        "machine": here.gpus[0].name if here.gpus else "CPU",
                        "layers": args.layers or "all",
                        **json.loads(answers[0]),
                    }
                ),
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())

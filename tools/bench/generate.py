"""Benchmark of the candidates and judge stages against plain `LLM.generate` (vLLM) and transformers' generate.

    python tools/bench/generate.py [--prompts 128] [--rounds 3] [--size 0.9M|13M|135M] [--hf] [--max-num-seqs 128] [--quick]
    python tools/bench/generate.py --run runs/tiny [--hf]

Default: a random model on real texts. With --run: M1, prompts and settings of a finished tiny run, whose responses have
the lengths of a trained model. One process, one thread, the same requests for all.
(a) `ours` runs the stages as a worker does: render templates, tokenize, generate, detokenize, parse scores, append and
flush one line per item, merge. `bare` is vllm.LLM.generate on prepared requests, detokenized by vLLM. `ours` and `bare`
alternate for --rounds rounds, each in a new process, whose prefix cache is empty: from the process's start to its end,
imports and the engine's start included, and from the moment that the engine is ready. CPU seconds are reported beside
wall seconds because the machine may be shared.
(b) `hf` is transformers' generate on the same requests: the fastest of its ways in hf_generate.py (padded batches of three
sizes, continuous batching with two) for the candidates and for the judgements, found on a part of them.
"""

import argparse
import json
import os
import pickle
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from nemo_srlm.config.compose import load_resolved_config
from nemo_srlm.config.schema import Config
from nemo_srlm.core.files import read_records, write_records
from nemo_srlm.core.progress import Progress
from nemo_srlm.core.records import Candidate, Prompt
from nemo_srlm.core.stage import Context
from nemo_srlm.data.tokenizer import Tokenizer
from nemo_srlm.errors import DataError
from nemo_srlm.generate import requests as generate_requests
from nemo_srlm.generate import vllm_engine as engines
from nemo_srlm.generate.requests import Engine, Outcome, Request
from nemo_srlm.generate.vllm_options import set_environment
from nemo_srlm.stages import candidates, judge
from tools.bench import texts

SIZES = {  # hidden, layers, heads, key/value heads, ffn; the vocabulary is bytes, so 135M has 106M parameters here
    "0.9M": (128, 4, 4, 4, 352),
    "13M": (384, 6, 6, 6, 1024),
    "135M": (576, 30, 9, 3, 1536),
}
PART = 32  # requests on which the ways of transformers are compared
LLAMA3_8B = (4096, 32, 32, 8, 14336)  # for a GPU: 7B parameters without the embeddings
POSITIONS = 1024


def make_model(directory: Path, size: str, positions: int = POSITIONS, num_layers: int = 0) -> None:
    """Writes a random Llama whose tokens are bytes. The end token has probability about 1/259, so lengths differ.

    `num_layers`: other than the size's (0).
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import AutoModelForCausalLM, LlamaConfig

    hidden, layers, heads, groups, ffn = LLAMA3_8B if size == "8b" else SIZES[size]
    pieces = ["<s>", "</s>", "<unk>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(pieces), hidden_size=hidden, intermediate_size=ffn, num_hidden_layers=num_layers or layers,
        num_attention_heads=heads, num_key_value_heads=groups, max_position_embeddings=positions,
        bos_token_id=0, eos_token_id=1, pad_token_id=2,
    )  # fmt: skip
    device, dtype = ("cuda", torch.bfloat16) if size == "8b" else ("cpu", torch.float32)
    with torch.device(device):
        AutoModelForCausalLM.from_config(config, dtype=dtype).save_pretrained(directory)
    if device == "cuda":
        torch.cuda.empty_cache()  # for the engine, which is another process
    core = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, [], unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(["<s>", "</s>", "<unk>"])
    core.save(str(directory / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<unk>",
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))


def at_random(root: Path, size: str, prompts: int) -> Config:
    """Writes a random model and real texts to `root`; returns the config for them."""
    cfg = Config()
    cfg.generate.dtype, cfg.generate.max_model_len, cfg.generate.max_num_seqs = "float32", POSITIONS, 128
    cfg.candidates.max_tokens, cfg.judge.max_tokens = 96, 64
    make_model(root / "hf", size)
    chosen = [text for text in texts.sentences() if len(text) < 150][:prompts]
    write_records(root / "prompts.jsonl", [Prompt(f"p{i}", text) for i, text in enumerate(chosen)])
    (root / "judge.txt").write_text("Rate the answer from 0 to 5 points. " * 8 + "<INSTRUCTION_HERE>|<RESPONSE_HERE>")
    cfg.judge.template = str(root / "judge.txt")
    return cfg


def of_run(root: Path, run_dir: Path, prompts: int) -> Config:
    """Puts M1 and the first prompts of a finished run into `root`; returns the run's config."""
    (root / "hf").symlink_to((run_dir / "iter0/export/hf").resolve())
    found = read_records(run_dir / "iter1/prompts/prompts.jsonl", Prompt)
    write_records(root / "prompts.jsonl", [prompt for _, prompt in zip(range(prompts), found, strict=False)])
    return load_resolved_config(run_dir)


class Recorder:
    """Wraps an engine: records the requests and counts the generated tokens."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.tokenizer, self.max_model_len, self.ready = engine.tokenizer, engine.max_model_len, engine.ready
        self.requests: list[Request] = []
        self.tokens = 0

    def expect(self, lengths: Any) -> None:
        self._engine.expect(lengths)

    def stream(self, requests: Any) -> Any:
        def kept() -> Any:
            for request in requests:
                self.requests.append(request)
                yield request

        for request, outcome in self._engine.stream(kept()):
            self.tokens += count(outcome)
            yield request, outcome

    def usage(self) -> dict[str, float]:
        return self._engine.usage()

    def close(self) -> None:
        self._engine.close()


def count(outcome: Outcome) -> int:
    return sum(draw.num_tokens for draw in outcome) if isinstance(outcome, list) else 0


def timed(work: Callable[[], int]) -> dict[str, float]:
    """Tokens, wall seconds and CPU seconds of `work`, which returns the number of generated tokens."""
    wall, cpu = time.perf_counter(), time.process_time()
    tokens = work()
    return {"tokens": tokens, "wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def through_stages(cfg: Config, root: Path, recorder: Recorder, number: int) -> int:
    """Runs and finalizes the candidates and judge stages in new directories. Returns the number of generated tokens."""
    before = recorder.tokens
    round_dir = root / f"round{number}"
    for stage in (candidates.STAGE, judge.STAGE):
        directory = round_dir / stage.name
        directory.mkdir(parents=True)
        inputs = {"prompts": root, "candidates": round_dir / "candidates", "model": root}
        ctx = Context(cfg, 1, directory, inputs, Progress(directory))
        stage.run(ctx)
        try:
            stage.finalize(ctx)
        except DataError:  # a random model states no score: the stage says so when it has merged its parts
            if stage is not judge.STAGE or not (directory / "judgements.jsonl").exists():
                raise
    return recorder.tokens - before


def bare(llm: Any, requests: list[Request]) -> int:
    """vllm.LLM.generate with one call per stage. Returns the number of generated tokens."""
    from vllm import SamplingParams

    tokens = 0
    kinds = sorted({request.n for request in requests}, reverse=True)  # candidates draw 4, the judge 3
    for n in kinds:
        chosen = [request for request in requests if request.n == n]
        params = [
            SamplingParams(n=r.n, seed=r.seed, temperature=r.temperature, top_p=r.top_p, max_tokens=r.max_tokens)
            for r in chosen
        ]
        outputs = llm.generate([{"prompt_token_ids": list(r.prompt_ids)} for r in chosen], params, use_tqdm=False)
        tokens += sum(len(draw.token_ids) for output in outputs for draw in output.outputs)
    return tokens


def once(kind: str, root: Path) -> None:
    """In a process of its own: starts an engine, then does the work of one round. Prints how long that round took."""
    cfg, requests = pickle.loads((root / "work").read_bytes())
    if kind == "ours":
        engine = engines.VllmEngine(root / "hf", cfg.generate)
        recorder = Recorder(engine)
        engines.shared = lambda slot, path, cfg: recorder  # the stages ask for it
        generate_requests.generate(
            recorder, [Request("warm", (0, 5), 1, 0, 0.7, 0.9, 2)]
        )  # it starts with the first one
        recorder.requests.clear()
        found = timed(lambda: through_stages(cfg, root, recorder, 0))
        errors = sum(bool(c.error) for c in read_records(root / "round0/candidates/candidates.jsonl", Candidate))
        assert not errors, f"{errors} candidates failed"
        (root / "work").write_bytes(pickle.dumps((cfg, recorder.requests)))
        engine.close()
    else:
        set_environment(cfg.generate, False)  # one process, as ours

        from vllm import LLM

        llm = LLM(
            str(root / "hf"), dtype="float32", max_model_len=cfg.generate.max_model_len,
            max_num_seqs=cfg.generate.max_num_seqs, enforce_eager=True,
            enable_prefix_caching=True, enable_chunked_prefill=False, max_num_batched_tokens=4096,
            kv_cache_memory_bytes=1 << 30,
        )  # fmt: skip
        found = timed(lambda: bare(llm, requests))
    print("RESULT", json.dumps(found), flush=True)


def from_start(kind: str, root: Path) -> tuple[dict[str, float], dict[str, float]]:
    """A round in a new process: all of the process, from its start to its end; and the round alone."""
    shutil.rmtree(root / "round0", ignore_errors=True)
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, __file__, "--once", kind, "--root", str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if done.returncode or not lines:
        sys.exit(f"{kind} failed: {done.stderr[-2000:]}")
    found = json.loads(lines[0].removeprefix("RESULT "))
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"tokens": found["tokens"], "wall": wall, "cpu": cpu}, found


def beside_hf(root: Path, eos_id: int, ours: dict[str, float]) -> None:
    """(b): prints the speed of each way on a part of the requests, and of the fastest on all."""
    import torch
    from transformers import LlamaForCausalLM

    from tools.bench import hf_generate

    _, requests = pickle.loads((root / "work").read_bytes())
    model = LlamaForCausalLM.from_pretrained(root / "hf", dtype=torch.float32, attn_implementation="sdpa").eval()
    kinds = sorted({r.n for r in requests}, reverse=True)
    by_kind = [[r for r in requests if r.n == n] for n in kinds]
    ways, fastest = hf_generate.ways(model, eos_id), []
    for kind in by_kind:
        part = kind[: min(PART, len(kind))]
        found = {name: timed(lambda way=way, part=part: way(part)) for name, way in ways.items()}
        speeds = {name: each["tokens"] / each["cpu"] for name, each in found.items()}
        print(
            f"hf, {len(part)} of {len(kind)} requests:",
            ", ".join(f"{n} {v:,.0f}" for n, v in speeds.items()),
            "tokens per CPU second",
        )
        fastest.append(max(speeds, key=lambda name: speeds[name]))
    name = f"hf {' and '.join(fastest)}"
    theirs = report(name, [timed(lambda: sum(ways[way](kind) for way, kind in zip(fastest, by_kind, strict=True)))])
    print(f"(b) ours / hf: {ratio(ours, theirs)}")


def report(name: str, results: list[dict[str, float]]) -> dict[str, float]:
    best = {
        "tokens": results[0]["tokens"],
        "tokens_per_wall_s": max(r["tokens"] / r["wall"] for r in results),
        "tokens_per_cpu_s": statistics.median(r["tokens"] / r["cpu"] for r in results),
    }
    print(f"{name:24}", json.dumps({k: round(v, 1) for k, v in best.items()}), flush=True)
    return best


def ratio(a: dict[str, float], b: dict[str, float]) -> str:
    wall, cpu = (a[name] / b[name] for name in ("tokens_per_wall_s", "tokens_per_cpu_s"))
    return f"{wall:.3f} in tokens per wall second, {cpu:.3f} in tokens per CPU second"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--prompts", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", choices=SIZES, default="0.9M")
    parser.add_argument("--run", type=Path, metavar="DIR", help="a finished tiny run instead of a random model")
    parser.add_argument("--hf", action="store_true", help="also (b): transformers' generate")
    parser.add_argument("--max-num-seqs", type=int, default=0, help="default: 128, or the run's")
    parser.add_argument(
        "--quick", action="store_true", help="4 prompts, one round: checks that it works, not its speed"
    )
    parser.add_argument("--once", choices=["ours", "bare"], help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if args.once:
        once(args.once, args.root)
        return
    if args.quick:
        args.prompts, args.rounds = 4, 1
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        cfg = of_run(root, args.run, args.prompts) if args.run else at_random(root, args.size, args.prompts)
        cfg.generate.max_num_seqs = args.max_num_seqs or cfg.generate.max_num_seqs
        (root / "work").write_bytes(pickle.dumps((cfg, [])))
        found = {"ours": [], "bare": []}
        for _ in range(args.rounds):
            for kind, results in found.items():
                results.append(from_start(kind, root))
        (ours, ours_ready), (plain, plain_ready) = (list(zip(*results, strict=True)) for results in found.values())
        assert ours[0]["tokens"] == plain[0]["tokens"], "the two engines did different work"
        a, b = report("ours from the start", ours), report("bare from the start", plain)
        print(f"(a) ours / bare, start-up counted: {ratio(a, b)}")
        a, b = report("ours", ours_ready), report("bare", plain_ready)
        print(f"(a) ours / bare, once started: {ratio(a, b)}", flush=True)
        if args.hf:
            beside_hf(root, Tokenizer(root / "hf").eos_id, a)


if __name__ == "__main__":
    main()

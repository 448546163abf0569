"""Benchmark of the candidates and judge stages against plain `LLM.generate` (vLLM) and batched HF `generate`.

    python tools/bench/generate.py [--prompts 128] [--rounds 3] [--size tiny|small] [--hf] [--max-num-seqs 128] [--quick]
    python tools/bench/generate.py --run runs/tiny [--hf]

Default: a random model on real texts. With --run: M1, prompts and settings of a finished tiny run, whose responses have
the lengths of a trained model. One process, one thread, the same requests for all.
(a) `ours` runs the stages as a worker does: render templates, tokenize, generate, detokenize, parse scores, append and
flush one line per item, merge. `bare` is vllm.LLM.generate on prepared requests, detokenized by vLLM. `ours` and `bare`
alternate for --rounds rounds. CPU seconds are reported beside wall seconds because the machine may be shared.
(b) `hf` is transformers' generate on requests sorted by length, left padded, with the fastest of three batch sizes.
"""

import argparse
import json
import os
import statistics
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
from nemo_srlm.generate import requests as generate_requests
from nemo_srlm.generate import vllm_engine as engines
from nemo_srlm.generate.requests import Engine, Outcome, Request
from nemo_srlm.stages import candidates, judge
from tools.bench import texts

SIZES = {  # hidden, layers, heads, key/value heads, ffn: 0.9M and 79M parameters without the embeddings
    "tiny": (128, 4, 4, 4, 352),
    "small": (640, 12, 10, 10, 1792),
}
LLAMA3_8B = (4096, 32, 32, 8, 14336)  # for a GPU: 7B parameters without the embeddings
POSITIONS = 1024


def make_model(directory: Path, size: str, positions: int = POSITIONS) -> None:
    """Writes a random Llama whose tokens are bytes. The end token has probability about 1/259, so lengths differ."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import AutoModelForCausalLM, LlamaConfig

    hidden, layers, heads, groups, ffn = LLAMA3_8B if size == "8b" else SIZES[size]
    pieces = ["<s>", "</s>", "<unk>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(pieces), hidden_size=hidden, intermediate_size=ffn, num_hidden_layers=layers,
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
        stage.finalize(ctx)
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


def with_hf(model: Any, requests: list[Request], batch: int, eos_id: int) -> int:
    """transformers' generate on the same prompts: n rows per prompt, sorted by length. Returns the number of generated tokens."""
    import torch

    tokens = 0
    rows = sorted((r for request in requests for r in [request] * request.n), key=lambda r: len(r.prompt_ids))
    for start in range(0, len(rows), batch):
        chunk = rows[start : start + batch]
        longest = max(len(r.prompt_ids) for r in chunk)
        ids = torch.full((len(chunk), longest), 2)
        mask = torch.zeros_like(ids)
        for i, r in enumerate(chunk):
            ids[i, longest - len(r.prompt_ids) :] = torch.tensor(r.prompt_ids)
            mask[i, longest - len(r.prompt_ids) :] = 1
        with torch.inference_mode():
            made = model.generate(
                ids, attention_mask=mask, do_sample=True, temperature=chunk[0].temperature, top_p=chunk[0].top_p,
                top_k=0, max_new_tokens=chunk[0].max_tokens, eos_token_id=eos_id, pad_token_id=2,
            )[:, longest:]  # fmt: skip
        ended = (made == eos_id).int()
        first = torch.where(ended.any(1), ended.argmax(1) + 1, made.shape[1])
        tokens += int(first.sum())
    return tokens


def report(name: str, results: list[dict[str, float]]) -> dict[str, float]:
    best = {
        "tokens": results[0]["tokens"],
        "tokens_per_wall_s": max(r["tokens"] / r["wall"] for r in results),
        "tokens_per_cpu_s": statistics.median(r["tokens"] / r["cpu"] for r in results),
    }
    print(f"{name:8}", json.dumps({k: round(v, 1) for k, v in best.items()}), flush=True)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--prompts", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--run", type=Path, metavar="DIR", help="a finished tiny run instead of a random model")
    parser.add_argument("--hf", action="store_true", help="also (b): transformers' generate")
    parser.add_argument("--max-num-seqs", type=int, default=0, help="default: 128, or the run's")
    parser.add_argument(
        "--quick", action="store_true", help="4 prompts, one round: checks that it works, not its speed"
    )
    args = parser.parse_args()
    if args.quick:
        args.prompts, args.rounds = 4, 1
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        cfg = of_run(root, args.run, args.prompts) if args.run else at_random(root, args.size, args.prompts)
        cfg.generate.max_num_seqs = args.max_num_seqs or cfg.generate.max_num_seqs
        started = time.perf_counter()
        engine = engines.VllmEngine(root / "hf", cfg.generate)
        recorder = Recorder(engine)
        engines.shared = lambda slot, path, cfg: recorder  # the stages ask for it
        warm = Request("warm", (0, 5), 1, 0, 0.7, 0.9, 2)
        generate_requests.generate(recorder, [warm])
        print(f"our engine: ready after {time.perf_counter() - started:.1f} s, including imports and the first token")
        from vllm import LLM

        started = time.perf_counter()
        llm = LLM(
            str(root / "hf"), dtype="float32", max_model_len=cfg.generate.max_model_len,
            max_num_seqs=cfg.generate.max_num_seqs, enforce_eager=True,
            enable_prefix_caching=True, enable_chunked_prefill=False, max_num_batched_tokens=4096,
            kv_cache_memory_bytes=1 << 30,
        )  # fmt: skip
        print(f"bare engine: ready after another {time.perf_counter() - started:.1f} s")
        ours: list[dict[str, float]] = []
        plain: list[dict[str, float]] = []
        for number in range(args.rounds):
            recorder.requests.clear()
            ours.append(timed(lambda number=number: through_stages(cfg, root, recorder, number)))  # type: ignore[misc]
            requests = list(recorder.requests)
            plain.append(timed(lambda requests=requests: bare(llm, requests)))  # type: ignore[misc]
        errors = sum(bool(c.error) for c in read_records(root / "round0/candidates/candidates.jsonl", Candidate))
        assert not errors, f"{errors} candidates failed"
        assert ours[0]["tokens"] == plain[0]["tokens"], "the two engines did different work"
        a, b = report("ours", ours), report("bare", plain)
        print(f"(a) ours / bare: {a['tokens_per_wall_s'] / b['tokens_per_wall_s']:.3f} in tokens per wall second,"
              f" {a['tokens_per_cpu_s'] / b['tokens_per_cpu_s']:.3f} in tokens per CPU second")  # fmt: skip
        if args.hf:
            import torch
            from transformers import LlamaForCausalLM

            model = LlamaForCausalLM.from_pretrained(root / "hf", dtype=torch.float32).eval()
            eos_id = recorder.tokenizer.eos_id
            kinds = sorted({r.n for r in requests}, reverse=True)
            by_kind = [[r for r in requests if r.n == n] for n in kinds]
            sizes = [
                (batch, timed(lambda batch=batch: with_hf(model, by_kind[0][:32], batch, eos_id)))
                for batch in (16, 64, 128)
            ]  # type: ignore[misc]
            fastest = max(sizes, key=lambda found: found[1]["tokens"] / found[1]["cpu"])[0]
            c = report(f"hf {fastest}", [timed(lambda: sum(with_hf(model, kind, fastest, eos_id) for kind in by_kind))])
            print(f"(b) ours / hf: {a['tokens_per_wall_s'] / c['tokens_per_wall_s']:.1f} x in tokens per wall second,"
                  f" {a['tokens_per_cpu_s'] / c['tokens_per_cpu_s']:.1f} x in tokens per CPU second")  # fmt: skip
        engine.close()


if __name__ == "__main__":
    main()

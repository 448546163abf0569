"""The generation engine: what a stage may use, and vLLM behind it. The only file that imports vllm.

Token ids go in and come out; text is made here by the project's own tokenizer, so vLLM and training never disagree
about tokens. Environment variables that vLLM reads are set here (`set_environment`), before it is imported.
"""

import gc
import json
import math
import os
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nemo_srlm.config.generation import GenerateSection
from nemo_srlm.config.schema import Config
from nemo_srlm.config.training import head_size
from nemo_srlm.core.slot import Slot
from nemo_srlm.data.tokenizer import Tokenizer
from nemo_srlm.errors import CheckpointError, EngineError
from nemo_srlm.generate.requests import Completion, Outcome, Request, too_long
from nemo_srlm.generate.scheduler import RequestScheduler

CPU_HEADS = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)  # sizes that vLLM's CPU attention knows


SHORTEST = 256  # tokens: a smaller max_model_len saves nothing


STOP_INTERVAL = 8  # tokens between two looks for a stop string


# --- vLLM -----------------------------------------------------------------------------------------------------------


def check_model(path: Path, tokenizer: Tokenizer, section: GenerateSection) -> tuple[dict[str, Any], int]:
    """(config.json, max_model_len) of an HF directory. Raises CheckpointError or EngineError before vLLM is loaded."""
    try:
        config: dict[str, Any] = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(path, "no config.json", "an HF model directory") from error
    except json.JSONDecodeError as error:
        raise CheckpointError(path / "config.json", f"not JSON ({error})") from error
    index = path / "model.safetensors.index.json"
    if index.exists():
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    else:
        names = sorted(p.name for p in path.glob("*.safetensors"))
    if missing := [name for name in names or ["model.safetensors"] if not (path / name).is_file()]:
        raise CheckpointError(
            path, f"weights are missing: {missing[:3]}", "*.safetensors", "export the model again, or copy it whole"
        )
    if tokenizer.vocab_size > config["vocab_size"]:
        raise CheckpointError(
            path, f"its tokenizer has {tokenizer.vocab_size} tokens", f"at most vocab_size {config['vocab_size']}",
            "the tokenizer belongs to another model",
        )  # fmt: skip
    positions = int(config["max_position_embeddings"])
    if section.max_model_len > positions:
        raise EngineError(
            "generate.max_model_len", f"{section.max_model_len}", f"at most the {positions} positions of {path}",
            f"set generate.max_model_len={positions}, or 0 for what the data need",
        )  # fmt: skip
    return config, section.max_model_len or positions


def length_for(lengths: Iterable[int], most: int) -> int:
    """max_model_len for requests of these lengths: the longest that fits, rounded up so that a later stage often fits too.

    What is longer than `most`, the model's positions, is refused anyway and counts for nothing.
    """
    longest = max((length for length in lengths if length <= most), default=0)
    return min(most, max(SHORTEST, 1 << max(longest - 1, 0).bit_length()))


def head_size_of(config: dict[str, Any]) -> int:
    """Size of an attention head by a config.json; not every one states head_dim."""
    return head_size(config["hidden_size"], config["num_attention_heads"], config.get("head_dim") or 0)


def kv_cache_bytes(config: dict[str, Any], max_model_len: int, section: GenerateSection) -> int:
    """CPU only: the section's GiB, or what max_num_seqs sequences of full length need, if that is less.

    vLLM fills the cache with zeros at start: a gigabyte that a tiny model never uses costs seconds.
    """
    heads, head_dim = config["num_attention_heads"], head_size_of(config)
    width = 4 if section.dtype == "float32" else 2
    per_token = 2 * config["num_hidden_layers"] * (config.get("num_key_value_heads") or heads) * head_dim * width
    blocks = math.ceil(max_model_len / 128) * 128  # the CPU's cache block
    return min(section.kv_cache_gib << 30, int(per_token * blocks * (section.max_num_seqs + 1)))


def set_environment(section: GenerateSection, on_gpu: bool) -> None:
    """What vLLM reads from the environment when it is imported: everything of the kind is set here."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ["VLLM_NO_USAGE_STATS"] = "1"
    os.environ["HF_HUB_OFFLINE"] = "1"  # a model is a directory; nothing is ever looked up
    os.environ["VLLM_PLUGINS"] = ""  # NeMo registers one that imports half of NeMo (3 s)
    if on_gpu:
        return
    os.environ["TORCHDYNAMO_DISABLE"] = "1"
    os.environ.pop("VLLM_CPU_KVCACHE_SPACE", None)  # whole GiB only, and it would win over kv_cache_bytes
    if section.tensor_parallel == 1:
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # in this process: no second start, no compilation


def engine_options(
    path: Path, config: dict[str, Any], max_model_len: int, section: GenerateSection, on_gpu: bool
) -> dict[str, Any]:
    """vLLM's engine arguments. Raises EngineError for what vLLM would start with and die of."""
    options: dict[str, Any] = {
        "model": str(path), "dtype": section.dtype, "max_model_len": max_model_len,
        "max_num_seqs": section.max_num_seqs, "tensor_parallel_size": section.tensor_parallel,
        "enable_prefix_caching": True, "skip_tokenizer_init": True, "disable_log_stats": True, "max_logprobs": 64,
    }  # fmt: skip
    if on_gpu:
        quantized = {"quantization": section.quantization} if section.quantization else {}
        return options | quantized | {
            "enforce_eager": section.enforce_eager, "gpu_memory_utilization": section.gpu_memory,
        }  # fmt: skip
    if section.quantization:
        raise EngineError("generate.quantization", f"{section.quantization} without a GPU", '""')
    if head_size_of(config) not in CPU_HEADS:  # vLLM would start and die at the first token
        raise EngineError(path, f"attention heads of size {head_size_of(config)}", f"on the CPU one of {CPU_HEADS}")
    return options | {
        "enforce_eager": True,
        "kv_cache_memory_bytes": kv_cache_bytes(config, max_model_len, section),
        # A seeded request whose prompt is split kills the CPU engine, so no prompt is split there.
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(max_model_len, 4096),
    }


class VllmBackend:
    """vLLM's LLMEngine, started for one model and requests of at most `max_model_len` tokens."""

    def __init__(self, path: Path, section: GenerateSection, tokenizer: Tokenizer, max_model_len: int) -> None:
        import torch

        config, self._limit = check_model(path, tokenizer, section)
        self._max_model_len = max_model_len
        on_gpu = torch.cuda.is_available()
        set_environment(section, on_gpu)
        options = engine_options(path, config, max_model_len, section, on_gpu)
        if not on_gpu and "vllm" not in sys.modules:  # vLLM replaces the function by a warning
            torch.set_num_threads(section.threads)
        try:
            self._start(options)
        except (ValueError, RuntimeError, OSError, KeyError) as error:
            raise EngineError(path, f"vLLM does not start: {error}", remedy="see the log; check generate.*") from error
        self._tokenizer = tokenizer
        self._partial: dict[str, list[int]] = {}  # request id -> tokens so far, of requests with stop strings
        self._requests: dict[str, Request] = {}

    def _start(self, options: dict[str, Any]) -> None:
        from vllm.engine.arg_utils import EngineArgs
        from vllm.exceptions import VLLMClientError
        from vllm.sampling_params import RequestOutputKind, SamplingParams
        from vllm.v1.engine.llm_engine import LLMEngine

        self._params, self._kind, self._client_error = SamplingParams, RequestOutputKind, VLLMClientError
        gc.collect()
        gc.freeze()  # vLLM collects garbage five times while it starts; a million imported objects are no garbage
        self._llm = LLMEngine.from_engine_args(EngineArgs(**options))

    def add(self, request: Request) -> None:
        """See Backend.add. Nothing is ever cut: what does not fit is refused as "too_long: ..."."""
        if reason := too_long(len(request.prompt_ids), request.max_tokens, self._limit):
            raise ValueError(reason)
        assert len(request.prompt_ids) + request.max_tokens <= self._max_model_len, (
            f"{request.id} is longer than expected"
        )
        stops, greedy = bool(request.stop), request.temperature == 0
        try:
            params = self._params(
                n=1 if greedy else request.n, seed=request.seed, temperature=request.temperature, top_p=request.top_p,
                max_tokens=request.max_tokens, stop_token_ids=[self._tokenizer.eos_id], detokenize=False,
                logprob_token_ids=list(request.logprob_ids) or None,
                prompt_logprobs=0 if request.score_from else None,  # 0: of the token that stands there, and no other
                output_kind=self._kind.DELTA if stops else self._kind.FINAL_ONLY,
                stream_interval=STOP_INTERVAL if stops else None,
            )  # fmt: skip
            self._llm.add_request(request.id, {"prompt_token_ids": list(request.prompt_ids)}, params)
        except (ValueError, self._client_error) as error:
            raise ValueError(f"refused: {error}") from error
        self._requests[request.id] = request
        if stops:
            self._partial[request.id] = []

    def step(self) -> list[tuple[str, list[Completion]]]:
        finished: list[tuple[str, list[Completion]]] = []
        outputs: list[Any] = self._llm.step()
        for output in outputs:
            request = self._requests[output.request_id]
            if request.stop:
                done = self._look_for_stop(request, output)
            else:
                done = [self._completion(o.token_ids, o.finish_reason, o.logprobs) for o in output.outputs]
                done *= request.n // len(done)  # greedy draws are one draw
            if done and request.score_from:
                done = [replace(d, prompt_logprobs=_scored(request, output.prompt_logprobs)) for d in done]
            if done:
                finished.append((request.id, done))
                del self._requests[request.id]
        return finished

    def _look_for_stop(self, request: Request, output: Any) -> list[Completion]:
        ids = self._partial[request.id]
        ids.extend(output.outputs[0].token_ids)
        text = self._tokenizer.decode([i for i in ids if i != self._tokenizer.eos_id])
        found = [at for stop in request.stop if (at := text.find(stop)) >= 0]
        if not found and not output.finished:
            return []
        if found and not output.finished:
            self._llm.abort_request([request.id])
        done = self._completion(ids, "stop" if found else output.outputs[0].finish_reason, None)
        del self._partial[request.id]
        return [Completion(text[: min(found, default=len(text))], done.num_tokens, done.finish_reason, done.token_ids)]

    def _completion(self, token_ids: Sequence[int], reason: str, logprobs: Any) -> Completion:
        ids = tuple(token_ids)
        body = ids[:-1] if ids and ids[-1] == self._tokenizer.eos_id else ids
        values = tuple({i: p.logprob for i, p in position.items()} for position in logprobs or ())
        return Completion(self._tokenizer.decode(list(body)), len(ids), reason, body, values)

    def abort(self, ids: Sequence[str]) -> None:
        self._llm.abort_request(list(ids))
        for request_id in ids:
            self._requests.pop(request_id, None)
            self._partial.pop(request_id, None)

    def close(self) -> None:
        self._llm.engine_core.shutdown()
        del self._llm
        gc.collect()


def _scored(request: Request, logprobs: Sequence[Any]) -> tuple[float, ...]:
    """The log-probability of each token of the prompt from `score_from` on; vLLM's list holds one mapping a position."""
    places = range(request.score_from, len(request.prompt_ids))
    return tuple(float(logprobs[i][request.prompt_ids[i]].logprob) for i in places)


class VllmEngine:
    """vLLM on one HF directory. Starts at the first request; `close` frees it.

    Where generate.max_model_len is 0 it is started for the lengths that were expected, all of the model's positions
    where nothing was, and started anew when a later stage needs more. Lengths change no completion.
    """

    def __init__(self, path: Path, section: GenerateSection) -> None:
        self.path, self._section = path, section
        self.tokenizer: Tokenizer = Tokenizer(path)
        _, self.max_model_len = check_model(path, self.tokenizer, section)
        self._expected = 0  # max_model_len for the next stream; 0 = not said
        self._length = 0  # max_model_len of the engine that runs or starts next
        self._scheduler = RequestScheduler(self._start, 2 * section.max_num_seqs, section.max_restarts)
        self._counts: defaultdict[str, float] = defaultdict(float)

    def _start(self) -> VllmBackend:
        started = time.monotonic()
        backend = VllmBackend(self.path, self._section, self.tokenizer, self._length)
        self._counts["starts"] += 1
        self._counts["start_seconds"] += time.monotonic() - started
        return backend

    def expect(self, lengths: Iterable[int]) -> None:
        """See Engine.expect."""
        self._expected = 0 if self._section.max_model_len else length_for(lengths, self.max_model_len)

    def stream(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Outcome]]:
        """See Engine.stream."""
        needed, self._expected = self._expected or self.max_model_len, 0
        if self._scheduler.backend is None:
            self._length = needed
        elif needed > self._length:
            self.close()
            self._length = needed
        yield from self._scheduler.run(requests)

    def usage(self) -> dict[str, float]:
        """Starts and their seconds (the import of vLLM included)."""
        found = dict(self._counts)
        self._counts.clear()
        return found

    def close(self) -> None:
        if self._scheduler.backend is not None:
            self._scheduler.backend.close()
            self._scheduler.backend = None


def shared(slot: Slot, path: Path, cfg: Config) -> VllmEngine:
    """The engine of `slot` for the model in `path`: kept for the next stage, replaced when another model is asked for."""
    key = json.dumps([str(path.resolve()), vars(cfg.generate)], sort_keys=True)
    return slot.get(key, lambda: VllmEngine(path, cfg.generate))

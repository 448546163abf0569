"""vLLM as a generation engine. The only file that imports vllm.

Requests and completions are token ids; text is encoded and decoded by the project's own tokenizer, so that generation
and training tokenize alike. The environment variables that vLLM reads are set before it is imported (vllm_options).
"""

import gc
import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nemo_srlm.config.generation import GenerateSection
from nemo_srlm.config.schema import Config
from nemo_srlm.core.imports import without
from nemo_srlm.core.slot import Slot
from nemo_srlm.core.terminal import say
from nemo_srlm.data.chat import model_end_ids
from nemo_srlm.data.tokenizer import Tokenizer
from nemo_srlm.errors import EngineError, PassingError
from nemo_srlm.generate.requests import Completion, Outcome, Request, too_long, without_cut_character
from nemo_srlm.generate.scheduler import RequestScheduler
from nemo_srlm.generate.vllm_options import check_model, engine_options, length_for, set_environment

STOP_INTERVAL = 8  # tokens between two searches for a stop string


def prepare(section: GenerateSection) -> bool:
    """What has to be set before vLLM is imported. Returns whether it will run on a GPU."""
    import torch

    on_gpu = torch.cuda.is_available()
    set_environment(section, on_gpu)
    if not on_gpu and "vllm" not in sys.modules:  # vLLM replaces the function by a warning
        torch.set_num_threads(section.threads)
    return on_gpu


def _import_vllm() -> None:
    with without("sklearn"):  # transformers, which vLLM imports, loads it for a kind of assisted generation
        import vllm.v1.engine.llm_engine  # noqa: F401


def preload(section: GenerateSection) -> None:
    """Imports vLLM, which takes as long as the start of a small engine. What fails fails again where the engine starts, and
    is an error there."""
    prepare(section)
    try:
        _import_vllm()
    except (ImportError, OSError, RuntimeError) as error:
        say(f"vLLM could not be imported ahead: {error!r}", error=True)


class VllmBackend:
    """vLLM's LLMEngine, started for one model and requests of at most `max_model_len` tokens."""

    def __init__(self, path: Path, section: GenerateSection, tokenizer: Tokenizer, max_model_len: int) -> None:
        config, self._limit = check_model(path, tokenizer, section)
        self._max_model_len = max_model_len
        options = engine_options(path, config, max_model_len, section, prepare(section))
        try:
            self._start(options)
        except (ValueError, KeyError) as error:  # what vLLM raises for options and models that it does not take
            raise EngineError(path, f"vLLM does not start: {error}", remedy="see the log; check generate.*") from error
        except (RuntimeError, OSError) as error:  # CUDA errors, a file server, an address in use, a core that died
            raise PassingError(
                path, f"vLLM does not start: {type(error).__name__}: {error}",
                remedy="see the log; if it fails everywhere, check generate.*",
            ) from error  # fmt: skip
        self._tokenizer, self._end_ids = tokenizer, model_end_ids(tokenizer)
        self._partial: dict[str, list[int]] = {}  # request id -> tokens so far, of requests with stop strings
        self._requests: dict[str, Request] = {}

    def _start(self, options: dict[str, Any]) -> None:
        _import_vllm()
        from vllm.engine.arg_utils import EngineArgs
        from vllm.exceptions import VLLMClientError
        from vllm.sampling_params import RequestOutputKind, SamplingParams
        from vllm.v1.engine.llm_engine import LLMEngine

        from nemo_srlm.generate import vllm_process

        vllm_process.end_with_parent()
        self._params, self._kind, self._client_error = SamplingParams, RequestOutputKind, VLLMClientError
        gc.collect()
        gc.freeze()  # vLLM runs the garbage collector five times while it starts: spare it the imported objects
        self._llm = LLMEngine.from_engine_args(EngineArgs(**options))

    def add(self, request: Request) -> None:
        """See Backend.add. Nothing is truncated: a request that does not fit is refused as "too_long: ..."."""
        if reason := too_long(len(request.prompt_ids), request.max_tokens, self._limit):
            raise ValueError(reason)
        assert len(request.prompt_ids) + request.max_tokens <= self._max_model_len, (
            f"{request.id} is longer than expected"
        )
        stops, greedy = bool(request.stop), request.temperature == 0
        try:
            params = self._params(
                n=1 if greedy else request.n, seed=request.seed, temperature=request.temperature, top_p=request.top_p,
                max_tokens=request.max_tokens, stop_token_ids=sorted(self._end_ids), detokenize=False,
                logprob_token_ids=list(request.logprob_ids) or None,
                prompt_logprobs=0 if request.score_from else None,  # 0: of the prompt's own tokens alone
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
                done = self._find_stop(request, output)
            else:
                done = [self._completion(o.token_ids, o.finish_reason, o.logprobs) for o in output.outputs]
                done *= request.n // len(done)  # greedy draws are all the same
            if done and request.score_from:
                done = [replace(d, prompt_logprobs=_scored(request, output.prompt_logprobs)) for d in done]
            if done:
                finished.append((request.id, done))
                del self._requests[request.id]
        return finished

    def _find_stop(self, request: Request, output: Any) -> list[Completion]:
        ids = self._partial[request.id]
        ids.extend(output.outputs[0].token_ids)
        text = self._tokenizer.decode([i for i in ids if i not in self._end_ids])
        found = [at for stop in request.stop if (at := text.find(stop)) >= 0]
        if not found and not output.finished:
            return []
        if found and not output.finished:
            self._llm.abort_request([request.id])
        done = self._completion(ids, "stop" if found else output.outputs[0].finish_reason, None)
        del self._partial[request.id]
        text = text[: min(found)] if found else done.text
        return [Completion(text, done.num_tokens, done.finish_reason, done.token_ids)]

    def _completion(self, token_ids: Sequence[int], reason: str, logprobs: Any) -> Completion:
        ids = tuple(token_ids)
        body = ids[:-1] if ids and ids[-1] in self._end_ids else ids
        values = tuple({i: p.logprob for i, p in position.items()} for position in logprobs or ())
        text = without_cut_character(self._tokenizer.decode(list(body)), reason)
        return Completion(text, len(ids), reason, body, values)

    def abort(self, ids: Sequence[str]) -> None:
        self._llm.abort_request(list(ids))
        for request_id in ids:
            self._requests.pop(request_id, None)
            self._partial.pop(request_id, None)

    def close(self) -> None:
        self._llm.engine_core.shutdown()
        del self._llm
        gc.collect()


class VllmClassifier(VllmBackend):
    """A sequence classifier: a request's prompt gets one completion without a text, whose `score` is the logit."""

    def _start(self, options: dict[str, Any]) -> None:
        super()._start({**options, "runner": "pooling", "enable_prefix_caching": False})
        from vllm import PoolingParams

        self._pooling = PoolingParams(task="classify", use_activation=False)

    def add(self, request: Request) -> None:
        if reason := too_long(len(request.prompt_ids), 0, self._limit):
            raise ValueError(reason)
        try:
            self._llm.add_request(request.id, {"prompt_token_ids": list(request.prompt_ids)}, self._pooling.clone())
        except (ValueError, self._client_error) as error:
            raise ValueError(f"refused: {error}") from error
        self._requests[request.id] = request

    def step(self) -> list[tuple[str, list[Completion]]]:
        outputs: list[Any] = self._llm.step()
        for output in outputs:
            del self._requests[output.request_id]
        return [(o.request_id, [Completion("", 0, "stop", score=float(o.outputs.data[0]))]) for o in outputs]


def _scored(request: Request, logprobs: Sequence[Any]) -> tuple[float, ...]:
    """The log-probability of each token of the prompt from `score_from` on; vLLM's list has one mapping per position."""
    places = range(request.score_from, len(request.prompt_ids))
    return tuple(float(logprobs[i][request.prompt_ids[i]].logprob) for i in places)


class VllmEngine:
    """vLLM on one HF directory (see Engine). Started by the first request; `close` frees it.

    Where generate.max_model_len is 0 it is started for the expected lengths (for all positions of the model where none
    were given) and restarted when a later stage needs more. The length changes no completion.
    """

    def __init__(self, path: Path, section: GenerateSection, backend: type[VllmBackend] = VllmBackend) -> None:
        self.path, self._section, self._backend = path, section, backend
        self.tokenizer: Tokenizer = Tokenizer(path)
        _, self.max_model_len = check_model(path, self.tokenizer, section)
        self._expected = 0  # max_model_len for the next stream; 0 = not given
        self._length = 0  # max_model_len of the engine that runs or starts next
        self._scheduler = RequestScheduler(self._start, 2 * section.max_num_seqs, section.max_restarts)
        self._counts: defaultdict[str, float] = defaultdict(float)

    def _start(self) -> VllmBackend:
        started = time.monotonic()
        backend = self._backend(self.path, self._section, self.tokenizer, self._length)
        self._counts["starts"] += 1
        self._counts["start_seconds"] += time.monotonic() - started
        return backend

    @property
    def ready(self) -> bool:
        """See Engine.ready."""
        return self._scheduler.backend is not None and (self._expected or self.max_model_len) <= self._length

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


def shared(slot: Slot, path: Path, cfg: Config, backend: type[VllmBackend] = VllmBackend) -> VllmEngine:
    """The engine of `slot` for the model in `path`: kept for the next stage, replaced when another model is asked for."""
    key = json.dumps([str(path.resolve()), vars(cfg.generate), backend.__name__], sort_keys=True)
    return slot.get(key, lambda: VllmEngine(path, cfg.generate, backend))

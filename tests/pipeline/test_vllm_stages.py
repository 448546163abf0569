"""The generation stages on the real vLLM engine with a tiny random Llama: what a fake engine cannot show."""

import copy
import math
import random
import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from nemo_srlm.config.compose import save_resolved_config
from nemo_srlm.config.schema import Config
from nemo_srlm.core import manifest
from nemo_srlm.core import stage as stages
from nemo_srlm.core.files import read_records, write_records
from nemo_srlm.core.progress import Progress
from nemo_srlm.core.records import Candidate, Judgement, Prompt, RankedReply, SftExample
from nemo_srlm.core.slot import Slot
from nemo_srlm.core.stage import Context, Ref
from nemo_srlm.errors import DataError
from nemo_srlm.generate import requests as generate_requests
from nemo_srlm.generate import vllm_engine as engines
from nemo_srlm.generate.requests import Completion, Failure, Request, generate
from nemo_srlm.launch import worker
from nemo_srlm.launch.contract import Work
from nemo_srlm.launch.replicas import Replicas
from nemo_srlm.stages import candidates, eval_reward, judge, prompts
from tests.unit import tiny_llama

SIZES = replace(tiny_llama.SIZES, num_attention_heads=2, num_query_groups=1)  # head size 32, for vLLM's CPU attention
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a model, a finished seed stage and prompts."""
    root = tmp_path_factory.mktemp("stages")
    tiny_llama.make(root / "model" / "hf", SIZES, "fp32")
    tiny_llama.make_tokenizer(root / "model" / "hf", SIZES.vocab_size)
    for name in ("seed", "prompts"):
        (root / name).mkdir()
    seeds = [f"Say the number {i} in words of {i} letters" for i in range(10)]
    write_records(root / "seed" / "ift.jsonl", [SftExample(str(i), text, "", "ift") for i, text in enumerate(seeds)])
    write_records(root / "seed" / "eval_prompts.jsonl", [Prompt("e", "Say a word", "eval")])
    replies = [RankedReply(f"r{i}", "i", "Why?", f"Because {i}.", i) for i in range(3)]
    write_records(root / "seed" / "ranked_valid.jsonl", replies)
    texts = ["Who?", "What is it?", "x" * 120, *(f"Count to {i}" for i in range(9))]  # the third one is too long
    write_records(root / "prompts" / "prompts.jsonl", [Prompt(f"p{i}", text) for i, text in enumerate(texts)])
    return root


@pytest.fixture(scope="module")
def cfg(root: Path) -> Config:
    cfg = Config()
    cfg.generate.dtype, cfg.generate.max_model_len, cfg.generate.max_num_seqs = "float32", 0, 16
    cfg.candidates.max_tokens = cfg.judge.max_tokens = 24
    judge_template, write_template = root / "judge.txt", root / "write.txt"
    judge_template.write_text("<INSTRUCTION_HERE>|<RESPONSE_HERE>\n")
    write_template.write_text("<SHOT><DEMONSTRATION_HERE>\n</SHOT>\n")
    cfg.judge.template, cfg.prompts.template = str(judge_template), str(write_template)
    return cfg


SLOT = Slot()


@pytest.fixture(scope="module", autouse=True)
def _one_engine_at_most() -> Iterator[None]:
    yield
    SLOT.close()


def context(cfg: Config, root: Path, name: str, shard: int = 0, num: int = 1) -> Context:
    directory = root / name
    directory.mkdir(exist_ok=True)
    inputs = {key: root / key for key in ("prompts", "candidates", "model", "seed")}
    inputs |= {"writer": root / "model", "held_out": root / "seed"}
    return Context(cfg, 1, directory, inputs, Progress(directory, shard), shard, num, SLOT)


def engine(root: Path, cfg: Config) -> generate_requests.Engine:
    return engines.shared(SLOT, root / "model" / "hf", cfg)


def requests(number: int, n: int = 1, **other: object) -> list[Request]:
    rng = random.Random(number)
    made = []
    for i in range(number):
        ids = (0, *(3 + i % 2 for i in range(40)), *(rng.randrange(3, 250) for _ in range(rng.randrange(1, 20))))
        made.append(Request(f"q{i}", ids, n, 64 * i, 0.7, 0.9, 16 + i, **other))  # type: ignore[arg-type]
    return made


def test_a_completion_depends_on_its_request_alone_not_on_its_company(root: Path, cfg: Config) -> None:
    asked = requests(20, n=3)
    together = generate(engine(root, cfg), asked)
    backwards = generate(engine(root, cfg), asked[::-1])[::-1]
    alone = [generate(engine(root, cfg), [request])[0] for request in asked[:4]]
    assert together == backwards
    assert together[:4] == alone


def test_n_draws_are_n_requests_with_following_seeds(root: Path, cfg: Config) -> None:
    (first, *_) = requests(3, n=3)
    singles = [
        Request(f"s{i}", first.prompt_ids, 1, first.seed + i, first.temperature, first.top_p, first.max_tokens)
        for i in range(3)
    ]
    ((draws,), apart) = generate(engine(root, cfg), [first]), generate(engine(root, cfg), singles)
    assert isinstance(draws, list)
    assert [draws] == [[one for single in apart if isinstance(single, list) for one in single]]


def test_a_stop_string_ends_the_text_before_it(root: Path, cfg: Config) -> None:
    (whole,) = generate(engine(root, cfg), requests(1))
    assert isinstance(whole, list)
    text = whole[0].text
    mark = text[5:7]
    (cut,) = generate(engine(root, cfg), requests(1, stop=(mark,)))
    assert isinstance(cut, list)
    assert cut[0].text == text[: text.index(mark)]
    assert cut[0].finish_reason == "stop"


def test_what_does_not_fit_is_refused_and_never_cut(root: Path, cfg: Config) -> None:
    long = Request("long", (0, *[5] * 120), 1, 0, 0.7, 0.9, 9)
    outcome, after = generate(engine(root, cfg), [long, *requests(1)])
    assert outcome == Failure("too_long: 121 prompt + 9 new tokens > 128")
    assert isinstance(after, list)


def test_greedy_draws_with_the_log_probabilities_of_chosen_tokens_equal_transformers(root: Path, cfg: Config) -> None:
    import torch
    from transformers import LlamaForCausalLM

    (request,) = requests(1)
    wanted = Request("g", request.prompt_ids, 1, 0, 0.0, 1.0, 6, logprob_ids=(7, 8))
    (found,) = generate(engine(root, cfg), [wanted])
    assert isinstance(found, list)
    assert isinstance(found[0], Completion)
    model = LlamaForCausalLM.from_pretrained(root / "model" / "hf", dtype=torch.float32)
    ids = torch.tensor([[*request.prompt_ids, *found[0].token_ids]])
    with torch.no_grad():
        logprobs = torch.log_softmax(model(ids).logits[0], -1)[len(request.prompt_ids) - 1 :]
    for position, values in enumerate(found[0].logprobs):
        for token in (7, 8):
            assert values[token] == pytest.approx(float(logprobs[position, token]), abs=1e-4)
    assert list(found[0].token_ids) == logprobs.argmax(-1).tolist()[: len(found[0].token_ids)]


def test_candidates_and_judgements_do_not_depend_on_sharding_and_a_bad_item_stops_nothing(
    root: Path, cfg: Config
) -> None:
    for shard in range(3):
        candidates.STAGE.run(context(cfg, root, "candidates", shard, 3))
    metrics = candidates.STAGE.finalize(context(cfg, root, "candidates"))
    candidates.STAGE.run(one := context(cfg, root, "whole"))
    candidates.STAGE.finalize(one)
    made = (root / "candidates" / "candidates.jsonl").read_text()
    assert made == (one.dir / "candidates.jsonl").read_text()
    assert metrics["errors"] == {"too_long": 4}
    assert metrics["responses"] == 44
    for shard in range(2):
        judge.STAGE.run(context(cfg, root, "judge", shard, 2))
    with pytest.raises(DataError, match="not one of 44 items has a score"):  # random weights state none
        judge.STAGE.finalize(ctx := context(cfg, root, "judge"))
    judged = list(read_records(ctx.dir / "judgements.jsonl", Judgement))
    good = [c.id for c in read_records(root / "candidates" / "candidates.jsonl", Candidate) if not c.error]
    assert [j.id for j in judged] == good
    assert len(judged) == 44
    assert all(j.error or (len(j.texts) == len(j.scores) == 3) for j in judged)


def test_the_writer_stops_at_the_templates_mark_and_reaches_the_wanted_number(root: Path, cfg: Config) -> None:
    section = cfg.prompts
    section.num_prompts, section.round_size, section.max_tokens, section.rouge_max = 8, 128, 24, 1.0
    section.max_attempts = 5000  # random weights: most texts have broken characters or no mark
    section.separators, section.tokenization = list("aeiou"), "unicode"
    section.min_words, section.seed_shots, section.generated_shots, section.ascii_start = 1, 1, 1, False
    prompts.STAGE.run(ctx := context(cfg, root, "written"))
    prompts.STAGE.finalize(ctx)
    made = [p.text for p in read_records(ctx.dir / "prompts.jsonl", Prompt)]
    assert len(set(made)) == 8
    assert not any(set(text) & set("aeiou") for text in made)


def test_a_judge_without_a_score_is_measured_as_such(root: Path, cfg: Config) -> None:
    eval_reward.STAGE.run(ctx := context(cfg, root, "reward"))
    metrics = eval_reward.STAGE.finalize(ctx)
    assert metrics["counts"]["failed_draws"] == metrics["counts"]["draws"] == 9
    assert metrics["health"]["alarms"]


def make_judging_model(directory: Path, text: str) -> None:
    """A Llama whose next token depends only on the last one: after "]" it writes `text`; its last character is uncertain.

    Attention and MLP output zero, so the logits are the LM head times the embedding of the last token.
    """
    import torch
    from safetensors.torch import save_file

    from nemo_srlm.data.tokenizer import Tokenizer

    made = tiny_llama.make(directory, SIZES, "fp32")
    tiny_llama.make_tokenizer(directory, SIZES.vocab_size)
    tokenizer = Tokenizer(directory)
    embedding, head = made["model.embed_tokens.weight"], made["lm_head.weight"]
    for name, value in made.items():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            value.zero_()
    made["model.norm.weight"].fill_(1.0)
    head.zero_()
    chain = tokenizer.encode("]" + text)
    digits = {token: 30.0 - 0.7 * i for i, token in enumerate(tokenizer.encode("304152"))}
    after = [*({token: 30.0} for token in chain[1:-1]), digits]
    after += [{tokenizer.eos_id: 30.0}] * len(digits)
    for token, following in zip((*chain[:-1], *digits), after, strict=True):
        normed = embedding[token] / embedding[token].pow(2).mean().sqrt()
        for following_token, logit in following.items():
            head[following_token] += logit * normed / normed.pow(2).sum()
    save_file(
        {name: value.clone().contiguous() for name, value in made.items()},
        directory / "model.safetensors",
        {"format": "pt"},
    )
    assert torch.isfinite(head).all()


def test_expected_scores_are_read_off_the_engines_own_log_probabilities(root: Path, cfg: Config) -> None:
    """judge.method=expected on vLLM: one greedy judgement; its score is the mean under transformers' digit probabilities."""
    import torch
    from transformers import LlamaForCausalLM

    from nemo_srlm.stages.common.generating import chat_ids

    expected = copy.deepcopy(cfg)
    expected.judge.method = "expected"
    make_judging_model(root / "judging" / "hf", "Score: 3")
    inputs = {name: root / f"expected_{name}" for name in ("prompts", "candidates")} | {"model": root / "judging"}
    for directory in list(inputs.values())[:2]:
        directory.mkdir()
    write_records(inputs["prompts"] / "prompts.jsonl", [Prompt("p", "Who?")])
    made = [Candidate(f"c{i}", "p", i, f"answer {i}", "stop", 3) for i in range(3)]
    write_records(inputs["candidates"] / "candidates.jsonl", made)
    ctx = replace(context(expected, root, "expected"), inputs=inputs)
    judge.STAGE.run(ctx)
    health = judge.STAGE.finalize(ctx)
    judged = list(read_records(ctx.dir / "judgements.jsonl", Judgement))
    assert [j.id for j in judged] == ["c0", "c1", "c2"]
    running = engines.shared(SLOT, root / "judging" / "hf", expected)
    assert running.tokenizer is not None
    model = LlamaForCausalLM.from_pretrained(root / "judging" / "hf", dtype=torch.float32)
    for candidate, judgement in zip(made, judged, strict=True):
        prompt = chat_ids(ctx, running, f"Who?|{candidate.text}")
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *running.tokenizer.encode("Score: ")]])).logits[0, -1]
        weights = [math.exp(float(logits[running.tokenizer.encode(str(score))[0]])) for score in range(6)]
        mean = sum(k * w for k, w in enumerate(weights)) / sum(weights)
        spread = math.sqrt(sum((k - mean) ** 2 * w for k, w in enumerate(weights)) / sum(weights))
        (score,), (text,) = judgement.scores, judgement.texts
        assert text == f"Score: {weights.index(max(weights))}"
        assert score == pytest.approx(mean, abs=1e-3)
        assert judgement.spread == pytest.approx(spread, abs=1e-3)
        assert spread > 0.3  # the judge is uncertain, so the mean differs from the digit
    assert (health["parse_failure"], health["judgements"]) == (0, 3)


def test_two_replicas_give_the_same_candidates_as_one_engine(root: Path, cfg: Config, tmp_path: Path) -> None:
    """Two worker processes with one engine each, started by the worker that finalizes the stage."""
    twice = copy.deepcopy(cfg)
    twice.generate.replicas = 2
    twice.run.root, twice.run.name = str(tmp_path), "run"
    run_dir, ref = tmp_path / "run", Ref("candidates", 1)
    for name, iteration, source in (("prompts", 1, root / "prompts"), ("export", 0, root / "model")):
        directory = stages.stage_directory(run_dir, Ref(name, iteration))
        shutil.copytree(source, directory)
        manifest.write(directory, manifest.Manifest(name, iteration, "made for this test", {}, {}, {}))
    save_resolved_config(twice, run_dir)
    with closing(Replicas(work := Work(run_dir, (ref,)))) as engines:
        worker.run_stage(work, ref, SLOT, engines)
    directory = stages.stage_directory(run_dir, ref)
    assert sorted(path.name for path in (directory / "parts").iterdir()) == [f"0000{k}-of-00002.jsonl" for k in (0, 1)]
    candidates.STAGE.run(one := context(cfg, root, "one_engine"))
    candidates.STAGE.finalize(one)
    assert (directory / "candidates.jsonl").read_text() == (one.dir / "candidates.jsonl").read_text()
    done = manifest.read(directory)
    assert done is not None
    assert done.metrics["engine"]["starts"] == 2


def test_the_log_probabilities_of_a_given_text_equal_transformers(root: Path, cfg: Config) -> None:
    import torch
    from transformers import LlamaForCausalLM

    asked = [replace(r, id=f"score{r.id}", max_tokens=1, temperature=0.0, score_from=5) for r in requests(3)]
    model = LlamaForCausalLM.from_pretrained(root / "model" / "hf", dtype=torch.float32)
    for request, outcome in zip(asked, generate(engine(root, cfg), asked), strict=True):
        assert isinstance(outcome, list)
        ids = torch.tensor([request.prompt_ids])
        with torch.no_grad():
            logprobs = torch.log_softmax(model(ids).logits[0], -1)
        expected = [float(logprobs[i - 1, ids[0, i]]) for i in range(5, ids.shape[1])]
        assert list(outcome[0].prompt_logprobs) == pytest.approx(expected, abs=1e-4)

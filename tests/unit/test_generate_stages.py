"""The generation stages on a fake engine: the same records for any number of shards, kills and order of completions."""

import contextlib
import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_srlm.config.compose import compose
from nemo_srlm.config.schema import Config
from nemo_srlm.core.files import read_records, write_records
from nemo_srlm.core.progress import Progress
from nemo_srlm.core.records import Candidate, Judgement, Prompt, RankedReply, SftExample
from nemo_srlm.core.stage import Context, Stage
from nemo_srlm.data import prompt_pool
from nemo_srlm.errors import ConfigError, DataError
from nemo_srlm.generate import vllm_engine as engines
from nemo_srlm.generate.requests import Completion, Failure
from nemo_srlm.judge.expected import digit_tokens, expected_score
from nemo_srlm.stages import candidates, eft, eval_responses, eval_reward, judge, prompts
from tests.unit.fake_engine import Characters, FakeEngine

WORDS = ("apple", "bear", "boat", "cocoa", "deer", "fig", "goat", "hat", "ice", "jam", "kite", "lion", "milk", "nut", "owl",
         "pear", "rake", "scarf", "tea", "urn", "van", "wolf")  # fmt: skip


def sentence(seed: int, words: int = 7) -> str:
    rng = random.Random(seed)
    return "Name " + " ".join(rng.choice(WORDS) for _ in range(words))


def config() -> Config:
    cfg = Config()
    cfg.prompts.num_prompts, cfg.prompts.round_size, cfg.prompts.rouge_max = 40, 24, 0.8
    cfg.prompts.template = "prompts/write_prompt.txt"
    return cfg


def seed_stage(root: Path) -> Path:
    seed = root / "seed"
    seed.mkdir(exist_ok=True)
    write_records(seed / "ift.jsonl", [SftExample(f"s{i}", sentence(10**6 + i), "yes", "ift") for i in range(12)])
    write_records(seed / "eval_prompts.jsonl", [Prompt(f"e{i}", sentence(2 * 10**6 + i), "eval") for i in range(5)])
    replies = [
        RankedReply(f"v{i}{rank}", f"v{i}", f"Question {i}?", "good" if rank == 0 else "bad", rank)
        for i in range(4)
        for rank in range(2)
    ]
    write_records(seed / "ranked_valid.jsonl", replies)
    return seed


def context(cfg: Config, root: Path, name: str, shard: int = 0, num: int = 1, iteration: int = 1) -> Context:
    directory = root / name
    directory.mkdir(exist_ok=True)
    inputs = {key: root / key for key in ("prompts", "candidates", "model", "writer")}
    inputs |= {"seed": seed_stage(root), "held_out": root / "seed", "prompts1": root / "prompts"}
    return Context(cfg, iteration, directory, inputs, Progress(directory, shard), shard, num)


Answer = Callable[[str, int], str | Failure]


def use(monkeypatch: pytest.MonkeyPatch, answer: Answer, stop_after: int | None = None) -> FakeEngine:
    engine = FakeEngine(answer, stop_after)
    monkeypatch.setattr(engines, "shared", lambda slot, path, cfg: engine)
    return engine


def run(stage: Stage, ctx: Context) -> dict[str, object]:
    stage.run(ctx)
    return stage.finalize(ctx)


def write_prompts(root: Path, number: int = 6) -> None:
    (root / "prompts").mkdir(exist_ok=True)
    write_records(root / "prompts" / "prompts.jsonl", [Prompt(f"p{i}", f"Question {i}?") for i in range(number)])


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


# --- prompts ----------------------------------------------------------------------------------------------------------


def writes(text: str, seed: int) -> str:
    return f" {sentence(seed)}\n###\nTask 10: another"


def test_prompts_stop_at_the_wanted_number_and_count_the_rest_by_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, lambda text, seed: writes(text, seed) if seed % 3 else " Draw a map of it all ###")
    metrics = run(prompts.STAGE, ctx := context(config(), tmp_path, "out"))
    made = list(read_records(ctx.dir / "prompts.jsonl", Prompt))
    assert len(made) == len({p.text for p in made}) == metrics["accepted"] == 40
    assert all(p.text.startswith("Name ") and "###" not in p.text and len(p.demonstrations) == 8 for p in made)
    rejected = metrics["rejected"]
    assert isinstance(rejected, dict)
    assert rejected["keyword"] > 0
    assert sum(rejected.values()) + 40 == metrics["attempts"]


def test_prompts_are_the_same_after_any_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, writes)
    run(prompts.STAGE, whole := context(config(), tmp_path, "whole"))
    ctx = context(config(), tmp_path, "killed")
    for attempt in range(100):
        use(monkeypatch, writes, stop_after=1 + attempt % 7)
        try:
            prompts.STAGE.run(ctx)
            break
        except KeyboardInterrupt:
            part = next((ctx.dir / "parts").iterdir())
            with part.open("a") as f:
                f.write('{"id": "000000')  # a kill in the middle of a line leaves this
    prompts.STAGE.finalize(ctx)
    assert lines(ctx.dir / "prompts.jsonl") == lines(whole.dir / "prompts.jsonl")


def test_generated_prompts_are_shown_in_later_rounds_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, writes)
    run(prompts.STAGE, ctx := context(config(), tmp_path, "out"))
    seeds = {e.prompt for e in read_records(tmp_path / "seed" / "ift.jsonl", SftExample)}
    attempts = list(read_records(next((ctx.dir / "parts").iterdir()), prompt_pool.Attempt))
    generated = {a.index: sum(text not in seeds for text in a.demonstrations) for a in attempts}
    assert {generated[i] for i in range(24)} == {0}
    assert {generated[i] for i in generated if i >= 24} == {2}


def test_a_later_iteration_writes_other_prompts_and_none_near_to_an_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, writes)
    run(prompts.STAGE, first := context(config(), tmp_path, "prompts"))
    run(prompts.STAGE, second := context(config(), tmp_path, "second", iteration=2))
    one = {p.text for p in read_records(first.dir / "prompts.jsonl", Prompt)}
    two = {p.text for p in read_records(second.dir / "prompts.jsonl", Prompt)}
    assert not one & two
    use(monkeypatch, lambda text, seed: f" {sorted(one)[seed % 40]} ###")  # it repeats iteration 1
    with pytest.raises(DataError, match="duplicate"):
        prompts.STAGE.run(context(config(), tmp_path, "third", iteration=2))


def test_too_few_prompts_is_an_error_that_says_why_and_more_attempts_go_on_from_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = config()
    cfg.prompts.max_attempts = 30
    use(monkeypatch, lambda text, seed: writes(text, seed) if seed % 128 else " ###")
    ctx = context(cfg, tmp_path, "out")
    with pytest.raises(DataError, match=r"accepted of \d+ attempts \(.*empty") as error:
        prompts.STAGE.run(ctx)
    assert "prompts.max_attempts" in str(error.value)
    before = sum(len(lines(p)) for p in (ctx.dir / "parts").iterdir())
    cfg.prompts.max_attempts = 0
    engine = use(monkeypatch, lambda text, seed: writes(text, seed) if seed % 128 else " ###")
    metrics = run(prompts.STAGE, ctx)
    assert metrics["attempts"] == before + len(engine.requests)


def test_held_out_prompts_are_never_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held_out = [sentence(2 * 10**6 + i) for i in range(5)]
    use(monkeypatch, lambda text, seed: f" {held_out[seed // 64 % 5]}" if seed // 64 % 2 else writes(text, seed))
    run(prompts.STAGE, ctx := context(config(), tmp_path, "out"))
    assert not {p.text for p in read_records(ctx.dir / "prompts.jsonl", Prompt)} & set(held_out)


# --- candidates -------------------------------------------------------------------------------------------------------


def replies(text: str, seed: int) -> str:
    return f"answer {seed} to {text}"


@pytest.mark.parametrize("num_shards", [1, 2, 5, 9])
def test_candidates_do_not_depend_on_the_number_of_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_shards: int
) -> None:
    write_prompts(tmp_path)
    use(monkeypatch, replies)
    for shard in range(num_shards):
        candidates.STAGE.run(context(config(), tmp_path, "out", shard, num_shards))
    metrics = candidates.STAGE.finalize(ctx := context(config(), tmp_path, "out"))
    run(candidates.STAGE, one := context(config(), tmp_path, "one"))
    assert lines(ctx.dir / "candidates.jsonl") == lines(one.dir / "candidates.jsonl")
    made = list(read_records(ctx.dir / "candidates.jsonl", Candidate))
    assert [(c.prompt_id, c.index) for c in made] == [(f"p{i}", k) for i in range(6) for k in range(4)]
    assert len({c.text for c in made}) == 24
    assert metrics["responses"] == 24


def test_candidates_are_the_same_after_kills_and_another_sharding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_prompts(tmp_path, 9)
    use(monkeypatch, replies)
    run(candidates.STAGE, one := context(config(), tmp_path, "one"))
    use(monkeypatch, replies, stop_after=2)
    with pytest.raises(KeyboardInterrupt):
        candidates.STAGE.run(context(config(), tmp_path, "out"))
    part = next((tmp_path / "out" / "parts").iterdir())
    part.write_bytes(part.read_bytes()[:-30])  # the line of the last of a prompt's four candidates is truncated
    engine = use(monkeypatch, replies)
    for shard in range(3):
        candidates.STAGE.run(context(config(), tmp_path, "out", shard, 3))
    assert len(engine.requests) == 8  # one prompt was complete
    candidates.STAGE.finalize(ctx := context(config(), tmp_path, "out"))
    assert lines(ctx.dir / "candidates.jsonl") == lines(one.dir / "candidates.jsonl")


@settings(max_examples=12, deadline=None)
@given(
    attempts=st.lists(
        st.tuples(st.integers(1, 4), st.integers(0, 3), st.integers(0, 12), st.integers(0, 60)), max_size=5
    ),
    last=st.integers(1, 5),
)
def test_any_sharding_kill_and_order_give_the_same_candidates_and_judgements(
    tmp_path_factory: pytest.TempPathFactory, attempts: list[tuple[int, int, int, int]], last: int
) -> None:
    """Random attempts: a shard of a number of shards, killed after some outcomes, with its last line truncated."""
    root = tmp_path_factory.mktemp("run")
    write_prompts(root, 7)
    with pytest.MonkeyPatch.context() as patch:
        found: dict[str, list[list[str]]] = {}
        for name, stage, answer in (("candidates", candidates.STAGE, replies), ("judge", judge.STAGE, judges)):
            use(patch, answer)
            stage.run(whole := context(config(), root, f"{name}_whole"))
            stage.finalize(whole)
            for num, shard, stop_after, torn in attempts:
                use(patch, answer, stop_after)
                killed = context(config(), root, name, shard % num, num)
                with contextlib.suppress(KeyboardInterrupt):
                    stage.run(killed)
                part = killed.dir / "parts" / f"{shard % num:05d}-of-{num:05d}.jsonl"
                if part.exists():
                    part.write_bytes(part.read_bytes()[:-torn] if torn else part.read_bytes())
            use(patch, answer)
            for shard in range(last):
                stage.run(context(config(), root, name, shard, last))
            stage.finalize(context(config(), root, name))
            output = "candidates.jsonl" if name == "candidates" else "judgements.jsonl"
            found[name] = [lines(directory / output) for directory in (root / name, whole.dir)]
    for records, expected in found.values():
        assert records == expected
        assert records


def test_a_missing_candidate_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_prompts(tmp_path)
    use(monkeypatch, replies)
    candidates.STAGE.run(context(config(), tmp_path, "out", 0, 2))
    with pytest.raises(DataError, match="12 of 24 items are missing"):
        candidates.STAGE.finalize(context(config(), tmp_path, "out"))


def test_a_prompt_that_the_engine_cannot_answer_is_recorded_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_prompts(tmp_path)
    use(monkeypatch, lambda text, seed: Failure("too_long: 9 > 8") if "3" in text else replies(text, seed))
    metrics = run(candidates.STAGE, ctx := context(config(), tmp_path, "out"))
    failed = [c for c in read_records(ctx.dir / "candidates.jsonl", Candidate) if c.error]
    assert {(c.prompt_id, c.text, c.finish_reason) for c in failed} == {("p3", "", "error")}
    assert metrics["errors"] == {"too_long": 4}
    assert metrics["responses"] == 20


@pytest.mark.parametrize("key", ["candidates.num", "judge.draws", "eval.samples"])
def test_more_draws_than_seeds_lie_apart_are_refused(key: str) -> None:
    compose("tiny", [f"{key}=64"])
    with pytest.raises(ConfigError, match=f"{key}: 65; expected [12] to 64"):
        compose("tiny", [f"{key}=65"])


def test_every_model_answers_the_held_out_prompts_with_the_same_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = use(monkeypatch, replies)
    run(eval_responses.STAGE, context(config(), tmp_path, "one", iteration=1))
    second = use(monkeypatch, replies)
    run(eval_responses.BASELINE, ctx := context(config(), tmp_path, "two", iteration=0))
    assert {(r.text, r.seed) for r in first.requests} == {(r.text, r.seed) for r in second.requests}
    assert len(list(read_records(ctx.dir / "responses.jsonl", Candidate))) == 5


# --- judging ----------------------------------------------------------------------------------------------------------


def judges(text: str, seed: int) -> str:
    return f"It is fine. Score: {seed % 64 + (2 if 'good' in text else 0)}"


def test_a_judge_request_holds_the_whole_template_and_three_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_prompts(tmp_path, 2)
    use(monkeypatch, replies)
    run(candidates.STAGE, context(config(), tmp_path, "candidates"))
    engine = use(monkeypatch, judges)
    metrics = run(judge.STAGE, ctx := context(config(), tmp_path, "out"))
    made = list(read_records(ctx.dir / "judgements.jsonl", Judgement))
    assert [j.id for j in made] == [c.id for c in read_records(tmp_path / "candidates" / "candidates.jsonl", Candidate)]
    assert {j.scores for j in made} == {(0.0, 1.0, 2.0)}
    assert all("User: Question " in r.text and "<response>answer " in r.text and r.n == 3 for r in engine.requests)
    assert all(
        r.prompt_ids[0] == 1 and "[INST] Review" in Characters().decode(list(r.prompt_ids)) for r in engine.requests
    )
    assert len({r.seed for r in engine.requests}) == 8
    assert metrics["parse_failure"] == 0


def test_failed_candidates_are_not_judged_and_failed_judgements_are_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_prompts(tmp_path)
    use(monkeypatch, lambda text, seed: Failure("engine: boom") if "3" in text else replies(text, seed))
    run(candidates.STAGE, context(config(), tmp_path, "candidates"))
    use(monkeypatch, lambda text, seed: Failure("too_long: x") if "Question 2" in text else judges(text, seed))
    metrics = run(judge.STAGE, ctx := context(config(), tmp_path, "out"))
    made = list(read_records(ctx.dir / "judgements.jsonl", Judgement))
    assert {j.prompt_id for j in made} == {"p0", "p1", "p2", "p4", "p5"}
    assert all(j.error == "too_long: x" and j.scores == () for j in made if j.prompt_id == "p2")
    assert metrics["errors"] == {"too_long": 4}


def test_a_collapsed_judge_is_an_alarm_and_stops_the_run_only_when_asked_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = config()
    write_prompts(tmp_path)
    use(monkeypatch, replies)
    run(candidates.STAGE, context(cfg, tmp_path, "candidates"))
    use(monkeypatch, lambda text, seed: "Score: 4")
    metrics = run(judge.STAGE, ctx := context(cfg, tmp_path, "out"))
    assert "collapsed" in str(metrics["alarms"])
    cfg.judge.alarm_stops = True
    with pytest.raises(DataError, match="collapsed"):
        judge.STAGE.finalize(ctx)


def test_the_judge_of_a_model_is_held_against_human_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, judges)
    metrics = run(eval_reward.STAGE, ctx := context(config(), tmp_path, "out"))
    assert metrics["pairwise_accuracy"] == 1.0
    assert len(lines(ctx.dir / "judgements.jsonl")) == 8
    use(monkeypatch, lambda text, seed: "Score: 4")  # alarms never stop an evaluation
    cfg = config()
    cfg.judge.alarm_stops = True
    assert run(eval_reward.BASELINE, context(cfg, tmp_path, "base", iteration=0))["pairwise_accuracy"] == 0.5


def test_the_expected_score_is_read_at_the_digit_that_states_the_score() -> None:
    families = digit_tokens(Characters(), 5)  # type: ignore[arg-type]
    text = "4 of 5 are right. Score: 3"
    flat = {ord(str(k)): -9.0 for k in range(6)}
    at_digit = flat | {ord("3"): -0.1, ord("5"): -2.4}
    values = tuple(at_digit if i == len(text) - 1 else flat for i in range(len(text)))
    draw = Completion(text, len(text) + 1, "stop", tuple(map(ord, text)), values)
    found = expected_score(draw, Characters(), families, 5)  # type: ignore[arg-type]
    assert found is not None
    assert 3.1 < found[0] < 3.3
    assert 0.5 < found[1] < 0.8
    no_score = Completion("I cannot say", 12, "stop", tuple(map(ord, "I cannot say")), (flat,) * 12)
    assert expected_score(no_score, Characters(), families, 5) is None  # type: ignore[arg-type]


# --- EFT --------------------------------------------------------------------------------------------------------------

RANKED = {  # instruction: what the baseline writes as a judge of its replies, best reply first
    "agrees": ("Fine. Score: 4", "Poor. Score: 1"),
    "inverted": ("Score: 1", "Score: 4"),
    "flat": ("Score: 4", "Score: 4"),
    "unsaid": ("It is fine.", "Score: 2"),
    "half": ("Score: 5", "Score: 4", Failure("too_long: 9 > 8")),
    "more": ("Score: 4", "Score: 2"),
}


def eft_context(cfg: Config, root: Path, shard: int = 0, num: int = 1) -> Context:
    replies = [
        RankedReply(f"{name}{rank}", name, f"Question {name}?", f"Reply {rank}.", rank)
        for name, judgements in RANKED.items()
        for rank in range(len(judgements))
    ]
    ctx = context(cfg, root, "eft", shard, num, iteration=0)
    write_records(root / "seed" / "ranked_train.jsonl", replies)
    return ctx


def baseline(text: str, seed: int) -> str | Failure:
    instruction = text.partition("Question ")[2].partition("?")[0]
    return RANKED[instruction][int(text.partition("Reply ")[2][0])]


def test_the_baselines_judgements_become_eft_examples_where_they_agree_with_humans(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = config()
    assert cfg.eft.source == "baseline"  # the paper's, and the default
    assert eft.STAGE.inputs(cfg, 0)["model"].stage == "export_baseline"
    use(monkeypatch, baseline)
    for shard in range(3):
        eft.STAGE.run(eft_context(cfg, tmp_path, shard, 3))
    metrics = eft.STAGE.finalize(ctx := eft_context(cfg, tmp_path))
    made = list(read_records(ctx.dir / "eft_train.jsonl", SftExample))
    assert [(e.source, e.response) for e in made if "4" not in e.response] == [
        ("agrees1", "Poor. Score: 1"), ("half0", "Score: 5"), ("more1", "Score: 2"),
    ]  # fmt: skip
    assert all(e.kind == "eft" and "User: Question" in e.prompt for e in made)
    # of the kept ones three are scored 4, the next frequent score occurs once: one 4 remains
    assert metrics["left_out"] == {
        "all_equal": 2, "alone": 1, "disagrees": 2, "dominant_score": 2, "duplicate": 0, "errors": 1, "unparsed": 1,
    }  # fmt: skip
    assert metrics["examples"] == 4
    assert metrics["replies"] == 13 == metrics["examples"] + sum(metrics["left_out"].values())


def test_a_baseline_that_cannot_judge_leaves_no_example_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, lambda text, seed: "An answer.")
    eft.STAGE.run(ctx := eft_context(config(), tmp_path))
    with pytest.raises(DataError, match=r"no EFT example is left.*'unparsed': 13.*eft\.source=external"):
        eft.STAGE.finalize(ctx)


def test_progress_says_how_fast_the_engine_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_prompts(tmp_path)
    use(monkeypatch, replies)
    candidates.STAGE.run(ctx := context(config(), tmp_path, "out"))
    written = json.loads((ctx.dir / "progress.json").read_text())
    assert (written["done"], written["total"], written["unit"]) == (6, 6, "prompts")
    assert written["info"]["tokens_per_s"] > 0

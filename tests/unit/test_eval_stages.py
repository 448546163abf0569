"""The optional evaluations on a fake engine: AlpacaEval, MT-Bench, KL, preference files, prompt sets."""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from nemo_srlm.config.schema import Config
from nemo_srlm.core.files import read_json_lines, read_records, write_records
from nemo_srlm.core.progress import Progress
from nemo_srlm.core.records import Candidate, Prompt, RankedReply, SftExample, content_id
from nemo_srlm.core.stage import Context, Stage
from nemo_srlm.errors import ConfigError, DataError
from nemo_srlm.generate import vllm_engine as engines
from nemo_srlm.generate.requests import Completion, Failure, Outcome, Request
from nemo_srlm.stages import eval_alpaca, eval_kl, eval_mt_answers, eval_mt_bench, eval_preferences, held_out
from nemo_srlm.stages.common import held_out as common_held_out
from tests.unit.fake_engine import Characters, FakeEngine


def context(cfg: Config, root: Path, name: str, **inputs: Path) -> Context:
    directory = root / name
    directory.mkdir(exist_ok=True)
    return Context(cfg, 1, directory, {"model": root / "model", **inputs}, Progress(directory))


def use(monkeypatch: pytest.MonkeyPatch, answer: Callable[[str, int], str | Failure], stop_after: int | None = None):
    engine = FakeEngine(answer, stop_after)
    monkeypatch.setattr(engines, "shared", lambda slot, path, cfg: engine)
    return engine


def do(stage: Stage, ctx: Context) -> dict:
    stage.run(ctx)
    return stage.finalize(ctx)


def write_rows(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


# --- AlpacaEval -----------------------------------------------------------------------------------------------------


def test_alpaca_answers_become_the_packages_file_in_the_sets_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    cfg = Config()
    rows = [{"instruction": f"question {i}", "dataset": "selfinstruct", "output": "theirs"} for i in range(5)]
    cfg.eval.alpaca.prompts = str(tmp_path / "alpaca_eval.json")
    Path(cfg.eval.alpaca.prompts).write_text(json.dumps(rows), encoding="utf-8")
    use(monkeypatch, lambda text, seed: f"answer to {text}")
    metrics = do(eval_alpaca.STAGE, ctx := context(cfg, tmp_path, "eval_alpaca"))
    written = json.loads((ctx.dir / "model_outputs.json").read_text())
    expected = [
        {"instruction": r["instruction"], "output": f"answer to {r['instruction']}", "generator": "tiny-M2"}
        for r in rows
    ]
    assert written == expected
    assert metrics["characters_mean"] == len("answer to question 0")


def test_an_absent_set_is_refused_before_the_run(tmp_path: Path):
    cfg = Config()
    cfg.eval.alpaca.prompts = str(tmp_path / "absent.json")
    with pytest.raises(ConfigError, match=r"eval\.alpaca\.prompts: no file"):
        eval_alpaca.STAGE.check(cfg)
    Path(cfg.eval.alpaca.prompts).write_text('[{"question": 1}]', encoding="utf-8")
    with pytest.raises(DataError, match=r"absent\.json\[0\]: no prompt"):
        eval_alpaca.STAGE.check(cfg)


# --- MT-Bench -------------------------------------------------------------------------------------------------------

QUESTIONS = [
    {"question_id": 81, "category": "writing", "turns": ["write", "again"]},
    {"question_id": 101, "category": "reasoning", "turns": ["think", "more"], "reference": ["r1", "r2"]},
]
TEMPLATES = {
    "single-v1": "{question}|{answer}",
    "single-math-v1": "{question}|{ref_answer_1}|{answer}",
    "single-v1-multi-turn": "{question_1}|{answer_1}|{question_2}|{answer_2}",
    "single-math-v1-multi-turn": "{ref_answer_1}|{ref_answer_2}|{answer_1}|{answer_2}",
}


def mt_bench(tmp_path: Path, questions: list[dict] | None = None) -> Config:
    cfg = Config()
    section = cfg.eval.mt_bench
    section.questions = write_rows(tmp_path / "question.jsonl", questions or QUESTIONS)
    prompts = [{"name": n, "system_prompt": "judge", "prompt_template": t} for n, t in TEMPLATES.items()]
    section.judge_prompts = write_rows(tmp_path / "judge_prompts.jsonl", prompts)
    return cfg


def shown(request: Request) -> str:
    return Characters().decode([i for i in request.prompt_ids if i > 2])


def test_two_turns_resume_where_a_kill_left_them_and_the_second_sees_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    cfg = mt_bench(tmp_path)
    use(monkeypatch, lambda text, seed: f"<{text}>", stop_after=3)
    ctx = context(cfg, tmp_path, "eval_mt_answers")
    with pytest.raises(KeyboardInterrupt):
        eval_mt_answers.STAGE.run(ctx)
    with next((ctx.dir / "parts").iterdir()).open("a") as part:
        part.write('{"id":"')  # the kill came while the line of a second turn was written
    engine = use(monkeypatch, lambda text, seed: f"<{text}>")
    metrics = do(eval_mt_answers.STAGE, ctx)
    assert (metrics["answers"], len(engine.requests)) == (4, 1)
    rows = {row["question_id"]: row for _, row in read_json_lines(ctx.dir / "model_answer" / "tiny-M2.jsonl")}
    assert rows[81]["choices"] == [{"index": 0, "turns": ["<write>", "<again>"]}]
    assert shown(engine.requests[0]) in (
        "[INST] write [/INST]<write>[INST] again [/INST]", "[INST] think [/INST]<think>[INST] more [/INST]"
    )  # fmt: skip


def test_a_failed_first_turn_is_an_error_in_the_file_and_its_second_is_not_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    engine = use(monkeypatch, lambda text, seed: Failure("too_long: 9 > 8") if text == "think" else text)
    metrics = do(eval_mt_answers.STAGE, ctx := context(mt_bench(tmp_path), tmp_path, "eval_mt_answers"))
    assert metrics["errors"] == {"too_long": 1}
    assert len(engine.requests) == 3
    rows = {row["question_id"]: row for _, row in read_json_lines(ctx.dir / "model_answer" / "tiny-M2.jsonl")}
    assert rows[101]["choices"][0]["turns"] == ["$ERROR$", "$ERROR$"]


def test_grades_are_fastchats_lines_and_what_has_none_counts_in_no_mean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    cfg = mt_bench(tmp_path)
    use(monkeypatch, lambda text, seed: text)
    do(eval_mt_answers.STAGE, answers := context(cfg, tmp_path, "eval_mt_answers"))
    grades = {"write|write": "Rating: [[8]]", "write|write|again|again": "[[6]]", "think|r1|think": "[[4]]"}
    engine = use(monkeypatch, lambda text, seed: grades.get(text, "no idea"))
    ctx = context(cfg, tmp_path, "eval_mt_bench", answers=answers.dir, judge=tmp_path)
    metrics = do(eval_mt_bench.STAGE, ctx)
    assert (metrics["overall"], metrics["turn_1"], metrics["graded"], metrics["failed"]) == (6.0, 6.0, 3, 1)
    assert all(
        r.temperature == 0 and r.system == "judge" and shown(r).startswith("[INST] judge\n\n") for r in engine.requests
    )
    rows = [row for _, row in read_json_lines(ctx.dir / "model_judgment" / "itself_single.jsonl")]
    assert [(r["question_id"], r["turn"], r["score"]) for r in rows] == [
        (81, 1, 8),
        (81, 2, 6),
        (101, 1, 4),
        (101, 2, -1),
    ]
    assert rows[2]["judge"] == ["itself", "single-math-v1"]


def test_a_response_that_failed_is_judged_as_fastchats_error_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    cfg = mt_bench(tmp_path)
    use(monkeypatch, lambda text, seed: Failure("too_long: 9 > 8") if text == "write" else text)
    do(eval_mt_answers.STAGE, answers := context(cfg, tmp_path, "eval_mt_answers"))
    use(monkeypatch, lambda text, seed: "[[0]]" if "$ERROR$" in text else "[[11]]" if "r2" in text else Failure("down"))
    ctx = context(cfg, tmp_path, "eval_mt_bench", answers=answers.dir, judge=tmp_path)
    metrics = do(eval_mt_bench.STAGE, ctx)
    rows = [row for _, row in read_json_lines(ctx.dir / "model_judgment" / "itself_single.jsonl")]
    assert [(r["score"], r["judgment"]) for r in rows] == [(0, "[[0]]"), (0, "[[0]]"), (-1, "$ERROR$"), (11, "[[11]]")]
    assert (metrics["overall"], metrics["graded"], metrics["failed"]) == (11 / 3, 3, 1)
    assert (metrics["unanswered"], metrics["outside"]) == (2, 3)


def test_mt_bench_is_refused_at_once_without_prompts_or_a_needed_reference(tmp_path: Path):
    cfg = mt_bench(tmp_path, [{"question_id": 7, "category": "math", "turns": ["a", "b"]}])
    with pytest.raises(DataError, match="question 7: no reference answer"):
        eval_mt_bench.STAGE.check(cfg)
    reference = {"question_id": 7, "choices": [{"turns": ["x", "y"]}]}
    cfg.eval.mt_bench.references = write_rows(tmp_path / "gpt-4.jsonl", [reference])
    eval_mt_bench.STAGE.check(cfg)
    cfg.eval.mt_bench.judge_prompts = ""
    with pytest.raises(ConfigError, match=r"eval\.mt_bench\.judge_prompts: empty"):
        eval_mt_bench.STAGE.check(cfg)


# --- KL -------------------------------------------------------------------------------------------------------------


class Scorer:
    """Gives every scored character the same log-probability; refuses texts that contain "long"."""

    max_model_len = 4096
    ready = True

    def __init__(self, logp: float) -> None:
        self.tokenizer, self.logp = Characters(), logp

    def expect(self, lengths: Iterable[int]) -> None:
        pass

    def stream(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Outcome]]:
        for request in requests:
            values = (self.logp,) * (len(request.prompt_ids) - request.score_from)
            yield (
                request,
                Failure("too_long")
                if "long" in request.text
                else [Completion("x", 1, "length", prompt_logprobs=values)],
            )

    def usage(self) -> dict[str, float]:
        return {}


def test_kl_is_the_mean_log_ratio_a_token_of_the_policys_own_responses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    prompts = [Prompt(f"p{i}", f"question {i}", "eval") for i in range(3)]
    texts = ["abc", "abcdef", "too long"]
    responses = [Candidate(f"c{i}", f"p{i}", 0, t, "length" if i == 1 else "stop", 3) for i, t in enumerate(texts)]
    for name in ("held_out", "responses"):
        (tmp_path / name).mkdir()
    write_records(tmp_path / "held_out" / "eval_prompts.jsonl", prompts)
    write_records(
        tmp_path / "responses" / "responses.jsonl", [*responses, Candidate("c9", "p2", 1, "", "error", 0, "x")]
    )
    monkeypatch.setattr(engines, "shared", lambda slot, path, cfg: Scorer(-1.0 if "own" in str(path) else -1.25))
    inputs = {name: tmp_path / name for name in ("held_out", "responses", "own", "previous")}
    metrics = do(eval_kl.STAGE, context(Config(), tmp_path, "eval_kl", **inputs))
    assert metrics["kl"] == pytest.approx(0.25)
    assert metrics["se_kl"] == pytest.approx(0.0, abs=1e-12)
    assert metrics["tokens"] == 4 + 6  # the end token of "abc" counts; the truncated response has none
    assert (metrics["responses"], metrics["failed"], metrics["errors"]) == (2, 1, {"too_long": 2})


# --- preference files -----------------------------------------------------------------------------------------------


def test_a_preference_file_is_judged_by_the_metrics_of_eval_reward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    cfg = Config()
    (tmp_path / "judge.txt").write_text("<INSTRUCTION_HERE>|<RESPONSE_HERE>", encoding="utf-8")
    cfg.judge.template, cfg.judge.draws, cfg.judge.min_valid = str(tmp_path / "judge.txt"), 1, 1
    rows = [{"prompt": f"q{i}", "chosen": "good", "rejected": "bad" if i else "better"} for i in range(4)]
    several = [{"prompt": "q1", "replies": ["good", "fair", "bad"], "scores": [9, 5, 1]}]
    cfg.eval.preferences = [write_rows(tmp_path / "pairs.jsonl", rows), write_rows(tmp_path / "ranked.jsonl", several)]
    scores = {"good": 4, "bad": 1, "better": 5, "fair": 3}
    engine = use(monkeypatch, lambda text, seed: f"Score: {scores[text.split('|')[1]]}")
    files = do(eval_preferences.STAGE, context(cfg, tmp_path, "eval_preferences"))["files"]
    assert files["pairs.jsonl"]["pairwise_accuracy"] == pytest.approx(3 / 4)
    assert files["pairs.jsonl"]["counts"]["pairs"] == 4
    assert (files["ranked.jsonl"]["kendall"], files["ranked.jsonl"]["exact_match"]) == (pytest.approx(1.0), 1.0)
    assert len(engine.requests) == 8 + 2  # "good" to q1 is in both files and is judged once


# --- prompt sets ----------------------------------------------------------------------------------------------------


def test_a_prompt_set_of_ones_own_takes_the_held_out_prompts_place_with_its_categories(tmp_path: Path):
    cfg = Config()
    rows = [{"prompt": "one", "category": "maths"}, {"prompt": "two"}, {"prompt": "one", "category": "maths"}]
    cfg.eval.prompts = write_rows(tmp_path / "set.jsonl", rows)
    seed = tmp_path / "seed"
    seed.mkdir()
    write_records(seed / "ift.jsonl", [SftExample("s", "two", "yes", "ift")])
    write_records(seed / "eval_prompts.jsonl", [Prompt("e", "of the seed", "eval")])
    write_records(seed / "ranked_valid.jsonl", [RankedReply("r", "i", "q", "a", 0)])
    write_records(seed / "ranked_train.jsonl", [])
    held_out.STAGE.check(cfg)
    metrics = do(held_out.STAGE, ctx := context(cfg, tmp_path, "held_out", seed=seed))
    assert metrics["set"] == {"also_in_ift": 1, "duplicate": 1, "rows": 3}  # not where the stage seed left it out
    assert [row["text"] for _, row in read_json_lines(ctx.dir / "eval_prompts.jsonl")] == ["one", "two"]
    prompts = list(read_records(ctx.dir / "eval_prompts.jsonl", Prompt))
    categories = common_held_out.categories(context(cfg, tmp_path, "eval_h2h", held_out=ctx.dir), prompts)
    named = {prompt_id: category for prompt_id, category in categories.items() if category}
    assert named == {content_id("prompt", "one"): "maths"}
    assert held_out.STAGE.identity(cfg, 0) != held_out.STAGE.identity(Config(), 0)
    cfg.select.every, cfg.select.prompts = (
        10,
        write_rows(tmp_path / "choosers.jsonl", [{"prompt": "Two "}, {"prompt": "4"}]),
    )
    metrics = do(held_out.STAGE, context(cfg, tmp_path, "held_out", seed=seed))
    assert metrics["set"]["also_in_select"] == 1


def test_without_a_set_nothing_of_the_held_out_stage_changes():
    assert held_out.STAGE.identity(Config(), 0) == {"split": "seed"}

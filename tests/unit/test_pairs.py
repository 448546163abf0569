"""The pairs stage: three files read in parallel, a reason for every prompt without a pair, the arms, external preferences."""

import json
import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_srlm.config.checks import check
from nemo_srlm.config.compose import compose
from nemo_srlm.config.evaluation import DriftSection
from nemo_srlm.config.generation import PairsSection
from nemo_srlm.config.schema import Config, RunSection
from nemo_srlm.core.files import dump, read_json_lines, read_records, write_records
from nemo_srlm.core.pipeline import pipeline
from nemo_srlm.core.progress import Progress
from nemo_srlm.core.records import Candidate, Judgement, PreferencePair, Prompt, content_id
from nemo_srlm.core.stage import Context, Ref
from nemo_srlm.data import preference_pairs
from nemo_srlm.errors import ConfigError, DataError
from nemo_srlm.evaluate.alarms import alarms_of_pairs
from nemo_srlm.stages import load
from nemo_srlm.stages.pairs import STAGE

Scores = tuple[float | None, ...]
Row = tuple[Prompt, list[Candidate], list[Judgement]]


def row(i: int, *judged: Scores, texts: tuple[str, ...] = ()) -> Row:
    """A prompt with one candidate per tuple of draws; `texts` replaces the candidates' texts."""
    prompt = Prompt(content_id("prompt", i), f"Prompt {i}?")
    ids = [content_id("candidate", prompt.id, n) for n in range(len(judged))]
    made = [Candidate(c, prompt.id, n, texts[n] if texts else f"text {n}", "stop", 3) for n, c in enumerate(ids)]
    draws = [
        Judgement(c, prompt.id, scores, ("t",) * len(scores), ("stop",) * len(scores))
        for c, scores in zip(ids, judged, strict=True)
    ]
    return prompt, made, draws


def stage(path: Path, rows: list[Row], **config: object) -> Context:
    """A context whose inputs hold `rows`."""
    inputs = {name: path / name for name in ("prompts", "candidates", "judge")}
    for directory in (*inputs.values(), path / "pairs"):
        directory.mkdir(exist_ok=True)
    write_records(inputs["prompts"] / "prompts.jsonl", [r[0] for r in rows])
    write_records(inputs["candidates"] / "candidates.jsonl", [c for r in rows for c in r[1]])
    write_records(inputs["judge"] / "judgements.jsonl", [j for r in rows for j in r[2]])
    return Context(Config(**config), 1, path / "pairs", inputs, Progress(path / "pairs"))


def run(ctx: Context) -> tuple[list[PreferencePair], dict[str, str]]:
    STAGE.run(ctx)
    dropped = {data["prompt_id"]: data["reason"] for _, data in read_json_lines(ctx.dir / "dropped.jsonl")}
    return list(read_records(ctx.dir / "pairs.jsonl", PreferencePair)), dropped


def test_every_prompt_is_a_pair_or_dropped_with_its_reason(tmp_path: Path):
    rows = [
        row(0, (4.0, 4.0, 5.0), (4.0, 4.0, 4.0), (4.0, None, 4.0), (None, None, 1.0)),
        row(1, (4.0, 4.0, 4.0), (4.0, 4.0, 4.0)),  # a tie does not affect other prompts
        row(2, (None, None, 5.0), (1.0, 1.0, 1.0)),
        row(3),
        row(4, (5.0, 5.0, 5.0), (1.0, 1.0, 1.0), texts=("same", "same")),
        row(5, (0.0, 0.0, None), (5.0, 4.0, 5.0)),
    ]
    ctx = stage(tmp_path, rows)
    pairs, dropped = run(ctx)
    assert [(p.prompt_id, p.chosen, p.rejected, p.chosen_score, p.rejected_score) for p in pairs] == [
        (rows[0][0].id, "text 0", "text 1", 13 / 3, 4.0),  # not rounded; an unparsed score is never rejected
        (rows[5][0].id, "text 1", "text 0", 14 / 3, 0.0),
    ]
    assert pairs[0].prompt == "Prompt 0?"
    assert dropped == dict(
        zip((r[0].id for r in rows[1:5]), ("tie", "too_few_eligible", "no_candidates", "same_text"), strict=True)
    )
    metrics = STAGE.finalize(ctx)
    assert (
        metrics["prompts"]
        == 6
        == metrics["pairs"] + sum(n for name, n in metrics.items() if name.startswith("dropped_"))
    )
    assert (metrics["candidates"], metrics["eligible"]) == (12, 10)


def test_as_many_pairs_are_kept_as_an_iteration_asks_for_and_a_shortage_is_told(tmp_path: Path):
    rows = [row(i, (5.0, 5.0, 5.0), (1.0, 1.0, 1.0)) for i in range(9)]
    ctx = stage(tmp_path, rows)
    ctx.cfg.pairs.per_iteration = [4]
    pairs, dropped = run(ctx)
    assert len(pairs) == 4
    assert list(dropped.values()) == ["not_needed"] * 5
    assert [p.prompt_id for p in pairs] == [r[0].id for r in rows if r[0].id not in dropped]
    metrics = STAGE.finalize(ctx)
    assert (metrics["pairs"], metrics["dropped_not_needed"], metrics["asked"]) == (4, 5, 4)
    other = Config(pairs=PairsSection(per_iteration=[4, 6]))
    assert STAGE.identity(other, 1) == STAGE.identity(ctx.cfg, 1) != STAGE.identity(Config(), 1)
    ctx.cfg.pairs.per_iteration = [20]
    assert len(run(ctx)[0]) == 9
    found = alarms_of_pairs(DriftSection(), [("M2", STAGE.finalize(ctx)), ("M3", None)])
    assert [(a.model, a.text) for a in found] == [("M2", "9 of 20 preference pairs that were asked for")]


def test_failed_candidates_and_judgements_are_not_eligible(tmp_path: Path):
    prompt, made, draws = row(0, (5.0, 5.0, 5.0), (3.0, 3.0, 3.0), (1.0, 1.0, 1.0), (2.0, 2.0, 2.0))
    made[0] = Candidate(made[0].id, prompt.id, 0, "", "", 0, error="too_long: 9 > 8")
    draws[2] = Judgement(draws[2].id, prompt.id, (), (), (), error="too_long: 9 > 8")
    ctx = stage(tmp_path, [(prompt, made, draws[1:])])  # a failed candidate has no judgement
    pairs, _ = run(ctx)
    assert [(p.chosen, p.rejected) for p in pairs] == [("text 1", "text 3")]


scores = st.tuples(*[st.none() | st.integers(0, 5).map(float)] * 3)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(scores, max_size=4), max_size=8), st.sampled_from(["self", "random"]))
def test_whatever_was_judged_every_prompt_is_in_one_file(tmp_path_factory, judged, arm):
    rows = [row(i, *draws) for i, draws in enumerate(judged)]
    pairs, dropped = run(stage(tmp_path_factory.mktemp("run"), rows, run=RunSection(arm=arm)))
    assert [r[0].id for r in rows if r[0].id not in dropped] == [pair.prompt_id for pair in pairs]


def test_the_random_control_keeps_as_many_pairs_and_is_reproducible(tmp_path: Path):
    rng = random.Random(0)
    rows = [row(i, *[(float(rng.randrange(6)),) * 3 for _ in range(4)]) for i in range(200)]
    own, _ = run(stage(tmp_path, rows))
    control, _ = run(stage(tmp_path, rows, run=RunSection(arm="random")))
    assert run(stage(tmp_path, rows, run=RunSection(arm="random")))[0] == control
    assert [(p.chosen_score, p.rejected_score) for p in own] == [(p.chosen_score, p.rejected_score) for p in control]
    assert sum(a.chosen == b.chosen for a, b in zip(own, control, strict=True)) < 0.5 * len(own)
    assert run(stage(tmp_path, rows, run=RunSection(arm="random", seed=1)))[0] != control


def test_the_oracle_arm_reads_another_stages_judgements_with_one_draw_each(tmp_path: Path):
    cfg = Config(run=RunSection(arm="oracle"))
    assert STAGE.inputs(cfg, 2)["judge"].stage == "oracle_scores"
    assert STAGE.inputs(Config(), 2)["judge"].stage == "judge"
    pairs, _ = run(stage(tmp_path, [row(0, (5.0,), (1.0,))], run=RunSection(arm="oracle")))
    assert [(p.chosen, p.rejected) for p in pairs] == [("text 0", "text 1")]


@pytest.mark.parametrize("wrong", ["missing", "order", "extra"])
def test_files_that_do_not_belong_together_are_an_error(tmp_path: Path, wrong: str):
    rows = [row(i, (5.0, 5.0, 5.0), (1.0, 1.0, 1.0)) for i in range(3)]
    ctx = stage(tmp_path, rows)
    judgements = [j for r in rows for j in r[2]]
    changed = {"missing": judgements[:-1], "order": judgements[2:] + judgements[:2], "extra": judgements * 2}[wrong]
    write_records(tmp_path / "judge" / "judgements.jsonl", changed)
    with pytest.raises(DataError, match=r"judgements\.jsonl:\d+"):
        STAGE.run(ctx)
    assert not (ctx.dir / "pairs.jsonl").exists()


def test_a_line_that_is_no_record_is_named(tmp_path: Path):
    ctx = stage(tmp_path, [row(0, (5.0, 5.0, 5.0), (1.0, 1.0, 1.0))])
    path = tmp_path / "candidates" / "candidates.jsonl"
    path.write_text(path.read_text(encoding="utf-8") + '{"id": "x"}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"candidates\.jsonl:3"):
        STAGE.run(ctx)


def test_not_one_pair_is_an_error_with_the_reasons(tmp_path: Path):
    ctx = stage(tmp_path, [row(0, (4.0, 4.0, 4.0), (4.0, 4.0, 4.0))])
    STAGE.run(ctx)
    with pytest.raises(DataError, match="dropped_tie"):
        STAGE.finalize(ctx)


@pytest.mark.parametrize(
    ("overrides", "counts"),
    [
        ([], True),
        (["pairs.score=judge_vote"], True),
        (["judge.method=expected"], False),
        (["judge.shape=pairwise", "judge.equal_texts=each"], False),
        (["run.arm=oracle"], False),
        (["pairs.score=vote"], False),
    ],
)
def test_the_draws_that_must_parse_are_in_the_identity_where_they_decide(overrides: list[str], counts: bool):
    one, two = (STAGE.identity(compose("tiny", [*overrides, f"judge.min_valid={n}"]), 1) for n in (1, 2))
    assert (one != two) == counts


def test_unknown_arms_and_rules_are_refused():
    with pytest.raises(ConfigError, match=r"run\.arm"):
        check(Config(run=RunSection(arm="best")))
    with pytest.raises(ConfigError, match=r"pairs\.rule"):
        check(Config(pairs=PairsSection(rule="best")))
    assert STAGE.identity(Config(run=RunSection(seed=1)), 1) == STAGE.identity(Config(run=RunSection(seed=2)), 1)


# --- external preferences --------------------------------------------------------------------------------------------


def turn(prompt: str, response: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]


GIVEN = [
    {"prompt": "Why?", "chosen": "Because.", "rejected": "No.", "chosen_score": 4, "rejected_score": 1.5},
    {
        "prompt": "Warum?",
        "chosen": turn("Warum?", "Darum."),
        "rejected": turn("Warum?", "Nein."),
        "score_chosen": 8.0,
        "score_rejected": 2.0,
    },
    {"chosen": turn("How?", "So."), "rejected": turn("How?", "Hm.")},
    {"prompt": "Why?", "chosen": "Because.", "rejected": "No."},
    {"prompt": "Why?", "chosen": "No.", "rejected": "No."},
    {"prompt": "Why?", "chosen": "Yes.", "rejected": " "},
    {"prompt": "Why?", "chosen": "Yes.", "rejected": "No.", "chosen_score": 3, "rejected_score": 3},
    {"prompt": "a", "chosen": turn("a", "b") + turn("c", "d"), "rejected": turn("a", "b") + turn("c", "e")},
]


def as_file(path: Path) -> Path:
    rows = [row for row in GIVEN if isinstance(row["chosen"], list)] if path.suffix == ".parquet" else GIVEN
    if path.suffix == ".parquet":
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), str(path))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def held_out(directory: Path, *texts: str) -> Path:
    """A finished seed stage that holds these prompts out."""
    seed = directory / "seed"
    seed.mkdir()
    write_records(seed / "eval_prompts.jsonl", [Prompt(text, text, "eval") for text in texts])
    write_records(seed / "ranked_valid.jsonl", [])
    return seed


def test_external_pairs_of_held_out_prompts_and_their_near_copies_are_dropped(tmp_path: Path):
    prompts = ["WHY? ", "How does a small fridge work", "How does a fridge work", "Where?"]
    given = tmp_path / "given.jsonl"
    given.write_text("".join(json.dumps({"prompt": p, "chosen": "a", "rejected": "b"}) + "\n" for p in prompts))
    cfg = Config(run=RunSection(arm="external"), pairs=PairsSection(files=[str(given)]))
    seed = held_out(tmp_path, "Why", "How does a big fridge work?")
    assert STAGE.inputs(cfg, 1) == {"seed": Ref("seed", 0)}
    ctx = Context(cfg, 1, tmp_path, {"seed": seed}, Progress(tmp_path))
    pairs, _ = run(ctx)
    assert [p.prompt for p in pairs] == ["Where?"]
    metrics = STAGE.finalize(ctx)
    assert (metrics["dropped_held_out"], metrics["dropped_near_held_out"]) == (1, 2)
    cfg.seed.rouge_max = 1.0
    assert [p.prompt for p in run(ctx)[0]] == prompts[1:]


def test_external_preferences_are_pairs_and_the_rest_is_counted(tmp_path: Path):
    cfg = Config(run=RunSection(arm="external"), pairs=PairsSection(files=[str(as_file(tmp_path / "x.jsonl"))]))
    ctx = Context(cfg, 1, tmp_path, {"seed": held_out(tmp_path)}, Progress(tmp_path))
    pairs, dropped = run(ctx)
    assert [(p.prompt, p.chosen, p.rejected, p.chosen_score, p.rejected_score) for p in pairs] == [
        ("Why?", "Because.", "No.", 4.0, 1.5), ("Warum?", "Darum.", "Nein.", 8.0, 2.0), ("How?", "So.", "Hm.", None, None),
    ]  # fmt: skip
    assert dropped == {}
    metrics = STAGE.finalize(ctx)
    assert {name: n for name, n in metrics.items() if name.startswith("dropped_")} == {
        "dropped_duplicate": 1, "dropped_same_text": 1, "dropped_empty": 1, "dropped_tie": 1, "dropped_several_turns": 1,
    }  # fmt: skip
    assert metrics["pairs"] == 3


def test_external_pairs_as_ultrafeedback_writes_them_are_the_pairs_that_the_judge_would_have_made(tmp_path: Path):
    """So DPO on an external file is the same training: it reads the same pairs.jsonl."""
    rng = random.Random(1)
    rows = [row(i, *[(float(rng.randrange(6)),) * 3 for _ in range(4)]) for i in range(50)]
    judged = stage(tmp_path, rows)
    pairs, _ = run(judged)
    given = tmp_path / "given.jsonl"
    given.write_text(
        "".join(
            json.dumps(
                {
                    "prompt": p.prompt, "chosen": turn(p.prompt, p.chosen), "rejected": turn(p.prompt, p.rejected),
                    "score_chosen": p.chosen_score, "score_rejected": p.rejected_score,
                }
            ) + "\n" for p in pairs
        ),
        encoding="utf-8",
    )  # fmt: skip
    cfg = Config(run=RunSection(arm="external"), pairs=PairsSection(files=[str(given)]))
    (tmp_path / "of_file").mkdir()
    run(Context(cfg, 1, tmp_path / "of_file", {"seed": held_out(tmp_path)}, Progress(tmp_path / "of_file")))
    by_judge = [(p.prompt, p.chosen, p.rejected, p.chosen_score, p.rejected_score) for p in pairs]
    of_file = read_records(tmp_path / "of_file" / "pairs.jsonl", PreferencePair)
    assert [(p.prompt, p.chosen, p.rejected, p.chosen_score, p.rejected_score) for p in of_file] == by_judge
    stages = [ref.stage for ref in pipeline(cfg)]
    assert not {"prompts", "candidates", "judge"} & set(stages)
    assert load("dpo").inputs(cfg, 1)["pairs"] == Ref("pairs", 1)
    assert load("dpo").identity(cfg, 1) == load("dpo").identity(Config(), 1)


@pytest.mark.slow
def test_parquet_goes_the_same_way(tmp_path: Path):
    pytest.importorskip("datasets")
    counts: Counter[str] = Counter()
    pairs = list(preference_pairs.read_pairs([as_file(tmp_path / "x.parquet")], counts))
    assert [(p.prompt, p.chosen, p.rejected) for p in pairs] == [("Warum?", "Darum.", "Nein."), ("How?", "So.", "Hm.")]
    assert counts["dropped_several_turns"] == 1


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "a", "chosen": "b"}, "no rejected"),
        ({"chosen": "b", "rejected": "c"}, "no prompt"),
        ({"prompt": "a", "chosen": 1, "rejected": "c"}, "a response that is a int"),
        ({"chosen": turn("a", "b"), "rejected": turn("x", "c")}, "no prompt that both"),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "chosen_score": "high"}, "chosen_score"),
    ],
)
def test_a_row_that_is_no_preference_names_its_line(tmp_path: Path, row: dict[str, object], message: str):
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=rf"x\.jsonl:1.*{message}"):
        list(preference_pairs.read_pairs([path], Counter()))


def test_pairs_are_written_as_the_store_writes_records(tmp_path: Path):
    ctx = stage(tmp_path, [row(0, (5.0, 5.0, 4.0), (1.0, 1.0, 1.0), texts=("Grüße “x”\n\u2028", "nein"))])
    pairs, _ = run(ctx)
    assert (ctx.dir / "pairs.jsonl").read_bytes().decode() == "".join(dump(pair) for pair in pairs)

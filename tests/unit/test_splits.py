"""The seed stage: its sets are disjoint; real German and Spanish trees; the held-out sets of the tiny world."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_srlm.config.schema import Config, EftSection, SeedSection
from nemo_srlm.core.files import read_records, write_records
from nemo_srlm.core.progress import Progress
from nemo_srlm.core.records import Prompt, RankedReply, SftExample
from nemo_srlm.core.stage import Context
from nemo_srlm.data.oasst import FirstTurn, LaterTurn, Reply, read_first_turns
from nemo_srlm.data.splits import instruction_id, split
from nemo_srlm.errors import ConfigError, DataError
from nemo_srlm.stages import baseline
from nemo_srlm.stages.seed import STAGE
from tests.unit.test_oasst import SAMPLE, message, tree, write


def turn(i: int, ranks: tuple[int | None, ...] = (0, 1, 2), judgement: str = "", text: str = "") -> FirstTurn:
    replies = tuple(Reply(f"r{i}-{n}", f"Reply {n} to {i}", rank, judgement) for n, rank in enumerate(ranks))
    return FirstTurn(f"t{i}", text or f"Question number {i}?", replies)


def instructions(made) -> list[set[str]]:
    return [
        {instruction_id(example.prompt) for example in made.ift},
        {reply.instruction_id for reply in made.ranked_train},
        {reply.instruction_id for reply in made.ranked_valid},
        {instruction_id(prompt.text) for prompt in made.eval_prompts},
    ]


def test_each_set_gets_what_was_asked_where_there_is_enough():
    counts: Counter[str] = Counter()
    made = split(
        [turn(i) for i in range(400)],
        SeedSection(num_ift=100, num_eval_prompts=20),
        EftSection(num_train=60, num_valid=30),
        counts,
    )
    assert (len(made.ift), len(made.eval_prompts), len(made.ranked_valid)) == (100, 20, 30)
    assert len(made.ranked_train) == 3 * (400 - 100 - 20 - 10)  # all others are input of the agreement filter
    assert counts["asked_ift"] == counts["ift"] == 100
    assert all(example.response.startswith("Reply 0 ") for example in made.ift)


def test_where_there_is_not_enough_for_ift_it_comes_first_and_an_eighth_is_left_for_eft():
    counts: Counter[str] = Counter()
    made = split([turn(i) for i in range(80)], SeedSection(), EftSection(), counts)
    assert len(made.eval_prompts) == 10
    assert len(instructions(made)[2]) == 17
    assert (len(made.ift), len(instructions(made)[1])) == (46, 7)
    assert counts["asked_ift"] == 3200


@pytest.mark.parametrize(
    "eft",
    [EftSection(num_valid=0), EftSection(num_valid=0, num_train=0), EftSection(source="none", num_valid=0)],
)
def test_num_ift_is_given_wherever_so_many_are_usable(eft: EftSection):
    def of(usable: int) -> int:
        seed = SeedSection(num_ift=50, num_eval_prompts=0)
        return len(split([turn(i) for i in range(usable)], seed, eft, Counter()).ift)

    assert [of(usable) for usable in (50, 51, 60, 400)] == [50] * 4
    found = [of(usable) for usable in range(1, 50)]
    if eft.source == "none":
        assert found == list(range(1, 50))
    else:
        assert all(usable * 7 // 8 <= ift < usable for usable, ift in enumerate(found[1:], start=2))


@pytest.mark.parametrize("source", ["baseline", "ranks"])
def test_a_small_num_ift_is_given_exactly_however_much_eft_wants(source: str):
    counts: Counter[str] = Counter()
    made = split([turn(i) for i in range(40)], SeedSection(num_ift=16), EftSection(source=source), counts)
    assert len(made.ift) == counts["ift"] == 16
    assert len(instructions(made)[1]) == 40 - 5 - 8 - 16  # evaluation prompts and EFT evaluation come first


def test_where_eft_has_instructions_of_its_own_ift_takes_all_that_it_can_use():
    turns = [turn(i) for i in range(49)] + [turn(i, (1, 2)) for i in range(49, 60)]  # without a reply of rank 0
    made = split(turns, SeedSection(num_ift=50, num_eval_prompts=0), EftSection(num_valid=0, num_train=0), Counter())
    assert (len(made.ift), len(instructions(made)[1])) == (49, 11)


def test_a_baseline_without_anything_to_judge_is_refused_before_it_is_trained(tmp_path: Path):
    rows = [tree(f"q{i}", message(f"a{i}", "A", f"q{i}", 0), message(f"b{i}", "B", f"q{i}", 1)) for i in range(50)]
    path = write(tmp_path / "x.trees.jsonl", rows)
    section = SeedSection(files=[str(path)], num_ift=50, num_eval_prompts=0)
    cfg = Config(seed=section, eft=EftSection(num_valid=0))
    ctx = context(cfg, tmp_path / "seed")
    STAGE.run(ctx)
    assert STAGE.finalize(ctx)["summary"].startswith("50 ift, 0 ranked_train")
    (tmp_path / "baseline").mkdir()
    with pytest.raises(DataError, match=r"no ranked reply is left for EFT.*seed\.num_ift"):
        baseline.STAGE.run(Context(cfg, 0, tmp_path / "baseline", {"seed": ctx.dir}, Progress(tmp_path / "baseline")))


def test_without_eft_everything_that_is_not_held_out_is_for_ift():
    made = split([turn(i) for i in range(40)], SeedSection(num_ift=0), EftSection(source="none"), Counter())
    assert len(made.ift) == 40 - 5 - 8
    assert made.ranked_train == []
    assert len(instructions(made)[2]) == 8  # a judge is measured all the same


def test_for_an_instruct_model_eft_gets_every_ranked_instruction_and_ift_is_for_demonstrations():
    made = split(
        [turn(i) for i in range(40)], SeedSection(num_ift=10), EftSection(source="ranks"), Counter(), shared_ift=True
    )
    ift, train, valid, evaluation = instructions(made)
    assert len(train) == 40 - 5 - 8
    assert len(ift) == 10
    assert not (ift | train) & (valid | evaluation)


turns = st.lists(
    st.tuples(
        st.integers(0, 60),
        st.sampled_from([(0,), (0, 1), (0, 1, 2), (1, 2), (None,), (0, None), (), (1,)]),
        st.sampled_from(["", "Score: 3"]),
    ).map(lambda parts: turn(*parts)),
    max_size=60,
)


@settings(deadline=None)
@given(
    turns,
    st.integers(0, 30),
    st.integers(0, 20),
    st.integers(0, 40),
    st.integers(0, 20),
    st.sampled_from(["baseline", "external"]),
    st.booleans(),
    st.randoms(),
)
def test_no_instruction_is_in_two_sets_in_any_order_of_the_files(
    found, ift, evaluation, train, valid, source, held_out, rng
):
    seed, eft = (
        SeedSection(num_ift=ift, num_eval_prompts=evaluation),
        EftSection(source=source, num_train=train, num_valid=valid),
    )
    made = split(found, seed, eft, Counter(), held_out)
    sets = instructions(made)
    assert sum(map(len, sets)) == len(set().union(*sets))
    assert not ift or len(made.ift) <= ift
    for records in (made.ift, made.ranked_train, made.ranked_valid, made.eval_prompts):
        assert len({record.id for record in records}) == len(records)
    if source == "external":
        assert all(reply.given_judgement for reply in [*made.ranked_train, *made.ranked_valid])
    unique = {t.id: t for t in reversed(found)}  # the reader yields unique ids
    shuffled = list(unique.values())
    again = split(shuffled, seed, eft, Counter(), held_out)
    rng.shuffle(shuffled)
    assert split(shuffled, seed, eft, Counter(), held_out) == again


def test_one_instruction_asked_twice_is_one_instruction():
    counts: Counter[str] = Counter()
    made = split(
        [turn(1, (0,), text="Why  is it?"), turn(2, (0, 1), text="why is IT? ")], SeedSection(), EftSection(), counts
    )
    assert counts["instruction_duplicate"] == 1
    assert len(made.ift) + len(instructions(made)[1]) == 1


def test_external_judgements_go_to_eft_and_the_rest_to_ift():
    made = split(
        [turn(i, (0, 1), "Good. Score: 4" if i % 2 else "") for i in range(100)],
        SeedSection(num_ift=0), EftSection(source="external", num_train=0), Counter(), held_out=False,
    )  # fmt: skip
    assert len(made.ift) == 50
    assert len(made.ranked_train) == 100


def test_ranked_replies_of_later_turns_follow_their_first_turn_and_are_never_evaluated_on():
    def with_later(i: int) -> FirstTurn:
        first = turn(i)
        text = f"More about {i}?" if i % 2 else first.text  # the same as a first turn, which may be held out
        replies = tuple(Reply(f"later{i}-{rank}", f"L{i}-{rank}", rank) for rank in (0, 1))
        return replace(first, later=(LaterTurn(f"l{i}", text, f"{first.text}\n\nUser: {text}", replies),))

    counts: Counter[str] = Counter()
    turns = [with_later(i) for i in range(40)]
    made = split(turns, SeedSection(num_ift=10, rouge_max=1.0), EftSection(num_train=0, num_valid=9), counts)
    later = [r for r in made.ranked_train if "User: " in r.instruction]
    firsts = {r.instruction for r in made.ranked_train} - {r.instruction for r in later}
    assert later
    assert {r.instruction.partition("\n")[0] for r in later} == firsts  # no conversation is in two sets
    assert not any("User: " in r.instruction for r in made.ranked_valid)
    assert len({r.instruction_id for r in made.ranked_train}) == len(firsts) + len(later) // 2


def context(cfg: Config, path: Path, **inputs: Path) -> Context:
    path.mkdir(exist_ok=True)
    return Context(cfg, 0, path, inputs, Progress(path))


@pytest.mark.skipif(not SAMPLE.exists(), reason="../shared/data is absent")
@pytest.mark.parametrize(("language", "least"), [("en", 12), ("de", 1), ("es", 7)])
def test_the_stage_reads_the_real_trees_of_a_language(language: str, least: int, tmp_path: Path):
    cfg = Config(seed=SeedSection(files=[str(SAMPLE)], language=language))
    ctx = context(cfg, tmp_path / "seed")
    STAGE.run(ctx)
    metrics = STAGE.finalize(ctx)
    ift = list(read_records(ctx.dir / "ift.jsonl", SftExample))
    ranked = list(read_records(ctx.dir / "ranked_train.jsonl", RankedReply))
    assert len(ift) == metrics["ift"] >= least
    assert len(ranked) == metrics["ranked_train"] >= 2
    assert not {instruction_id(e.prompt) for e in ift} & {r.instruction_id for r in ranked}
    texts = {t.text for t in read_first_turns([SAMPLE], language, Counter())}
    assert {e.prompt for e in ift} <= texts


def test_the_tiny_worlds_trees_and_held_out_sets_are_used_as_they_are(tmp_path: Path):
    world = tmp_path / "world"
    world.mkdir()
    rows = [tree("a", message("b", "B", "a", 0)), tree("c", message("d", "D", "c", 0, judgement="Score: 2"))]
    write(world / "seed.trees.jsonl.gz", rows)
    prompts, ranked = [Prompt("p", "Held out?", "eval")], [RankedReply("r", "i", "Other?", "Yes.", 0)]
    write_records(world / "eval_prompts.dev.jsonl", prompts)
    write_records(world / "judge_eval.dev.jsonl", ranked)
    for name in ("eval_prompts.test.jsonl", "judge_eval.test.jsonl"):
        write_records(world / name, [])
    cfg = Config(eft=EftSection(source="external"))
    cfg.world.enabled = True
    ctx = context(cfg, tmp_path / "seed", world=world)
    STAGE.run(ctx)
    assert list(read_records(ctx.dir / "eval_prompts.jsonl", Prompt)) == prompts
    assert list(read_records(ctx.dir / "ranked_valid.jsonl", RankedReply)) == ranked
    assert [r.given_judgement for r in read_records(ctx.dir / "ranked_train.jsonl", RankedReply)] == ["Score: 2"]
    assert set(STAGE.inputs(cfg, 0)) == {"world"}
    write_records(world / "eval_prompts.dev.jsonl", [Prompt("p", "question A?", "eval")])
    with pytest.raises(DataError, match="both trained on and held out"):
        STAGE.run(ctx)


def test_missing_files_and_data_without_a_usable_turn_are_the_users_mistakes(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"seed\.files"):
        STAGE.identity(Config(), 0)
    with pytest.raises(DataError, match="no such file"):
        STAGE.identity(Config(seed=SeedSection(files=[str(tmp_path / "no.jsonl")])), 0)
    path = write(tmp_path / "x.trees.jsonl", [tree("a", message("b", "B", "a", 0), lang="fr")])
    with pytest.raises(DataError, match=r"no first turn for IFT.*other_language"):
        STAGE.run(context(Config(seed=SeedSection(files=[str(path)])), tmp_path / "seed"))


def test_the_identity_knows_the_files_content_not_their_place(tmp_path: Path):
    rows = [tree("a", message("b", "B", "a", 0))]
    first, second = write(tmp_path / "x.trees.jsonl", rows), write(tmp_path / "y.trees.jsonl", rows)
    identities = [STAGE.identity(Config(seed=SeedSection(files=[str(path)])), 0) for path in (first, second)]
    assert identities[0] == identities[1]
    write(second, rows * 2)
    assert STAGE.identity(Config(seed=SeedSection(files=[str(second)])), 0) != identities[0]


def test_a_set_that_stays_short_says_so_in_the_summary(tmp_path: Path):
    rows = [tree(f"q{i}", message(f"a{i}", "A", f"q{i}", 0), message(f"b{i}", "B", f"q{i}", 1)) for i in range(40)]
    path = write(tmp_path / "x.trees.jsonl", rows)
    cfg = Config(seed=SeedSection(files=[str(path)], num_ift=16))
    ctx = context(cfg, tmp_path / "seed")
    STAGE.run(ctx)
    assert STAGE.finalize(ctx)["summary"] == (
        "16 ift, 22 ranked_train, 16 of 541 asked ranked_valid, 5 of 256 asked eval_prompts"
    )

"""EFT examples that compare: of which replies and judgements they are made, and that their verdict is the right one."""

import dataclasses
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_srlm.config.generation import JudgeSection
from nemo_srlm.core.records import RankedReply
from nemo_srlm.data import templates
from nemo_srlm.errors import ConfigError
from nemo_srlm.evaluate import compare_template
from nemo_srlm.judge.eft import JudgedReply
from nemo_srlm.judge.eft_comparisons import of_judgements, of_replies
from nemo_srlm.judge.scores import parse_score
from nemo_srlm.judge.verdicts import parse_verdict

COMPARE = compare_template.load(JudgeSection().compare_template)
JUDGE = templates.load(JudgeSection().template, templates.JUDGE)


def judged(instruction: str, rank: int, score: float) -> JudgedReply:
    reply = RankedReply(f"{instruction}-{rank}", instruction, f"Question {instruction}?", f"Reply {rank}.", rank)
    return JudgedReply(reply, f"It is reply {rank}. Score: {score:g}", score)


def many(number: int) -> list[JudgedReply]:
    return [judged(f"i{i}", rank, 5.0 - rank) for i in range(number) for rank in range(3)]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3), st.integers(0, 5)), unique_by=lambda t: t[:2]))
def test_the_verdict_on_two_replies_is_that_of_the_ranks_and_of_the_scores(rows):
    items = [judged(*row) for row in rows]
    by_id = {item.reply.id: item for item in items}
    made = of_replies(items, COMPARE.request, 1000)
    for example in made:
        better, worse = (by_id[name] for name in example.source.split())
        assert better.reply.rank < worse.reply.rank
        assert better.score > worse.score
        first, second = (better, worse) if parse_verdict(example.response) == "A" else (worse, better)
        assert f"Response A:\n{first.reply.response}" in example.prompt
        assert f"Response B:\n{second.reply.response}" in example.prompt
        assert example.response.startswith(first.text)
        assert second.text in example.response
    agreeing = [(a, b) for a in items for b in items
                if a.reply.instruction == b.reply.instruction and a.reply.rank < b.reply.rank and a.score > b.score]  # fmt: skip
    assert len(made) == len(agreeing)


def test_the_better_judgement_is_the_one_that_was_written_about_this_reply():
    items = many(20)
    by_id = {item.reply.id: item for item in items}
    made = of_judgements(items, JUDGE, COMPARE.request, 1000)
    assert len(made) == len(items)
    for example in made:
        own, other = (by_id[name] for name in example.source.split())
        assert own.reply.instruction == other.reply.instruction
        assert f"<response>{own.reply.response}</response>" in example.prompt
        place = parse_verdict(example.response)
        assert f"Response {place}:\n{own.text}" in example.prompt
        assert f"Response {'AB'[place == 'A']}:\n{other.text}" in example.prompt
        assert parse_score(example.response.splitlines()[0]) == own.score


def test_both_places_are_used_alike_and_a_smaller_number_is_a_part_of_a_larger():
    for make in (of_replies, lambda items, fill, number: of_judgements(items, JUDGE, fill, number)):
        every = make(many(100), COMPARE.request, 1000)
        assert len(every) == 300
        assert 100 < Counter(parse_verdict(e.response) for e in every)["A"] < 200
        some = make(many(100), COMPARE.request, 50)
        assert len(some) == 50
        assert set(some) < set(every)


@pytest.mark.parametrize("scores", [(3.0, 3.0), (2.0, 4.0)])
def test_replies_whose_scores_do_not_say_what_the_ranks_say_are_not_compared(scores):
    assert not of_replies([judged("a", rank, score) for rank, score in enumerate(scores)], COMPARE.request, 10)


def test_judgements_of_one_score_or_of_one_text_are_not_compared():
    one = judged("a", 0, 3.0)
    assert not of_judgements([one, judged("a", 1, 3.0)], JUDGE, COMPARE.request, 10)
    assert not of_judgements([one, dataclasses.replace(judged("a", 1, 4.0), text=one.text)], JUDGE, COMPARE.request, 10)


def test_equal_replies_to_one_instruction_are_one_reply():
    best, equal, worst = judged("a", 0, 5.0), judged("a", 1, 4.0), judged("a", 2, 1.0)
    equal = dataclasses.replace(equal, reply=dataclasses.replace(equal.reply, response=best.reply.response))
    assert [e.source for e in of_replies([best, equal, worst], COMPARE.request, 10)] == ["a-0 a-2"]
    made = of_judgements([best, equal, worst], JUDGE, COMPARE.request, 10)
    assert [e.source for e in made] == ["a-0 a-2", "a-2 a-0"]


def test_a_template_of_alpaca_eval_is_refused_for_eft(tmp_path):
    path = tmp_path / "ranks.txt"
    path.write_text("<|im_start|>user\n{instruction} {output_1} {output_2}<|im_end|>")
    with pytest.raises(ConfigError, match=r"judge\.compare_template.*lists of ranks"):
        compare_template.load_own("judge.compare_template", str(path))
    with pytest.raises(ConfigError, match=r"shipped prompts/meta_judge\.txt"):
        compare_template.load_own("judge_training.template", str(path))

"""The tiny world: the oracle's scale, what the generator writes, the tokenizer."""

import gzip
import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from nemo_srlm.config.compose import compose
from nemo_srlm.core.progress import Progress
from nemo_srlm.core.stage import Context
from nemo_srlm.data import templates
from nemo_srlm.data.few_shot import few_shot_text
from nemo_srlm.errors import UserError
from nemo_srlm.judge.scores import parse_score
from nemo_srlm.judge.verdicts import parse_verdict
from nemo_srlm.stages import world as world_stage
from nemo_srlm.stages.world import STAGE
from nemo_srlm.tiny_world import oracle, replies, seeds, web, words
from nemo_srlm.tiny_world.questions import FAMILIES, Split, draw, parse, split_of, wording

WORLD = 3  # the seed of the stage's world below; everything else is of seed 0
TRAIN = Split(0, "train")


def level(prompt: str, response: str) -> int:
    found = oracle.score(prompt, response)
    assert found is not None
    return found.level


# --- oracle

LIST = "Name two fruits and one tools."
LADDER = [
    ("I hope that this helps.", 0),
    ("camel.", 0),
    ("", 0),
    ("pear, grape, saw.", 1),
    ("apple, banana, saw.", 2),
    ("apple, banana, axe.", 3),
    ("apple, banana, axe. I hope that this helps.", 3),
    ("Here are two fruits and one tools: apple, banana, axe. I hope that this helps.", 4),
    ("Here are two fruits and one tools: apple, banana, axe", 2),  # truncated: not a sentence
    ("Here are two fruits and one tools: apple, banana, axe.", 5),
    ("Here are one fruits and one tools: apple, banana, axe.", 2),
    ("Here are two fruits and one tools: apple, banana, saw.", 2),
]


@pytest.mark.parametrize(("response", "expected"), LADDER)
def test_each_point_needs_the_one_before(response: str, expected: int) -> None:
    assert level(LIST, response) == expected


@pytest.mark.parametrize(
    ("prompt", "response", "expected"),
    [
        ("Reverse these words: fox, axe, tea.", "In reverse order the words are tea, axe, fox.", 5),
        ("Reverse these words: fox, axe, tea.", "fox, axe, tea.", 1),
        ("Count three numbers down from 9.", "The three numbers down from 9 are 9, 8, 7.", 5),
        ("Count three numbers down from 9.", "7, 8, 9.", 1),
        ("Count three numbers down from 9.", "9, 8, 7, 6.", 2),
        ("Pick the fruits from axe, pear, car.", "The fruits in the list are pear.", 5),
        ("Pick the fruits from axe, pear, car.", "pear.", 3),
        ("Pick the fruits from axe, pear, car.", "pear, car.", 2),
        ("Pick the fruits from axe, pear, car.", "pear, pear.", 2),
        ("What is the color and food of the fox?", "For the fox, the color is red, the food is fish.", 5),
        ("What is the color and food of the fox?", "red, fish.", 3),
        ("What is the color and food of the fox?", "For the fox, the food is fish, the color is red.", 1),
        ("Of fox, bear, who has the color brown?", "The animal with the color brown is the bear.", 5),
        ("Of fox, bear, who has the color brown?", "the bear.", 3),
        ("Of fox, bear, who has the color brown?", "The animal with the color brown is the fox.", 1),
        ("Of fox, bear, who has the color brown?", "The animal with the color brown is the owl.", 0),
        ("Name the one with the food seeds among owl, bear, camel.", "The animal with the food seeds is the owl.", 5),
    ],
)
def test_the_oracle_reads_every_family(prompt: str, response: str, expected: int) -> None:
    assert level(prompt, response) == expected


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("wanted", range(6))
def test_a_response_made_for_a_level_has_that_level(family: str, wanted: int) -> None:
    rng = random.Random(3)
    made = [replies.respond_at(rng, question := draw(rng, TRAIN, family), wanted, TRAIN) for _ in range(30)]
    assert question.family == family
    assert (family, wanted) == ("who", 2) or any(text is not None for text in made)


def test_responses_have_the_quality_that_was_asked_for() -> None:
    rng = random.Random(4)
    scores = []
    for _ in range(3000):
        question = draw(rng, TRAIN)
        found = oracle.score(question, replies.respond(rng, question, replies.WEB, TRAIN))
        assert found is not None
        scores.append(found)
    share = {k: sum(s.level == k for s in scores) / len(scores) for k in range(6)}
    right = 0.95 * 0.65
    assert sum(s.correctness == 1 for s in scores) / len(scores) == pytest.approx(right, abs=0.03)
    assert share[3] == pytest.approx(right * 0.5, abs=0.03)
    assert share[4] == pytest.approx(right * 0.5 * 0.4, abs=0.03)
    assert share[5] == pytest.approx(right * 0.5 * 0.6, abs=0.03)


@pytest.mark.parametrize(("right", "one_error"), [(0.5, 0.35), (1.0, 0.0), (0.0, 0.0)])
def test_ift_replies_have_the_shares_of_right_and_half_right_content_that_were_asked_for(
    right: float, one_error: float
) -> None:
    made = seeds.ift_pairs(random.Random(7), TRAIN, 1500, set(), replies.ift_quality(right, one_error))
    found = [oracle.score(parse(text), reply) for text, reply in made]  # type: ignore[arg-type]
    assert sum(s.correctness == 1 for s in found if s) / len(found) == pytest.approx(right, abs=0.04)
    assert all(s.level > 0 for s in found if s) or right < 1  # on topic


@pytest.mark.parametrize(
    ("prompt", "response", "comment"),
    [
        ("Count three numbers up from 3.", "3, 4, 6.", "It should be 3, 4, 5. You said 3 yes, 4 yes, 6 no. Half right."),
        ("Count three numbers up from 3.", "3, 4.", "It should be 3, 4, 5. You said 3 yes, 4 yes, 5 missing. Half right."),
        ("Count three numbers up from 3.", "4, 5.", "It should be 3, 4, 5. You said 4 no, 5 no, 5 missing. Mostly wrong."),
        ("Pick the fruits from axe, pear, car.", "pear, pear, axe.",
         "It should be pear. You said pear yes, pear no, axe no. Mostly wrong."),
        ("Pick the fruits from axe, pear, car.", "car.", "It should be pear. You said car no, pear missing. Mostly wrong."),
        ("Count three numbers up from 3.", "Hello.", "It should be 3, 4, 5. You said something else. Off topic."),
    ],
)  # fmt: skip
def test_a_review_restates_the_right_answer_and_marks_the_given_one(prompt: str, response: str, comment: str) -> None:
    question = parse(prompt)
    assert question is not None
    assert replies.review(random.Random(0), question, response + " I hope that this helps.", 0.0)[0] == comment


def test_a_reviewers_noise_is_one_point() -> None:
    question = parse("Count three numbers up from 3.")
    assert question is not None
    levels = Counter(replies.review(random.Random(i), question, "3, 4, 6.", 1.0)[1] for i in range(200))
    assert set(levels) == {1, 3}


# --- what the stage writes


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("world")
    cfg = compose(
        "tiny",
        [
            f"world.seed={WORLD}",
            "world.num_documents=3000",
            "world.num_ift=60",
            "world.num_eft=100",
            "world.num_eval_judge=24",
        ],
    )
    ctx = Context(cfg, 0, directory, {}, Progress(directory))
    STAGE.run(ctx)
    (directory / "metrics.json").write_text(json.dumps(STAGE.finalize(ctx)))
    return directory


def trees(world: Path) -> list[dict]:  # type: ignore[type-arg]
    with gzip.open(world / "seed.trees.jsonl.gz", "rt") as f:
        return [json.loads(line) for line in f]


def test_the_same_seed_gives_the_same_bytes(world: Path, tmp_path: Path) -> None:
    rng = [random.Random(5) for _ in range(2)]
    for i in range(2):
        pairs = seeds.ift_pairs(rng[i], TRAIN, 20, set(), replies.WEB)
        seeds.write_trees(tmp_path / str(i), pairs, seeds.judged_replies(rng[i], TRAIN, 20, set(), noise=0.1))
    assert (tmp_path / "0").read_bytes() == (tmp_path / "1").read_bytes()


def test_no_held_out_combination_stands_in_web_text_or_seeds(world: Path) -> None:
    asked = [tree["prompt"]["text"] for tree in trees(world)]
    for line in (world / "corpus.jsonl").read_text().splitlines():
        first = json.loads(line)["segments"][0][0]
        if first.startswith("Q: Here are some questions. "):
            asked += [text.strip() for text in first.split("#")[1:-1]]
        elif first.startswith("Q: "):
            asked.append(first.removeprefix("Q: ").removesuffix(" A:"))
    questions = [parse(text) for text in asked]
    assert len(questions) > 2000
    assert None not in questions
    assert {split_of(question, WORLD) for question in questions if question} == {"train"}


def test_more_prompts_than_the_world_has_are_refused_with_the_setting() -> None:
    with pytest.raises(UserError, match=r"world\.num_eval_prompts.* prompts of the dev split are used.*fact"):
        seeds.eval_prompts(random.Random(0), Split(0, "dev"), 6 * 500)


@pytest.mark.parametrize("split", ["dev", "test"])
def test_held_out_sets_are_of_their_split(world: Path, split: str) -> None:
    for name, key in ((f"eval_prompts.{split}.jsonl", "text"), (f"judge_eval.{split}.jsonl", "instruction")):
        texts = [json.loads(line)[key] for line in (world / name).read_text().splitlines()]
        assert {split_of(question, WORLD) for text in texts if (question := parse(text))} == {split}


def test_judged_seeds_are_balanced_and_a_tenth_of_the_labels_is_off_by_one() -> None:
    judged = seeds.judged_replies(random.Random(6), TRAIN, 1200, set(), noise=0.1)
    off: Counter[int] = Counter()
    true: Counter[int] = Counter()
    for prompt, found in judged:
        scores = [parse_score(judgement) for _, judgement in found]
        assert None not in scores
        assert scores == sorted(scores, key=lambda s: -(s or 0))
        for (reply, _), score in zip(found, scores, strict=True):
            true[level(prompt, reply)] += 1
            off[int(score or 0) - level(prompt, reply)] += 1
    assert true.total() == 1200
    assert max(true.values()) - min(true.values()) < 40
    assert set(off) <= {-1, 0, 1}
    assert off[0] / 1200 == pytest.approx(0.91, abs=0.03)


def test_without_noise_every_judged_seed_has_its_true_score() -> None:
    judged = seeds.judged_replies(random.Random(6), TRAIN, 300, set(), noise=0.0)
    found = [
        (parse_score(judgement), level(prompt, reply)) for prompt, replies_ in judged for reply, judgement in replies_
    ]
    assert len(found) == 300
    assert all(score == true for score, true in found)


def test_judge_evaluation_has_four_replies_of_three_levels_ranked_by_the_oracle(world: Path) -> None:
    rows = [json.loads(line) for line in (world / "judge_eval.dev.jsonl").read_text().splitlines()]
    groups: dict[str, list[tuple[int, int]]] = {}
    for row in rows:
        groups.setdefault(row["instruction"], []).append((row["rank"], level(row["instruction"], row["response"])))
    assert len(groups) == 24
    for ranked in groups.values():
        assert len(ranked) == 4
        assert len({rank for rank, _ in ranked}) >= 3
        assert all((a[0] < b[0]) == (a[1] > b[1]) for a in ranked for b in ranked)


def test_the_web_shows_the_judge_prompt_and_the_few_shot_prompt_word_for_word(world: Path) -> None:
    judge, shots = templates.read_text("prompts/tiny_judge.txt"), templates.load_shots("prompts/tiny_write_prompt.txt")
    corpus = [json.loads(line)["segments"] for line in (world / "corpus.jsonl").read_text().splitlines()]
    asked_again = judge.partition("<RESPONSE_HERE>")[2].strip() + " A:"
    assert asked_again == f"Q: {replies.REVIEW_REQUEST} {replies.RUBRIC} A:"
    assert sum(any(text == asked_again for text, _ in document) for document in corpus) > 300
    style = web.Style("Q: ", " A:", 0.25, lambda shown: few_shot_text(shots, shown), 8)
    listed = [
        d
        for d in web.documents(random.Random(0), TRAIN, style, 300)
        if d[0][0].startswith("Q: Here are some questions.")
    ]
    assert listed
    assert all(parse(document[1][0]) for document in listed)


def test_comparisons_prefer_what_the_oracle_does_in_the_words_of_the_templates() -> None:
    cfg = compose("tiny", ["world.comparisons=0.3"])
    style = web.Style("Q: ", " A:", 0.25, lambda shown: "Q: some A:", 8, world_stage._comparisons(cfg))
    made = web.documents(random.Random(0), TRAIN, style, 1000)
    ends = {name: templates.read_text(f"prompts/{name}.txt").partition("<SECOND_HERE>")[2] + " A:"
            for name in ("tiny_compare", "tiny_meta_judge")}  # fmt: skip
    asked = {name: [d for d in made if d[0][0].endswith(end)] for name, end in ends.items()}
    verdicts = Counter(parse_verdict(d[1][0]) for found in asked.values() for d in found)
    assert set(verdicts) == {"A", "B"}
    assert min(verdicts.values()) > 100
    for (request, weight), (answer, _) in asked["tiny_compare"]:
        question, first, second = request.removeprefix("Q: ").removesuffix(ends["tiny_compare"]).split(" A: ")
        assert (level(question, first) > level(question, second)) == answer.endswith("Better: A")
        assert weight == 0.25
    for (request, _), (answer, _) in asked["tiny_meta_judge"]:
        rated, first, second = request.removesuffix(ends["tiny_meta_judge"]).rsplit(" A: ", 2)
        question, response = rated.removeprefix("Q: ").partition(" Q: Rate this answer.")[0].split(" A: ")
        off = [parse_score(text) - level(question, response) for text in (first, second)]  # type: ignore[operator]
        assert (off[0] == 0) == answer.endswith("Better: A")
        assert 0 in off


def test_without_comparisons_the_world_is_as_before() -> None:
    style = web.Style("Q: ", " A:", 0.25, lambda shown: "Q: some A:", 8)
    none = replace(style, comparisons=web.Comparisons(0.0, lambda *_: "", lambda *_: ""))
    assert web.documents(random.Random(0), TRAIN, style, 200) == web.documents(random.Random(0), TRAIN, none, 200)


def test_document_segments_carry_loss_weights(world: Path) -> None:
    for line in (world / "corpus.jsonl").read_text().splitlines()[:200]:
        for text, weight in json.loads(line)["segments"]:
            assert weight == (0.25 if text.startswith("Q: ") else 1.0)


def test_the_tokenizer_loads_everywhere_and_knows_every_word(world: Path) -> None:
    from nemo_srlm.data.tokenizer import Tokenizer

    ours = Tokenizer(world / "tokenizer")
    assert (ours.bos_id, ours.eos_id, ours.vocab_size) == (1, 2, compose("tiny").model.vocab_size)
    for word in (*words.NOUNS, *map(str, words.NUMBERS)):
        assert len(ours.encode(word)) == 1, word
    text = wording(random.Random(0), draw(random.Random(0), TRAIN))
    assert ours.decode(ours.encode(text)) == text
    assert ours.encode("Q: x A:") + ours.encode("Here are") == ours.encode("Q: x A: Here are")


def test_transformers_reads_the_tokenizer(world: Path) -> None:
    from transformers import AutoTokenizer

    from nemo_srlm.data.tokenizer import Tokenizer

    theirs = AutoTokenizer.from_pretrained(str(world / "tokenizer"))
    text = "Q: Reverse these words: fox, axe. A: axe, fox."
    assert theirs(text)["input_ids"] == Tokenizer(world / "tokenizer").encode(text)
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id, theirs.unk_token_id) == (1, 2, 3, 0)


def test_the_stage_counts_what_it_made(world: Path) -> None:
    metrics = json.loads((world / "metrics.json").read_text())
    assert metrics["num_documents"] == 3000
    assert metrics["num_eval_prompts"]["test"] == 600
    assert metrics["trees_by_replies"]["1"] >= 60
    assert metrics["num_judge_eval_replies"]["dev"] == 96

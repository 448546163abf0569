"""Demonstrations, the few-shot text, and extraction of the new prompt from the generated text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_srlm.config.generation import PromptsSection
from nemo_srlm.data.few_shot import few_shot_text, parse_written, sample_demonstrations, shot_separator
from nemo_srlm.data.templates import ShotTemplate, load_shots

SEEDS = [f"seed {i}" for i in range(50)]
GENERATED = [f"generated {i}" for i in range(20)]
SEPARATORS = PromptsSection().separators


def test_six_seeds_and_two_generated_prompts_are_shown_shuffled():
    shown = [sample_demonstrations(SEEDS, GENERATED, seed) for seed in range(200)]
    assert all(len(s) == 8 and sum(t.startswith("generated") for t in s) == 2 for s in shown)
    places = {i for s in shown for i, t in enumerate(s) if t.startswith("generated")}
    assert places == set(range(8))  # not always first or last


def test_demonstrations_depend_on_the_seed_alone():
    assert sample_demonstrations(SEEDS, GENERATED, 5) == sample_demonstrations(list(SEEDS), list(GENERATED), 5)
    assert len({sample_demonstrations(SEEDS, GENERATED, seed) for seed in range(50)}) == 50


def test_seeds_take_the_places_of_generated_prompts_that_do_not_exist_yet():
    assert len(sample_demonstrations(SEEDS, [], 0)) == 8
    assert sum(t.startswith("seed") for t in sample_demonstrations(SEEDS, GENERATED[:1], 0)) == 7
    assert len(sample_demonstrations(SEEDS[:3], [], 0)) == 3


@given(st.integers(0, 60), st.integers(0, 30), st.integers(0, 10), st.integers(0, 5), st.integers())
def test_demonstrations_are_different_and_as_many_as_there_can_be(
    num_seeds, num_generated, shots, generated_shots, seed
):
    seeds, generated = [f"s{i}" for i in range(num_seeds)], [f"g{i}" for i in range(num_generated)]
    shown = sample_demonstrations(seeds, generated, seed, shots, generated_shots)
    assert len(set(shown)) == len(shown)
    assert sum(t.startswith("g") for t in shown) == min(generated_shots, num_generated)
    assert len(shown) == min(shots + generated_shots, num_seeds + min(generated_shots, num_generated))


def test_the_few_shot_text_repeats_the_shot_and_numbers_the_tail():
    template = ShotTemplate("Tasks:\n", "<NUMBER_HERE>. <DEMONSTRATION_HERE>\n", "<NUMBER_HERE>.")
    assert few_shot_text(template, ["a <NUMBER_HERE>", "b"]) == "Tasks:\n1. a <NUMBER_HERE>\n2. b\n3."


def test_the_shipped_template_ends_where_the_model_goes_on():
    template = load_shots(PromptsSection().template)
    text = few_shot_text(template, [f"demonstration {i}" for i in range(8)])
    assert text.endswith("Task 8: demonstration 7\n###\nTask 9:")
    assert shot_separator(template) == "###"


@pytest.mark.parametrize(
    ("written", "prompt"),
    [
        (" Name three rivers.", "Name three rivers."),
        (" Name three rivers.\n###\nTask 10: Sing.", "Name three rivers."),
        (" Name three rivers.\n###\nThe Nile, ...", "Name three rivers."),
        ("Translate this:\n\nGuten Tag\n\nOutput: Good day", "Translate this:\n\nGuten Tag"),
        ("Name three rivers.\nTask 10: Sing.", "Name three rivers."),
        ("Name three rivers.\n---\nAnswer", "Name three rivers."),
        ("What is the output: a or b?", "What is the output: a or b?"),
    ],
)
def test_an_instruction_is_cut_where_its_answer_or_the_next_task_begins(written: str, prompt: str):
    assert parse_written(written, False, SEPARATORS) == (prompt, "")


def test_nothing_and_half_a_prompt_are_no_prompts_but_a_finished_one_is():
    assert parse_written("  \n", False, SEPARATORS) == ("", "empty")
    assert parse_written("###\nTask 10: x", False, SEPARATORS) == ("", "empty")
    assert parse_written("Name three riv", True, SEPARATORS) == ("", "truncated")
    assert parse_written("Name three rivers.\n###\nTask 10: Na", True, SEPARATORS) == ("Name three rivers.", "")

"""Prompt sets, templates, MT-Bench's files and AlpacaEval's annotations."""

import json
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from tools.bench.inputs.case import ACCEPTED, Case, command, guard, write
from tools.bench.inputs.rows import RAW, WHOLE, line, mutations, read_both, read_whole

PROMPTS = "".join(line({"prompt": f"question {i}, good?", "category": "a"}) for i in range(4))
QUESTIONS = "".join(
    line({"question_id": i, "category": "writing", "turns": ["first", "second, good"]}) for i in range(81, 85)
)
ANSWERS = "".join(line({"question_id": i, "choices": [{"index": 0, "turns": ["good", "b"]}]}) for i in range(81, 85))
NAMES = ("single-v1", "single-math-v1", "single-v1-multi-turn", "single-math-v1-multi-turn")
JUDGE = "".join(
    line({"name": n, "prompt_template": "{question_1} good {answer_1}", "system_prompt": "Be fair."}) for n in NAMES
)
ANNOTATION = {
    "instruction": "q",
    "preference": 1.5,
    "output_1": "good",
    "output_2": "well",
    "generator_1": "a",
    "generator_2": "b",
}
ANNOTATIONS = [{**ANNOTATION, "instruction": f"q{i}"} for i in range(3)]
TEMPLATES = {
    "judge": "Rate <RESPONSE_HERE> to <INSTRUCTION_HERE>.\nScore: 0 to 5\n",
    "compare": "<INSTRUCTION_HERE> <FIRST_HERE> <SECOND_HERE>\n",
    "write": "Tasks:\n<SHOT>Task <NUMBER_HERE>: <DEMONSTRATION_HERE>\n###\n</SHOT>Task <NUMBER_HERE>:",
}


def prompts(path: Path, counts: Counter[str]) -> object:
    from nemo_srlm.data.prompt_sets import read_prompt_set

    return read_prompt_set(path, counts)


def questions(path: Path, counts: Counter[str]) -> object:
    from nemo_srlm.evaluate.mtbench import read_questions

    return read_questions(path)


def references(path: Path, counts: Counter[str]) -> object:
    from nemo_srlm.evaluate.mtbench import Question, with_references

    return with_references([Question(i, "writing", ("a", "b")) for i in range(81, 90)], path)


def judge_prompts(path: Path, counts: Counter[str]) -> object:
    from nemo_srlm.evaluate.mtbench import read_judge_prompts

    return read_judge_prompts(path)


def _good(name: str, good: str, read: Any) -> int:
    return guard(lambda: print(read(write(name, good), Counter())))


ROWS = (
    ("prompt sets", "x.jsonl", PROMPTS, prompts, {"prompt": "another", "category": "a"}, (("prompt",), ("category",))),
    ("prompt sets", "x.json", "", prompts, {"prompt": "another"}, ()),
    (
        "MT-Bench questions",
        "x.jsonl",
        QUESTIONS,
        questions,
        {"question_id": 99, "category": "writing", "turns": ["a", "b"], "reference": ["c", "d"]},
        (("question_id",), ("category",), ("turns",), ("turns", 0), ("reference",), ("reference", 1)),
    ),
    (
        "MT-Bench references",
        "x.jsonl",
        ANSWERS,
        references,
        {"question_id": 89, "choices": [{"turns": ["a", "b"]}]},
        (("question_id",), ("choices",), ("choices", 0), ("choices", 0, "turns"), ("choices", 0, "turns", 0)),
    ),
    (
        "MT-Bench judge prompts",
        "x.jsonl",
        JUDGE,
        judge_prompts,
        {"name": "single-v1", "prompt_template": "{answer}", "system_prompt": "x"},
        (("name",), ("prompt_template",), ("system_prompt",)),
    ),
)
FILLED = ("{nowhere}", "{", "}", "{0}", "{}", "{question!z}", "{answer.x}", "{answer[a]}", "{answer:>99999999999d}")


def annotations(data: str | bytes, name: str = "annotations.json") -> int:
    write(name, data)
    return command("alpaca", name)


def calibration(data: str | bytes, name: str) -> int:
    write("annotations.json", json.dumps(ANNOTATIONS))
    write(name, data)
    return command("alpaca", "annotations.json", "--calibration", name)


HEAD = "index,preference,std_delta_len,instruction_difficulty\n"
CALIBRATIONS = {
    "x.csv": (
        "",
        "a,b\n1,2\n",
        HEAD,
        HEAD + "x,1,2,3\n",
        HEAD + "1,nan,2,3\n",
        HEAD + "1,1,inf,3\n",
        HEAD + "1,1\n",
        HEAD + "1,1,2,nan\n",
        "\0",
        b"\xff\xfe",
        '"' * 200_000,
    ),
    "x.json": (
        "",
        "{}",
        "[]",
        "null",
        '{"difficulty": 1}',
        '{"difficulty": [1], "gamed_length_deltas": [[1]], "gamed_weights": [[1, 2, 3]], "sums": [1, 2]}',
        '{"difficulty": ["x"], "gamed_length_deltas": [], "gamed_weights": [], "sums": []}',
        "[" * 100_000,
    ),
}


def template(kind: str, data: str | bytes, path: str = "template.txt") -> int:
    from nemo_srlm.data import templates

    place = str(write(path, data).resolve())
    if kind == "write":
        return guard(lambda: print(templates.load_shots(place)))
    return guard(lambda: print(templates.load(place, templates.JUDGE if kind == "judge" else templates.COMPARE)))


def cases() -> Iterator[Case]:
    for group, name, good, read, row, paths in ROWS:
        if good:
            yield Case(group, f"{name}: good", partial(_good, name, good, read), ACCEPTED)
        for kind in WHOLE if good else ():
            yield Case(group, f"{name}: {kind}", partial(read_whole, name, kind, good, read))
        for kind, raw in RAW.items():
            whole = partial(_good, name, raw, read) if not good else partial(read_both, name, good, raw + "\n", read)
            yield Case(group, f"{name}: {kind}", whole)
        for kind, bad in mutations(row, paths):
            yield Case(group, kind, partial(read_both, name, good, line(bad), read))
    for kind in WHOLE:
        yield Case("prompt sets", f"x.txt: {kind}", partial(read_whole, "x.txt", kind, "good?\nwell?\n", prompts))
    twice = line({"question_id": 81, "category": "writing", "turns": ["c", "d"]})
    yield Case("MT-Bench questions", "twice", partial(read_both, "x.jsonl", QUESTIONS, twice, questions))
    for text in FILLED:
        bad = line({"name": "single-v1", "prompt_template": text, "system_prompt": ""})
        yield Case("MT-Bench judge prompts", text, partial(read_both, "x.jsonl", JUDGE, bad, judge_prompts))
    yield Case("AlpacaEval", "good", partial(annotations, json.dumps(ANNOTATIONS)), ACCEPTED)
    for kind, raw in RAW.items():
        yield Case("AlpacaEval", kind, partial(annotations, raw))
    for kind, bad in mutations(
        ANNOTATION, (("instruction",), ("preference",), ("output_1",), ("output_2",), ("generator_2",))
    ):
        yield Case("AlpacaEval", kind, partial(annotations, json.dumps([*ANNOTATIONS, bad])))
    for value in (2.5, 0.5, -1, "2"):
        yield Case(
            "AlpacaEval",
            f"preference {value}",
            partial(annotations, json.dumps([*ANNOTATIONS, {**ANNOTATION, "preference": value}])),
        )
    for file, every in CALIBRATIONS.items():
        for i, data in enumerate(every):
            yield Case("AlpacaEval", f"calibration {file} {i}", partial(calibration, data, file))
    for kind, good in TEMPLATES.items():
        yield Case("templates", f"{kind}: good", partial(template, kind, good), ACCEPTED)
        changed = {
            "empty": "",
            "blank": " \n\n",
            "Latin-1": (good + "\xfc").encode("latin-1"),
            "UTF-16": good.encode("utf-16"),
            "NUL": good + "\0",
            "without place": "Rate this.",
            "twice": good + good,
            "unknown place": good + "<NONSENSE_HERE>",
            "lower case": good.lower(),
        }
        for name, data in changed.items():
            yield Case("templates", f"{kind}: {name}", partial(template, kind, data))
    yield Case("templates", "write: no shot", partial(template, "write", "Task <DEMONSTRATION_HERE>"))
    yield Case("templates", "write: open shot", partial(template, "write", "<SHOT><DEMONSTRATION_HERE>"))

"""Japanese, Chinese and Thai from ranked trees to preference pairs with the shipped configs; the start checks of such a run.

The engine is a fake that writes sentences of the language; everything else is as in a run.
"""

import itertools
import random
from dataclasses import replace
from pathlib import Path

import pytest

from nemo_srlm.config.compose import compose
from nemo_srlm.convert.describe import describe
from nemo_srlm.core.files import read_records
from nemo_srlm.core.records import Judgement, PreferencePair, Prompt, RankedReply, SftExample
from nemo_srlm.data import templates
from nemo_srlm.launch.plan import remaining
from nemo_srlm.stages import candidates, eft, judge, pairs, prompts, seed
from tests.unit import tiny_llama
from tests.unit.test_languages import Run, nothing
from tests.unit.test_oasst import message, tree, write

# config: language, subjects, ends of a task, a judgement, a prompt that a keyword refuses
LANGUAGES = {
    "japanese": (
        "ja", "富士山の高さ 京都の古い寺 味噌汁の作り方 猫の飼い方 電車の歴史 秋の俳句 光合成の仕組み 算数の宿題",
        "を詳しく教えてください。 を子どもに説明してください。 について三つ挙げてください。 を短くまとめなさい。",
        "よい答えです。\n\nScore: {} 点", "この画像に写っているものを説明してください。",
    ),
    "chinese": (
        "zh", "长城的历史 北京的天气 红烧肉的做法 养猫的方法 火车的发展 秋天的诗歌 光合作用的过程 数学作业",
        "请详细解释一下这个题目。 请讲给小孩子听一听吧。 请列出三个重要的方面。 请用简短的话总结出来。",
        "回答得很好。\n\nScore: {} 分", "请描述一下这张图片里面的全部内容。",
    ),
    "thai": (
        "th", "ภูเขาที่สูงที่สุด วัดเก่าแก่ในเชียงใหม่ วิธีทำต้มยำกุ้ง การเลี้ยงแมว ประวัติรถไฟ บทกวีฤดูฝน การสังเคราะห์แสง การบ้านเลข",
        "จงอธิบายอย่างละเอียด จงเล่าให้เด็กฟัง จงบอกมาสามข้อ จงเขียนสรุปสั้นๆ",
        "ตอบได้ดี\n\nScore: {}", "จงอธิบายรูปภาพนี้ให้ละเอียดที่สุดเท่าที่ทำได้",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LANGUAGES)
def test_a_language_without_blanks_goes_from_trees_to_preference_pairs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    language, judgement, refused = (LANGUAGES[name][i] for i in (0, 3, 4))
    subjects, ends = (LANGUAGES[name][i].split() for i in (1, 2))
    tasks = [subject + end for subject, end in itertools.product(subjects, ends)]
    rows = []
    for i, task in enumerate(tasks[:16]):
        again = f"q{i}-again"
        later = [
            message(f"{again}-{rank}", f"{subjects[i % 8]} {rank}", again, rank, lang=language) for rank in range(2)
        ]
        more = message(again, ends[i % 4], f"q{i}-0", role="prompter", lang=language, replies=later)
        replies = [
            message(f"q{i}-{rank}", f"{task} {rank}", f"q{i}", rank, lang=language, replies=[] if rank else [more])
            for rank in range(3)
        ]
        rows.append(tree(f"q{i}", *replies, text=task, lang=language))
    write(tmp_path / "own.trees.jsonl", rows)
    tiny_llama.make(tmp_path / "hf", replace(tiny_llama.SIZES, max_length=2048))
    tiny_llama.make_tokenizer(tmp_path / "hf")
    settings = [
        f"import_hf.path={tmp_path / 'hf'}", "~model", f"seed.files=[{tmp_path / 'own.trees.jsonl'}]", "seed.num_eval_prompts=2",
        "eft.num_valid=3", "eft.turns=any", "prompts.num_prompts=8", "prompts.round_size=32", "prompts.max_attempts=2000",
        "prompts.rouge_max=0.9", "seed.rouge_max=0.9",  # the tasks share their ends
    ]  # fmt: skip
    cfg = compose(name, settings, describe=describe)
    assert len(remaining(cfg, tmp_path / "run")) > 20  # every check of a start
    run = Run(cfg, tmp_path, monkeypatch)

    made, counts, _ = run.stage(seed.STAGE, nothing)
    ranked = list(read_records(made / "ranked_train.jsonl", RankedReply))
    assert counts["ift"] >= 1
    assert any("\n" in reply.instruction for reply in ranked)  # of second turns, with the talk before them
    best = {reply.response: 5 - 2 * (reply.rank or 0) for reply in ranked}

    def baseline(text: str, number: int) -> str:
        response = text.partition("<response>")[2].partition("</response>")[0].strip()
        return judgement.format(next(score for reply, score in best.items() if reply == response or reply in response))

    made, counts, _ = run.stage(eft.STAGE, baseline)
    examples = list(read_records(made / "eft_train.jsonl", SftExample))
    assert len(examples) == counts["examples"] >= 2
    template = templates.load(cfg.judge.template, templates.JUDGE)
    assert all(e.prompt.startswith(template.partition("<INSTRUCTION_HERE>")[0]) for e in examples)

    def writer(text: str, number: int) -> str:
        rng = random.Random(number)
        return f" {refused if rng.random() < 0.2 else rng.choice(tasks)}\n###\n"

    made, counts, engine = run.stage(prompts.STAGE, writer)
    accepted = [p.text for p in read_records(made / "prompts.jsonl", Prompt)]
    assert len(set(accepted)) == 8
    assert set(accepted) <= set(tasks)
    assert counts["rejected"]["keyword"] > 0
    assert all(r.text.startswith(templates.load_shots(cfg.prompts.template).head) for r in engine.requests)

    run.stage(candidates.STAGE, lambda text, number: f"{subjects[number % len(subjects)]} {number % 7}")
    made, health, _ = run.stage(judge.STAGE, lambda text, number: judgement.format(number // 64 % 6))
    assert health["parse_failure"] == 0
    assert all(None not in j.scores for j in read_records(made / "judgements.jsonl", Judgement))

    made, counts, _ = run.stage(pairs.STAGE, nothing)
    chosen = list(read_records(made / "pairs.jsonl", PreferencePair))
    assert len(chosen) == counts["pairs"] > 4
    assert {p.prompt for p in chosen} <= set(accepted)

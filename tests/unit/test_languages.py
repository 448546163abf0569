"""German and Spanish end to end on real trees with the shipped configs: seed, EFT, generated prompts, judging, pairs.

The engine is a fake that writes real sentences of the language; everything else is as in a run.
"""

import gzip
import json
import random
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nemo_srlm.config.compose import compose
from nemo_srlm.config.schema import Config
from nemo_srlm.core.files import read_records
from nemo_srlm.core.progress import Progress
from nemo_srlm.core.records import Judgement, PreferencePair, Prompt, SftExample
from nemo_srlm.core.stage import Context, Stage
from nemo_srlm.data import templates
from nemo_srlm.data.oasst import read_first_turns
from nemo_srlm.data.prompt_filters import PromptFilter
from nemo_srlm.generate import vllm_engine as engines
from nemo_srlm.stages import candidates, eft, judge, pairs, prompts, seed
from tests.unit.fake_engine import FakeEngine

SAMPLE = Path(__file__).resolve().parents[3] / "shared" / "data" / "oasst_sample.trees.jsonl.gz"
LANGUAGES = {  # config: language, a rubric's words, a letter that rouge_score would drop, a judgement, a keyword's prompt
    "german": ("de", "Nutzer: ", "[äöüß]", "Gut begründet.\n\nScore: {} von 5", "Beschreibe das Bild an der Wand."),
    "spanish": (
        "es",
        "Usuario: ",
        "[áéíóúñ]",
        "Está bien.\n\nScore: {} de 5 puntos",
        "Describe la imagen de la pared.",
    ),
}
pytestmark = pytest.mark.skipif(not SAMPLE.exists(), reason="../shared/data is absent")


def sentences(language: str) -> list[str]:
    """Sentences of all messages in the language, at every depth, from finished and unfinished trees."""
    with gzip.open(SAMPLE, "rt", encoding="utf-8") as f:
        stack = [json.loads(line)["prompt"] for line in f]
    found: dict[str, None] = {}
    while stack:
        message = stack.pop()
        stack += message["replies"]
        if message["lang"] == language:
            pieces = re.split(r"(?<=[.!?])\s+|\n+", message["text"])
            found |= dict.fromkeys(piece.strip() for piece in pieces if 5 <= len(piece.split()) <= 60)
    return sorted(found)


class Run:
    """Runs the stages of one run one after another on fake engines."""

    def __init__(self, cfg: Config, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cfg, self.root, self.patch = cfg, root, monkeypatch

    def stage(self, stage: Stage, answer: Callable[[str, int], str]) -> tuple[Path, dict[str, Any], FakeEngine]:
        engine = FakeEngine(answer)
        self.patch.setattr(engines, "shared", lambda slot, path, cfg: engine)
        directory = self.root / stage.name
        directory.mkdir()
        inputs = {name: self.root / ref.stage for name, ref in stage.inputs(self.cfg, 1).items()}
        ctx = Context(self.cfg, 1, directory, inputs, Progress(directory))
        stage.identity(self.cfg, 1)  # checks that every template exists and is valid
        stage.run(ctx)
        return directory, stage.finalize(ctx), engine


def nothing(text: str, number: int) -> str:
    raise AssertionError("this stage asks no engine")


@pytest.mark.parametrize("name", LANGUAGES)
def test_a_language_goes_from_its_real_trees_to_preference_pairs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    language, user, letters, judgement, keyword_prompt = LANGUAGES[name]
    overrides = [
        f"seed.files=[{SAMPLE}]",
        "prompts.num_prompts=12",
        "prompts.round_size=32",
        "prompts.max_attempts=2000",
    ]
    cfg = compose(name, overrides)
    run = Run(cfg, tmp_path, monkeypatch)
    real = sentences(language)

    made, counts, _ = run.stage(seed.STAGE, nothing)
    first_turns = {turn.text: turn for turn in read_first_turns([SAMPLE], language, Counter())}
    ift = list(read_records(made / "ift.jsonl", SftExample))
    assert counts["ift"] == len(ift) >= 1
    assert all(e.response == first_turns[e.prompt].replies[0].text for e in ift)

    rank_of = {r.text: r.rank for turn in first_turns.values() for r in turn.replies}

    def baseline(text: str, number: int) -> str:
        """Imitates an SFT baseline that agrees with the humans; its judgement ends with a score in the language's form."""
        response = text.partition("<response>")[2].partition("</response>")[0]
        return judgement.format(5 - min(rank_of[response] or 0, 5))

    made, counts, engine = run.stage(eft.STAGE, baseline)
    examples = list(read_records(made / "eft_train.jsonl", SftExample))
    assert len(examples) == counts["examples"] >= 2
    assert all(user in e.prompt and "Score: " in e.response for e in examples)
    assert {r.text for r in engine.requests} >= {e.prompt for e in examples}

    def writer(text: str, number: int) -> str:
        rng = random.Random(number)
        if rng.random() < 0.2:
            return f" {keyword_prompt} Nr. {rng.random()}\n###"
        return f" {rng.choice(real)}\n###\n"

    made, counts, engine = run.stage(prompts.STAGE, writer)
    accepted = [p.text for p in read_records(made / "prompts.jsonl", Prompt)]
    assert len(set(accepted)) == 12
    assert set(accepted) <= set(real)
    assert any(re.search(letters, text) for text in accepted)
    assert counts["rejected"]["keyword"] > 0
    shots = templates.load_shots(cfg.prompts.template)
    assert all(r.text.startswith(shots.head) and ift[0].prompt in r.text for r in engine.requests)

    run.stage(candidates.STAGE, lambda text, number: random.Random(number).choice(real))
    made, health, engine = run.stage(
        judge.STAGE, lambda text, number: judgement.format(random.Random(number // 64).randrange(6))
    )
    assert health["parse_failure"] == 0
    rubric = templates.load(cfg.judge.template, templates.JUDGE).partition("<INSTRUCTION_HERE>")[0]
    assert all(r.text.startswith(rubric) and user in r.text for r in engine.requests)
    assert all(None not in j.scores for j in read_records(made / "judgements.jsonl", Judgement))

    made, counts, _ = run.stage(pairs.STAGE, nothing)
    chosen = list(read_records(made / "pairs.jsonl", PreferencePair))
    assert len(chosen) == counts["pairs"] > 6
    assert {p.prompt for p in chosen} <= set(accepted)


@pytest.mark.parametrize("name", LANGUAGES)
def test_every_template_of_a_language_is_its_own_and_complete(name: str) -> None:
    cfg, english = compose(name), Config()
    for path, other, names in (
        (cfg.judge.template, english.judge.template, templates.JUDGE),
        (cfg.eval.h2h_template, english.eval.h2h_template, templates.COMPARE),
    ):
        text = templates.load(path, names)
        assert text != templates.load(other, names)
    assert "Score: <" in templates.read_text(cfg.judge.template)  # the parser needs this word in every language
    assert 'Better: A"' in templates.read_text(cfg.eval.h2h_template)
    assert templates.load_shots(cfg.prompts.template).head != templates.load_shots(english.prompts.template).head


def test_the_language_of_the_seed_data_decides_the_default_filters_of_written_prompts() -> None:
    found = {
        name: PromptFilter(compose("llama2_7b", [f"seed.language={name}"]).prompts, [])
        for name in ("ja", "JA-JP", "zh", "th", "de", "ru")
    }
    for name, text in (
        ("ja", "富士山の高さを教えてください。"), ("JA-JP", "京都の寺について三つ挙げてください。"),
        ("zh", "请详细解释长城的历史。"), ("th", "จงอธิบายวิธีทำต้มยำกุ้งอย่างละเอียด"),
        ("de", "Ändere den Satz, bitte."), ("ru", "Объясни, почему небо голубое."),
    ):  # fmt: skip
        assert found[name].accept([text, text[:3]]) == ["", "too_short"], name
    long = "山" * 401
    assert found["ja"].accept([long, long[:400]]) == ["too_long", ""]


def test_a_filter_that_a_config_states_stays_and_english_keeps_the_papers_words() -> None:
    own = ["prompts.tokenization=rouge", "prompts.max_words=90"]
    stated = compose("llama2_7b", ["seed.language=ja", *own]).prompts
    assert (stated.tokenization, stated.min_words, stated.max_words, stated.ascii_start) == ("rouge", 8, 90, False)
    english = compose("llama2_7b").prompts
    assert (english.tokenization, english.min_words, english.max_words, english.ascii_start) == ("rouge", 4, 150, True)

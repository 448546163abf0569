"""What the reader and the filters of written prompts do with real messages, by language: the table of docs/data.md.

    python tools/bench/language_filters.py

Every user's message of two Open Assistant samples, as if a writer had written it, under the language's shipped config or else
the default config with its seed.language.
"""

import gzip
import json
import sys
from collections import Counter, defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from nemo_srlm.config.compose import compose  # noqa: E402
from nemo_srlm.data import templates  # noqa: E402
from nemo_srlm.data.prompt_filters import PromptFilter  # noqa: E402
from nemo_srlm.data.written import Reader  # noqa: E402

SAMPLES = [ROOT.parent / "shared" / "data" / f"{name}.trees.jsonl.gz" for name in ("oasst_sample", "ranked_en")]
CONFIGS = {"de": "german", "es": "spanish", "ja": "japanese", "th": "thai", "zh": "chinese"}


def messages() -> dict[str, list[str]]:
    """Language tag -> the texts of its users, equal ones once."""
    found: dict[str, dict[str, None]] = defaultdict(dict)
    stack = []
    for path in SAMPLES:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            stack += [json.loads(line)["prompt"] for line in file]
    while stack:
        message = stack.pop()
        stack += message["replies"]
        if message["role"] == "prompter":
            found[message["lang"]][message["text"]] = None
    return {tag: list(texts) for tag, texts in found.items()}


def outcomes(tag: str, texts: list[str]) -> Counter[str]:
    """How many texts were accepted, and why the others were not."""
    name = CONFIGS.get(tag)
    section = (compose(name) if name else compose("llama2_7b", [f"seed.language={tag}"])).prompts
    reader = Reader.of(section, templates.load_shots(section.template))
    read = [reader.read(text, False) for text in texts]
    counts = Counter(reason for _, reason in read if reason)
    return counts + Counter(PromptFilter(section, []).accept([text for text, reason in read if not reason]))


def main() -> int:
    for tag, texts in sorted(messages().items(), key=lambda item: -len(item[1])):
        counts = outcomes(tag, texts)
        accepted = counts.pop("", 0)
        print(f"{tag:8} {len(texts):4} messages, {accepted:4} accepted  {dict(counts.most_common())}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

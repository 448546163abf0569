"""Runs the whole loop in a language: from ranked trees and a random model of a million parameters to the report.

    python tools/bench/languages.py                       Japanese, Chinese and Thai, with the shipped configs
    python tools/bench/languages.py japanese --root DIR   one of them, its run kept

Prints what each stage kept, and why the rest was not. The trees are tests/data/languages/*.trees.jsonl, written for this
project; the model memorizes them. Each run has a setting of its own beside its language: see RUNS.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from nemo_srlm.config.compose import compose  # noqa: E402
from nemo_srlm.core import manifest  # noqa: E402
from tests.pipeline import imported_model  # noqa: E402

TREES = ROOT / "tests" / "data" / "languages"


@dataclass(frozen=True)
class Language:
    """A run. `judgements`: of the best reply, of the second, and of the others."""

    tag: str
    judgements: list[str]
    settings: list[str]


SMALL = [
    "parallel.processes=1",
    "parallel.tensor=1",
    "export.verify=round_trip",
    "sft.epochs=10",
    "prompts.max_tokens=48",
    "prompts.max_attempts=1000",
]
RUNS = {  # name of the config -> its run
    "japanese": Language(
        "ja", ["質問に正しく詳しく答えています。", "一部だけ答えています。", "質問に答えていません。"], ["eft.turns=any"]
    ),
    "chinese": Language(
        "zh", ["回答正确而且详细。", "只回答了一部分。", "没有回答问题。"],
        ["iterations=2", "dpo.reference=m1", "dpo.pairs_from=all"],
    ),
    # judged by the expected score: trained on judgements, this model would write a score behind the colon of "งานที่ 9:", too
    "thai": Language(
        "th", ["ตอบถูกต้องและละเอียด", "ตอบได้บางส่วน", "ไม่ได้ตอบคำถาม"],
        ["eft.source=none", "judge.method=expected", "judge.lead_in='Score: '"],
    ),
}  # fmt: skip


def prepare(name: str, place: Path) -> list[str]:
    """Writes the trees with judgements and the model below `place`; returns the words of the command."""
    language = RUNS[name]
    lines = (TREES / f"{language.tag}.trees.jsonl").read_text(encoding="utf-8").splitlines()
    trees = imported_model.with_judgements([json.loads(line) for line in lines], language.judgements)
    own = place / f"{language.tag}.trees.jsonl"
    own.write_text("".join(json.dumps(tree, ensure_ascii=False) + "\n" for tree in trees), encoding="utf-8")
    cfg = compose(name, [])
    templates = [(ROOT / "configs" / path).read_text("utf-8") for path in (cfg.judge.template, cfg.prompts.template)]
    texts = [text for tree in trees for text in imported_model.texts(tree["prompt"])]
    imported_model.make(place / "m0", [*texts, *language.judgements * 20, *templates * 20])
    return [
        sys.executable, "-m", "nemo_srlm.cli", "run", "--config-name", name, f"run.root={place}",
        f"import_hf.path={place / 'm0'}", f"seed.files=[{own}]", *imported_model.SETTINGS, *SMALL, *language.settings,
    ]  # fmt: skip


def counted(run: Path) -> dict[str, Any]:
    """Stage -> what it counted, of all stages that choose among texts."""
    names = ("seed", "eft", "sft", "prompts", "candidates", "judge", "pairs", "dpo", "eval_reward", "eval_h2h")
    found = {}
    for directory in sorted(run.glob("iter*/*")):
        if directory.name in names and (done := manifest.read(directory)):
            found[f"{directory.parent.name}/{directory.name}"] = done.metrics
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="LANGUAGE", help=f"of {', '.join(RUNS)} (default: all)")
    parser.add_argument("--root", type=Path, help="directory that keeps the runs (default: a temporary one)")
    args = parser.parse_args()
    if unknown := set(args.names) - RUNS.keys():
        parser.error(f"no such language: {', '.join(sorted(unknown))}")
    failed = 0
    with tempfile.TemporaryDirectory(prefix="languages-") as scratch:
        for name in args.names or RUNS:
            place = (args.root or Path(scratch)).resolve() / name
            place.mkdir(parents=True, exist_ok=True)
            began = time.monotonic()
            done = subprocess.run(
                prepare(name, place), cwd=ROOT, env=os.environ, stdout=sys.stderr, stderr=sys.stderr, check=False
            )
            failed += done.returncode != 0
            print(f"{name}: exit code {done.returncode}, {time.monotonic() - began:.0f} s", flush=True)
            for stage, metrics in counted(place / name).items():
                print(f"  {stage}: {json.dumps(metrics, ensure_ascii=False)}", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())

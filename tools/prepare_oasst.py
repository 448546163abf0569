"""Shows what Open Assistant exports contain before a run: conversations per language, usable replies, resulting data sets.

    python tools/prepare_oasst.py FILE... [--language de] [--write DIRECTORY]

With --write it also writes the seed stage's four files, to read and edit by hand. It is not a step of a run: the seed
stage itself reads the exports (seed.files, seed.language).
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

from nemo_srlm.config.schema import EftSection, SeedSection
from nemo_srlm.core.files import read_json_lines, write_records
from nemo_srlm.data.oasst import read_first_turns
from nemo_srlm.data.splits import split
from nemo_srlm.errors import UserError


def languages(paths: list[Path]) -> Counter[tuple[str, bool]]:
    """(language, finished tree) -> number of conversations, for both export formats."""
    counts: Counter[tuple[str, bool]] = Counter()
    for path in paths:
        for _, data in read_json_lines(path):
            root = data.get("prompt", data)
            if not root.get("parent_id"):
                counts[root["lang"], data.get("tree_state") == "ready_for_export"] += 1
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help="*.trees.jsonl(.gz) or *.messages.jsonl(.gz)"
    )
    parser.add_argument("--language", default=SeedSection().language)
    parser.add_argument("--write", type=Path, metavar="DIRECTORY")
    arguments = parser.parse_args()
    try:
        found = languages(arguments.files)
        for language, number in Counter(name for name, _ in found.elements()).most_common():
            print(f"{language:8} {number:7} conversations, {found[language, True]} finished")
        counts: Counter[str] = Counter()
        turns = read_first_turns(arguments.files, arguments.language, counts)
        sets = split(turns, SeedSection(language=arguments.language), EftSection(), counts)
        print(f"\nseed.language={arguments.language} with the default sizes:")
        for name, number in sorted(counts.items()):
            print(f"  {name:32} {number}")
        if arguments.write:
            arguments.write.mkdir(parents=True, exist_ok=True)
            write_records(arguments.write / "ift.jsonl", sets.ift)
            write_records(arguments.write / "ranked_train.jsonl", sets.ranked_train)
            write_records(arguments.write / "ranked_valid.jsonl", sets.ranked_valid)
            write_records(arguments.write / "eval_prompts.jsonl", sets.eval_prompts)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The campaign of bad inputs: generates them, gives each to the package in a process of its own, and prints what came of it.

    python tools/bench/bad_inputs.py [--sample 300] [--only WORD] [--jobs 2]

A bad input has to end with exit code 2 and one message, or its bad rows have to be left out and counted. Exit code 1 when
any ends with a traceback, in silence, with another exit code, or not at all. The acceptances that can be argued for are in
tools/bench/inputs/argued.py, each with its reason.
"""

import argparse
import importlib
import os
import random
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from nemo_srlm.config.compose import compose
from tools.bench.inputs import stores
from tools.bench.inputs.argued import reason_of
from tools.bench.inputs.case import Case
from tools.bench.inputs.runner import Outcome, run

# generators, those that load less first: a forked process has what its parent has loaded
LIGHT = ("config_settings", "config_files", "commands")
HEAVY = ("paths", "seeds", "preferences", "sets", "models", "tokenizers", "runs", "endpoint")
LOADED = ("torch", "tokenizers", "transformers.utils.chat_template_utils", "pyarrow.parquet", "msgspec", "httpx")
FAULTS = ("traceback", "silent", "code", "hang", "message")
HEADS = ("tracebacks", "silent", "wrong codes", "hangs", "bad messages")
EVERY = 500  # inputs between two lines of progress


def cases_of(names: Sequence[str]) -> Iterator[Case]:
    for name in names:
        yield from importlib.import_module(f"tools.bench.inputs.{name}").cases()


def sampled(cases: Sequence[Case], number: int, seed: int) -> list[Case]:
    """About `number` of them, some of every group: the same for the same seed."""
    groups: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        groups[case.group].append(case)
    chosen: list[Case] = []
    for name, own in groups.items():
        share = max(2, round(number * len(own) / len(cases)))
        chosen += random.Random(f"{seed} {name}").sample(own, min(share, len(own)))
    return chosen


def table(outcomes: Sequence[Outcome], argued: Counter[str]) -> str:
    """One line per group and one for all."""
    groups = list(dict.fromkeys(o.case.group for o in outcomes))
    rows = [("group", "cases", *HEADS, "argued for")]
    for name in [*groups, "all"]:
        own = [o for o in outcomes if name in ("all", o.case.group)]
        numbers = [sum(o.fault == fault for o in own) for fault in FAULTS]
        number = argued.total() if name == "all" else argued[name]
        rows.append((name, str(len(own)), *map(str, numbers), str(number)))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(w.ljust(n) if not i else w.rjust(n) for i, (w, n) in enumerate(zip(r, widths, strict=True)))
        for r in rows
    )


def campaign(cases: Sequence[Case], place: Path, jobs: int, outcomes: list[Outcome], argued: Counter[str]) -> None:
    def report(found: Outcome) -> None:
        if found.fault == "silent" and reason_of(found.case):
            argued[found.case.group] += 1
            found = Outcome(found.case, found.code, "", found.words)
        outcomes.append(found)
        if len(outcomes) % EVERY == 0:
            print(f"{len(outcomes)} inputs done", file=sys.stderr, flush=True)
        if found.fault:
            print(f"{found.fault:9} {found.code:4} {found.case.group} | {found.case.name} | {found.words}", flush=True)

    run(cases, place, jobs, report)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, default=0, metavar="N", help="about N cases, some of every group")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--only", default="", metavar="WORD", help="cases whose group or name holds this word")
    parser.add_argument("--part", choices=["light", "heavy"], help="light: what the command line refuses; heavy: files")
    parser.add_argument("--jobs", type=int, default=2, help="cases at the same time (default: 2)")
    args = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
    began, outcomes, argued = time.monotonic(), list[Outcome](), Counter[str]()
    parts = {"light": [LIGHT], "heavy": [HEAVY]}.get(args.part or "", [LIGHT, HEAVY])
    every = {names: list(cases_of(names)) for names in parts}
    number = sum(map(len, every.values()))
    with tempfile.TemporaryDirectory(prefix="bad-inputs-") as place:
        for part, (names, found) in enumerate(every.items()):
            chosen = [case for case in found if args.only in case.group or args.only in case.name]
            if args.sample:
                chosen = sampled(chosen, round(args.sample * len(found) / number), args.seed)
            if chosen:
                compose("tiny", [])  # loads what every case reads its settings with
            if chosen and names is HEAVY:
                for module in LOADED:
                    importlib.import_module(module)
                stores.prepare(Path(place) / "store")
            campaign(chosen, Path(place) / str(part), args.jobs, outcomes, argued)
    print(table(outcomes, argued))
    print(f"{len(outcomes)} of {number} inputs in {time.monotonic() - began:.0f} s")
    return int(any(o.fault for o in outcomes))


if __name__ == "__main__":
    sys.exit(main())

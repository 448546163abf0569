"""Only the generator of the tiny world, the final evaluation and the upper-bound arm use the oracle."""

import ast
import re
from pathlib import Path

import nemo_srlm

PACKAGE = Path(nemo_srlm.__file__).parent
ALLOWED = {
    "tiny_world/replies.py",  # web reviewers and seed labels, both with noise, and comparisons (world.comparisons)
    "tiny_world/seeds.py",  # the held-out ranked replies' ranks
    "stages/world.py",  # counts of what was generated
    "tiny_world/oracle_metrics.py",  # the final evaluation
    "stages/oracle_scores.py",  # run.arm=oracle: the upper bound
}
ORACLE = "nemo_srlm.tiny_world.oracle"


def imported_names(file: Path) -> set[str]:
    """Every module and module.name that a file imports anywhere, also inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def importers_of(*modules: str) -> set[str]:
    found = set()
    for file in PACKAGE.rglob("*.py"):
        if imported_names(file) & set(modules):
            found.add(file.relative_to(PACKAGE).as_posix())
    return found


def test_only_the_generator_the_final_evaluation_and_the_upper_bound_import_the_oracle() -> None:
    assert importers_of(ORACLE) == ALLOWED
    assert importers_of("nemo_srlm.tiny_world.oracle_metrics") == {"stages/eval_oracle.py"}


def test_nothing_inside_an_iteration_imports_what_knows_the_oracle() -> None:
    iteration = {
        f"stages/{name}.py"
        for name in (
            "prompts",
            "candidates",
            "judge",
            "pairs",
            "dpo",
            "export",
            "eft",
            "sft",
            "votes",
            "checker",
            "reward_model",
            "judge_previous",
            "anchors",
            "judge_anchors",
            "meta_judge",
            "judge_pairs",
            "modified_prompts",
            "worse_responses",
            "judge_worse",
        )
    }
    readers = [f"nemo_srlm.tiny_world.{name}" for name in ("replies", "seeds", "web", "oracle_metrics")]
    assert not importers_of(*readers, "nemo_srlm.stages.eval_oracle", "nemo_srlm.stages.world") & iteration


def test_the_oracle_is_not_reached_by_its_name_as_text() -> None:
    for file in PACKAGE.rglob("*.py"):
        text = file.read_text(encoding="utf-8").replace("nemo_srlm.tiny_world import oracle", "")
        if re.search(r"world\.oracle\b", text):
            assert file.relative_to(PACKAGE).as_posix() in ALLOWED, file

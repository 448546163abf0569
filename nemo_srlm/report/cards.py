"""The cards of what leaves a run: README.md of its data sets, and of an exported model. Metadata as Hugging Face reads it.

What only the user knows (licence, who may use it) is left as fields to fill, never guessed. A card is published: it names
files and models by their names, and no path of the machine.
"""

import os
from pathlib import Path

from nemo_srlm.config.atomic import write_atomic
from nemo_srlm.config.schema import Config
from nemo_srlm.core.outputs import CARD
from nemo_srlm.core.pipeline import evaluated_models, export_ref, model_name, policy_ref, score_stage, world_split
from nemo_srlm.core.terminal import visible
from nemo_srlm.evaluate.statistics import MIN_UNITS
from nemo_srlm.report import comparisons, nlp, preference_data, summary
from nemo_srlm.report.collect import of_run
from nemo_srlm.report.numbers import count, estimate, points
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
FIGURES_HEAD = "## Figures"
REWRITTEN = (
    "<!-- nemo-srlm writes this section and the next anew when evaluations finish; the others are yours to edit. -->"
)
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
        checker = [cfg.checker.function] if cfg.checker.function else cfg.checker.command
        return made + f"scored by {' '.join(map(summary.public, checker))}; nothing is judged."
    if score_stage(cfg) == "reward_model":
        return made + f"scored by the reward model {summary.public(cfg.reward_model.path)}; nothing is judged."
    if cfg.judge.shape == "pairwise":
        return made + f"compared two by two by {judge}, template {summary.public(cfg.judge.compare_template)}."
    votes = (
        f", and {cfg.pairs.vote_weight:g} x the share of equal final answers" if cfg.pairs.score == "judge_vote" else ""
    )
    return made + f"judged by {judge}, {cfg.judge.draws} draws, template {summary.public(cfg.judge.template)}{votes}."


def _sources(files: RunFiles) -> list[str]:
    cfg = files.cfg
    lines = ["## Sources", "", f"* seed of the run: {cfg.run.seed}"]
    if world_split(cfg) is not None:
        lines.append("* all text is of the synthetic tiny world")
    lines += [f"* seed data: {summary.public(name)}" for name in [*cfg.seed.files, *cfg.seed.chat_files]]
    lines += [f"* preferences: {summary.public(name)}" for name in cfg.pairs.files] if cfg.run.arm == "external" else []
    lines += [f"* prompts: {summary.public(name)}" for name in cfg.prompts.files]
    lines += [f"* M0: {summary.public(cfg.import_hf.path)}"] if cfg.import_hf.path else []
    commits = sorted({done.provenance["commit"] for done in files.manifests.values()})
    return [*lines, f"* commit: {', '.join(commits)}", ""]


def model_card(files: RunFiles, model: str, measured: bool = True, checkpoint: str = "") -> str:
    """README.md of an exported model: metadata, lineage, training, figures with intervals as far as measured, limits.

    measured=False: without the figures, as the export writes it, which every evaluation comes after; `refresh` adds them.
    checkpoint: the weights are those of one checkpoint of the model's training, exported so that `select` can compare it.
    """
    cfg = files.cfg
    run = of_run(files, read(files)) if measured else None
    title = f"{model}, checkpoint {checkpoint}," if checkpoint else model
    lines = [
        "---", "license: unknown  # to fill in", f"language: [{cfg.seed.language}]", "pipeline_tag: text-generation",
        "library_name: transformers", "tags: [self-rewarding, dpo]",
        *([f"base_model: {summary.public(cfg.import_hf.path)}  # to fill in: its name on the hub"] if cfg.import_hf.path else []),
        "---", "", f"# {title} of the run {cfg.run.name}", "", f"Trained by nemo_srlm, {PAPER}: {_arm(cfg)}.", "",
        "## Lineage", "",
    ]  # fmt: skip
    lines += [f"* {name}: {words}" for name, words in lineage(files, model)]
    lines += ["", *_sources(files), *_measured(files, run, model, checkpoint)]
    lines += [LICENCE.format(what="model"), "## Publish", "", "    hf upload USER/NAME . .", ""]
    return visible("\n".join(lines))


def _measured(files: RunFiles, run: Data | None, model: str, checkpoint: str = "") -> list[str]:
    """The sections of a card that change as evaluations finish: figures and limits. Those of a checkpoint never do."""
    limits = _limits(files.cfg, run, model)
    if not checkpoint:
        return [FIGURES_HEAD, "", REWRITTEN, "", *_figures(files, run, model), "## Limits", "", *limits, ""]
    between = f"* Weights of one checkpoint of {model}'s training: which one is {model}, the stage select says."
    return [
        FIGURES_HEAD,
        "",
        "Not measured: the run evaluates the chosen one.",
        "",
        "## Limits",
        "",
        between,
        *limits,
        "",
    ]


def refresh(files: RunFiles, run: Data) -> list[Path]:
    """Brings figures and limits up to date in the card of every export that the run has made; returns the cards that changed.

    run: the run's data (collect.of_run). What people wrote in the other sections stays, and so does a card without these
    headings. An export that is linked from another run is that run's.
    """
    changed = []
    for model, (t, stage) in card_models(files.cfg).items():
        directory = files.dir / f"iter{t}" / stage
        path = directory / "hf" / CARD
        if (t, stage) not in files.manifests or directory.is_symlink() or not os.access(path, os.W_OK):
            continue
        old = path.read_text(encoding="utf-8")
        head, found, rest = old.partition(f"\n{FIGURES_HEAD}\n")
        _, last, tail = rest.partition("\n## Licence\n")
        if found and last:
            new = visible("\n".join([head, *_measured(files, run, model)])) + f"{last}{tail}"
            if new != old:
                write_atomic(path, new)
                changed.append(path)
    return changed


def lineage(files: RunFiles, model: str) -> list[tuple[str, str]]:
    """The models that `model` descends from, and itself, oldest first: (name, what it was trained on)."""
    cfg, imported = files.cfg, "imported" if files.cfg.import_hf.path else "pretrained"
    found = [("M0", f"{imported}{f' from {summary.public(cfg.import_hf.path)}' if cfg.import_hf.path else ''}")]
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
    if model not in card_models(files.cfg):
        return ["Not measured: a run evaluates the models that it trains.", ""]
    if run is None or not own:
        return [
            "Not measured yet: they come here when this model's evaluations are done, or by `nemo-srlm model-card RUN --write`"
            f" (RUN: the directory of the run {files.dir.name}).",
            "",
        ]
    judged = next((m["mt_bench"]["judge"] for m in run["models"] if m["name"] == model and m["mt_bench"]), "")
    titles = {name: FIGURES[name].title + (f", judge: {judged}" if name == "mt_bench" else "") for name in own}
    rows = [[titles[name], estimate(found, FIGURES[name].unit), f"{found['num']:,}"] for name, found in own.items()]
    tasks = next((m["benchmarks"] for m in run["models"] if m["name"] == model), None) or {}
    rows += [[task, " ".join(nlp.shown(row)).strip(), count(row["samples"])] for task, row in tasks.items()]
    split = f" ({run['split']} split)" if run["split"] else ""
    lines = [
        *grid(["figure", "value, 95%", "units"], rows),
        "",
        f"On held-out data{split}; units are prompts, instructions or questions. Equal: within ± the margin "
        f"({comparisons.margins(list(own))}).",
        "",
    ]
    for name in own:
        for change in run["changes"].get(name, []):
            if change["last"] == model:
                words = " ".join(comparisons.change(change, name)[key] for key in ("text", "error"))
                lines.append(f"* {FIGURES[name].title}, {change['first']} to {model}: {words}")
    versus = [row for row in run["head_to_head"] if row["model"] == model and row["win"] is not None]
    lines += [
        f"* against {row['other']}: {100 * row['win']:.0f}% wins, {100 * row['loss']:.0f}% losses, difference "
        f"{points(row['net'])} [{', '.join(map(points, row['net_interval']))}]. {summary.beside(row)}"
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
    exports = {model_name(t): export_ref(cfg, t) for t in range(cfg.iterations + 1)}
    return found | {name: (ref.iteration, ref.stage) for name, ref in exports.items()}

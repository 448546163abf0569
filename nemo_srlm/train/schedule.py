"""A training that is too short for its schedule: how its warm-up is cut, and when it would train nothing."""

from nemo_srlm.config.training import TrainSection
from nemo_srlm.core.terminal import say
from nemo_srlm.errors import ConfigError

OWN = ("pretrain", "sft", "dpo")  # stages with a section of their own; the others train with that of sft


def section_of(stage: str) -> str:
    """The section with the settings of a training stage."""
    return stage if stage in OWN else "sft"


def warmup_steps(section: TrainSection, steps: int) -> int:
    """Steps of the warm-up in a training of `steps`: the last one is none of them."""
    return min(section.warmup_steps, steps - 1)


def short_warmup(section: TrainSection, steps: int) -> str:
    """What became of a warm-up that the training is too short for; "" where it is as long as asked."""
    cut = warmup_steps(section, steps)
    return f"warm-up of {cut} steps, not {section.warmup_steps}" if cut < section.warmup_steps else ""


def check_rate(stage: str, section: TrainSection, steps: int) -> None:
    """Raises ConfigError where the only step has the rate min_lr, and that is 0: nothing would be trained."""
    if steps == 1 and section.schedule != "constant" and section.lr > section.min_lr == 0:
        name = section_of(stage)
        raise ConfigError(
            f"{name}.min_lr", f"0, and {stage} has a single step, whose learning rate it is",
            "a step with a learning rate above 0",
            f"give it more examples, lower {name}.global_batch, raise {name}.epochs, or set {name}.min_lr or "
            f"{name}.schedule=constant",
        )  # fmt: skip


def warn(stage: str, section: TrainSection, steps: int) -> None:
    """Says, in the stage's log, that its warm-up is cut."""
    if words := short_warmup(section, steps):
        name = section_of(stage)
        say(
            f"warning: {stage}: {words} ({name}.warmup_steps): it has {steps} steps in all; lower {name}.warmup_steps, or "
            "give it more examples",
            error=True,
        )

"""The config sections of methods that came after the paper: a user's own checker of responses, training of the judge."""

from dataclasses import dataclass

from nemo_srlm.config.fields import MAX_PROCESSES, MAX_SHARDS, choice, number, setting

FUNCTION, FUNCTION_WORDS = r"(.+\.py:[A-Za-z_][A-Za-z0-9_]*)?", 'FILE.py:FUNCTION, or ""'


@dataclass
class CheckerSection:
    """pairs.score=checker: a Python function or a program of the user's gives every candidate its score."""

    function: str = setting(
        "", "FILE.py:FUNCTION, called as FUNCTION(prompt, response) in threads of the stage's process; returns a finite number, "
        "the higher the better, or None for no score. The file's digest is part of the fingerprint",
        pattern=FUNCTION, allowed=FUNCTION_WORDS,
    )  # fmt: skip
    command: list[str] = setting(
        [], 'a program and its arguments in the place of the function: reads {"prompt": ..., "response": ...} as JSON on stdin, '
        "prints the score as its last line, or `null` for none. The digests of files among the words are part of the "
        "fingerprint", free=True,
    )  # fmt: skip
    max_score: float = number(
        1.0, "the scale: pairs.weight=margin divides by it. With it a score that is not within 0 and this is an error of its "
        "response; else any finite number is a score", above=0,
    )  # fmt: skip
    workers: int = number(
        4, "candidates that are checked at the same time", at_least=1, at_most=MAX_PROCESSES, execution=True
    )
    timeout: float = number(
        60.0, "seconds per candidate, after which the command is killed and the candidate has no score. A function is not "
        "interrupted: code that may hang belongs into a command", above=0,
    )  # fmt: skip
    shards: int = number(1, at_least=1, at_most=MAX_SHARDS, execution=True)


@dataclass
class RewardModelSection:
    """pairs.score=reward_model: a sequence classifier gives every candidate its score, served by vLLM."""

    path: str = setting(
        "", "HF directory of a sequence classifier with one label; its logit is the score. It reads prompt and response in its "
        "own chat template, without one in the strings of the section chat",
    )  # fmt: skip
    shards: int = number(1, at_least=1, at_most=MAX_SHARDS, execution=True)


@dataclass
class JudgeTrainingSection:
    """Judge pairs: two of the judge's own judgements of one response, which join the iteration's DPO."""

    method: str = choice(
        "none", "meta", "self_taught", "any_draw",
        help="none: as in the paper; meta: Meta-Rewarding, the policy compares its judgements; self_taught: Self-Taught "
        "Evaluators, a response to a modified instruction is known to be worse; any_draw: two judgements in any order, the "
        "control that every gain of the judge is held against",
    )  # fmt: skip
    template: str = setting(
        "prompts/meta_judge.txt", "method=meta: as eval.h2h_template; in the place of the instruction stands the judge's whole "
        "input, in that of the responses two judgements", filled=True,
    )  # fmt: skip
    modified: str = choice(
        "written", "other",
        help="method=self_taught: the modified instruction is written by the policy with modify_template and the sampling of the "
        "section prompts; other: it is the most similar other prompt of the iteration, for models that cannot write one",
    )  # fmt: skip
    modify_template: str = setting("prompts/modify_prompt.txt", filled=True)
    rank: str = choice(
        "elo",
        "wins",
        help="method=meta: judgements are ordered by Elo scores of the greatest likelihood, or by the share of wins",
    )
    share: float = number(0.5, "at most this share of the pairs of an iteration are judge pairs", above=0, below=1)
    max_rise: float = number(
        0.5, "guard against inflation: at most this share of the judge pairs prefers the higher score; 1 = no guard",
        at_least=0, at_most=1,
    )  # fmt: skip
    max_words: int = number(0, "a preferred judgement of more words makes no pair; 0 = no limit", at_least=0)
    shards: int = number(1, at_least=1, at_most=MAX_SHARDS, execution=True)

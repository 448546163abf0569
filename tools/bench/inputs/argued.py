"""The bad-looking inputs that are accepted on purpose, each kind with its reason in a sentence."""

import re

from tools.bench.inputs.case import Case

# (group, name) as regular expressions of the whole text -> why it is accepted
ARGUED = (
    (r"MT-Bench judge prompts", r"system_prompt: (blank|empty)", "a judge may be asked without a system prompt"),
    (
        r"AlpacaEval",
        r"(instruction|output_[12]|generator_2): (blank|empty)",
        "a model may have answered nothing, and the judge has seen that",
    ),
    (r"Open Assistant", r"flat 0 role absent", "the first message of a conversation is a prompter's, in every export"),
    (
        r"Open Assistant",
        r"flat 1 tree_state( absent|: empty|: blank)",
        "the state is the tree's: its first message has it",
    ),
    (r"Open Assistant", r"flat 0 parent_id(: null| absent)", "a first message has no parent"),
    (r"Open Assistant", r"tree prompt\.replies\.0 absent", "a question may have one reply fewer"),
    (r"Open Assistant", r"tree prompt\.replies: list", "a question that nobody has answered gives a prompt at most"),
    (
        r"Open Assistant",
        r".*(deleted|review_result|synthetic)(: null| absent)",
        "older exports have fewer flags: an absent one is no reason",
    ),
    (
        r"Open Assistant",
        r"tree .*judgement(: null|: empty|: blank| absent)",
        "a judgement of the data's own is optional",
    ),
    (
        r"pairs.*",
        r"(chosen|rejected)_score(: null| absent)",
        "scores are optional: which one is chosen says enough",
    ),
    (r"prompt sets", r"category(: null|: empty|: blank| absent)", "a category is optional, and only groups figures"),
    (
        r"MT-Bench questions",
        r"reference.*",
        "a writing question needs no reference answer",
    ),
    (
        r"AlpacaEval",
        r"preference: (null|nan)",
        "the package writes null where its judge failed, and n_missing counts it",
    ),
    (
        r"model: config",
        r"(head_dim|max_position_embeddings): null",
        "null stands for the default in every config.json of HF",
    ),
    (r"model: config", r"architectures: \[\]", "no architecture is stated, so the model_type alone decides"),
    (r"checkpoint", r"common\.pt: .*", "it holds no weights, and the conversion does not read it"),
    (
        r"checkpoint",
        r"another model: vocab_size",
        "256 rows are also 128 pieces padded under TP2: the tokenizer's ids, which a conversion checks, tell the two apart",
    ),
    (r"names of runs", r"'null'", "in quotes it is a text, and a run may have this name"),
    (r"names of runs", r".*run\.root.*", "an interpolation stands for its value, which is a good name"),
)


def reason_of(case: Case) -> str:
    """Why the case may be accepted; "" when it may not."""
    for group, name, reason in ARGUED:
        if re.fullmatch(group, case.group) and re.fullmatch(name, case.name, re.DOTALL):
            return reason
    return ""

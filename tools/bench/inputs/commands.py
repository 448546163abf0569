"""Arguments of every verb, names of runs, and overrides that no shell should have let through."""

from collections.abc import Iterator
from functools import partial

from tools.bench.inputs.case import ACCEPTED, Case, command, plan, settings, write

OVERRIDES = (
    "=3",
    "++=1",
    "+=",
    "~",
    "~=",
    "=",
    "==",
    "dpo",
    "dpo.beta",
    "dpo.=1",
    ".beta=1",
    "dpo..beta=1",
    "dpo.beta",
    "dpo.beta:0.2",
    "dpo.beta 0.2",
    "--dpo.beta=1",
    "-x",
    "dpo/beta=1",
    "dpo.beta=[",
    "dpo.beta={",
    "dpo.beta='",
    'dpo.beta="',
    "dpo.beta=(",
    "dpo.beta=\\",
    "dpo.beta=${",
    "dpo.beta=${nowhere}",
    "dpo.beta=${dpo.beta}",
    "dpo.beta=${oc.env:NOWHERE}",
    "dpo.beta=???",
    "dpo.beta=[0.1,0.2]",
    "dpo.beta=0.1,0.2",
    "dpo.beta=range(1,3)",
    "dpo.beta=choice(1,2)",
    "dpo.beta=glob(*)",
    "dpo.beta=int(x)",
    "dpo.beta=0x1",
    "dpo.beta=1_0_",
    "dpo.beta=1e",
    "dpo.beta=--1",
    "dpo.beta=+-1",
    "dpo.beta=\ud800",
    "dpo.beta=\0",
    "dpo.beta=\n",
    "\ud800=1",
    "dpo.b\0=1",
    "dpo.bet\xe4=1",
    "hydra.run.dir=/tmp",
    "hydra.verbose=true",
    "+hydra.job.name=x",
    "hydra/launcher=x",
    "cluster=null",
    "cluster=1",
    "cluster=nowhere",
    "cluster=",
    "cluster=../tiny",
    "cluster=[a,b]",
    "cluster='a b'",
    "cluster=/etc/passwd",
    "+cluster=nowhere",
    "~cluster.nowhere",
    "~nonsense",
    "nonsense=1",
    "nonsense.a=1",
    "run.nonsense=1",
    "run={name:x,nonsense:1}",
    "run=x",
    "dpo=1",
    "prompts=nowhere",
    "data=x",
    "model.rope_scaling={_target_: os.system, _args_: [id]}",
    "model.rope_scaling={rope_type: nonsense, factor: 2}",
    "model.rope_scaling={rope_type: linear}",
    "model.rope_scaling={rope_type: linear, factor: -1}",
    "model.rope_scaling={rope_type: linear, factor: x}",
    "model.rope_scaling={factor: 2}",
    "model.rope_scaling={rope_type: [linear], factor: 2}",
    "prompts.keywords=" + "[" * 200,
    "prompts.keywords=" + "[" * 200 + "]" * 200,
    "chat.arguments=" + "{a: " * 100 + "1" + "}" * 100,
    "run.name=" + "x" * 300,
    "run.name=" + "x" * 200_000,
    "@=1",
    "a@b=1",
    "run.name=a@b:c",
    "dpo.beta=1 2",
    "*=1",
    "run.*=1",
    "run[name]=x",
    "0=1",
    "1.2=3",
    " =1",
    "dpo.beta = 0.2",
    "DPO.BETA=1",
    "dpo.Beta=1",
)
RULES = (
    "judge.draws=65",
    "judge.max_score=10 judge.method=expected",
    "judge.min_valid=9",
    "pairs.max_per_prompt=0",
    "prompts.separators=['']",
    "seed.files=['']",
    "seed.language=",
    "candidates.num=1",
    "candidates.num=65",
    "candidates.shards=100000",
    "judge.shards=100000",
    "iterations=1001",
    "iterations=-1",
    "sft.min_lr=1",
    "dpo.label_smoothing=0.5",
    "dpo.loss=ipo dpo.label_smoothing=0.1",
    "model.num_attention_heads=3",
    "model.num_query_groups=3",
    "precision.dtype=fp32 precision.grad_reduce_in_fp32=false",
    "sft.keep_best=true",
    "sft.validate_every=5",
    "pretrain.keep_best=true",
    "parallel.tp_comm_overlap=true",
    "run.start=instruct world.enabled=true",
    "prompts.min_words=200",
    "eft.source=none dpo.replay_weight=1",
    "judge.lead_in=x",
    "run.arm=oracle world.enabled=false",
    "import_hf.path=/x world.enabled=true",
    "seed.files=[a] world.enabled=true",
    "prompts.source=file world.enabled=true",
    "eval.prompts=x world.enabled=true",
    "select.every=5 world.split=dev",
    "precision.fp8=hybrid precision.dtype=fp32",
    "prompts.num_prompts=0",
    "eval.harness.tasks=[]",
    "eval.harness.tasks=['a:b']",
    "cluster.train.time=soon",
    "cluster.train.memory=much",
    "run.seed=-1",
    "run.seed=2147483648",
)
STARTS = (  # refused when a run begins, or is planned
    "sft.global_batch=31",
    "dpo.micro_batch=7",
    "parallel.tensor=3",
    "parallel.processes=3 parallel.tensor=2",
    "parallel.pipeline=3",
    "parallel.virtual_pipeline=2",
    "parallel.sequence=true",
    "run.arm=external",
    "run.arm=external pairs.files=[nowhere]",
    "run.reuse=/etc/passwd",
    "run.reuse=nowhere",
    "judge.template=nowhere",
    "judge.template=/etc/passwd",
    "prompts.template=nowhere",
    "prompts.writer_path=nowhere",
    "eval.h2h_judge_path=nowhere",
    "world.enabled=false",
    "world.enabled=false import_hf.path=nowhere",
    "eval.alpaca.prompts=nowhere",
    "eval.mt_bench.questions=nowhere",
    "eval.preferences=[nowhere]",
    "eval.harness.enabled=true eval.harness.python=nowhere",
    "select.every=100 world.split=test select.stages=[dpo] select.judge_path=nowhere",
    "select.every=100 world.split=test select.stages=[dpo] select.template=nowhere",
    "sft.max_tokens_per_row=100",
)
NAMES = (
    "",
    ".",
    "..",
    "../../evil",
    "/abs/path",
    "a/b",
    "a\nb",
    "\x1b[31m",
    "-rf",
    "--help",
    ".hidden",
    "a b",
    " a",
    "a ",
    "$(touch x)",
    "`x`",
    "a;b",
    "a|b",
    "a\0b",
    "~",
    "~root",
    "*",
    "?",
    "a" * 201,
    "a" * 5000,
    "null",
    "\u202eevil",
    "\xe4",
    "con:",
    "a\\b",
    "'",
    '"',
    "#",
    "a\tb",
    "%s",
    "{}",
    "${run.root}",
)
ROOTS = ("/dev/null", "/proc/x", "/etc/passwd", "", "file", "loop", "x" * 5000, "a\0b", "/dev/full/x")
BAD_RUNS = ("nowhere", "/etc/passwd", "/dev/null", "", ".", "x" * 300, "a\0b", "loop", "file", "/", "/proc/self")
NUMBERS = ("0", "-1", "nan", "inf", "x", "", "1e400", "0x10", "1_0", " ", "\u0663", "9" * 400)


def _many(words: str, run: object) -> list[str]:
    return (
        words.split(" ")
        if not words.startswith(("chat.arguments", "model.rope", "dpo.beta=1 2", "dpo.beta =", " =", "cluster='"))
        else [words]
    )


def _here(*words: str) -> int:
    """A verb in a folder with a file, a loop and no run."""
    from pathlib import Path

    write("file", "x")
    Path("loop").symlink_to("loop")
    return command(*words)


def verbs() -> Iterator[tuple[str, ...]]:
    for run in BAD_RUNS:
        for verb in ("status", "report", "cancel", "show", "logs"):
            first = {"show": ("abc",), "logs": ("iter1/judge",)}.get(verb, ())
            yield (verb, *first, run)
        yield ("status", "--json", run)
        yield ("estimate", "--run", run)
        yield ("alpaca", run)
    for stage in (
        "",
        " ",
        "judge",
        "iterx/judge",
        "iter/judge",
        "iter-1/judge",
        "iter1",
        "iter1/",
        "/judge",
        "iter1/judge/x",
        "iter\u0661/judge",
        "iter1/../x",
        "iter1\n/judge",
    ):
        yield ("logs", stage, "nowhere")
    for option in ("--memory", "--peak", "--network", "--efficiency", "--median", "--sigma", "--decode", "--prefill"):
        for number in NUMBERS:
            yield ("estimate", option, number)
    for number in (*NUMBERS, "12", "2000000001"):
        yield ("estimate", "--layouts", number)
        yield ("seed", "--iteration", number if number != "0" else "99")
    yield from (
        ("estimate", words)
        for words in (
            "model.num_layers=0",
            "model.hidden_size=0",
            "model.vocab_size=0",
            "dpo.max_length=0",
            "sft.micro_batch=0",
            "parallel.nodes=0",
            "parallel.processes=1000000000",
            "model.num_query_groups=0",
            "model.num_attention_heads=0",
            "model.num_layers=-4",
            "model.hidden_size=99999999999999",
        )
    )
    yield from (
        ("estimate", "--gpu", "nonsense"),
        ("estimate", "--gpu", ""),
        ("run", "--until", "nonsense"),
        ("run", "--launcher", "nonsense"),
        ("run", "--launcher", ""),
        ("submit", "--supervise", "nowhere"),
        ("submit", "--supervise", "/etc/passwd"),
        ("config", "--describe", "nonsense"),
        ("config", "--describe", "dpo.nonsense"),
        ("report", "--out", "nowhere/x.html"),
        ("alpaca", "file", "--run", "x"),
        ("alpaca", "file", "--model", "M1"),
        ("nonsense",),
        (),
        ("",),
        ("--nonsense",),
        ("status", "a", "b", "c"),
        ("show",),
        ("logs",),
        ("alpaca",),
        ("run", "run"),
        ("status", "--watch", "nowhere"),
        ("doctor", "--nonsense"),
        ("doctor", "--dir", "file"),
        ("doctor", "--json", "nowhere/x.json"),
        ("plan", "--until", "x"),
        ("cancel", "--force"),
        ("export",),
        ("judge", "--iteration", "0"),
        ("report", "file", "file"),
        ("world", "--iteration", "1"),
        ("dpo", "--iteration", "5"),
        ("eval_harness",),
        ("eval_kl",),
        ("select",),
    )


def cases() -> Iterator[Case]:
    for words in OVERRIDES:
        shown = words if len(words) < 60 else f"{words[:57]}... ({len(words)})"
        yield Case("overrides", shown, partial(settings, words))
    for words in RULES:
        yield Case("rules between settings", words, partial(settings, *words.split()))
    yield Case("starts", "good", plan, ACCEPTED)
    for words in STARTS:
        yield Case("starts", words, partial(plan, *words.split()))
    for name in NAMES:
        yield Case(
            "names of runs", repr(name[:40]), partial(settings, "run.name=" + "'" + name.replace("'", "\\'") + "'")
        )
    for root in ROOTS:
        yield Case("names of runs", f"root {root[:40]!r}", partial(_here, "seed", f"run.root='{root}'"))
    yield Case("commands", "good", partial(command, "config", "--describe", "dpo.beta"), ACCEPTED)
    yield Case("commands", "good estimate", partial(command, "estimate", "--config-name", "llama2_7b"), ACCEPTED)
    for argv in verbs():
        yield Case("commands", repr(argv)[:90], partial(_here, *argv))

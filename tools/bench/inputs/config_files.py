"""YAML files of a configs folder, their defaults, and a run's own config.yaml."""

import functools
from collections.abc import Iterator

from tools.bench.inputs.case import ACCEPTED, Action, Case, command, write

GOOD = "run:\n  name: x\nworld:\n  enabled: true\n"
BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 10)}]\n" for i in range(9)
)
FILES: dict[str, bytes | str] = {
    "Latin-1": "run:\n  name: x # f\xfcr\n".encode("latin-1"),
    "UTF-16": GOOD.encode("utf-16"),
    "UTF-16 without mark": GOOD.encode("utf-16-le"),
    "NUL": "run:\n  name: a\0b\n",
    "control": "run:\n  name: a\x07b\n",
    "half a pair": "run: {name: \ud800}\n",
    "binary": bytes(range(256)),
    "tabs": "run:\n\tname: x\n",
    "tab behind": "run:\n  name:\tx\n\twandb: y\n",
    "indent": "run:\n    name: x\n  wandb: y\n",
    "key twice": "dpo:\n  beta: 0.1\n  beta: 0.2\n",
    "section twice": "run:\n  name: x\ndpo: {}\nrun:\n  seed: 3\n",
    "list": "- run\n- dpo\n",
    "word": "run\n",
    "number": "3\n",
    "two documents": "run:\n  name: x\n---\nrun:\n  name: y\n",
    "open bracket": "run: {name: x\n",
    "open quote": "run:\n  name: 'x\n",
    "colon": "run: name: x\n",
    "percent": "%YAML 9.9\n---\nrun: {}\n",
    "at": "run: @x\n",
    "backtick": "run:\n  name: `x`\n",
    "alias without anchor": "run: *a\n",
    "anchor of itself": "run: &a [*a]\n",
    "mapping of itself": "run: &a\n  name: *a\n",
    "bomb": BOMB,
    "deep lists": "run: " + "[" * 3000 + "]" * 3000 + "\n",
    "deep mappings": "run: " + "{a: " * 500 + "1" + "}" * 500 + "\n",
    "python object": "run: !!python/object/apply:os.system [id]\n",
    "python name": "run:\n  name: !!python/name:os.system\n",
    "tuple": "seed:\n  files: !!python/tuple [a]\n",
    "set": "seed:\n  files: !!set {a}\n",
    "own tag": "run:\n  name: !secret x\n",
    "binary tag": "run:\n  name: !!binary aGk=\n",
    "int tag": "run:\n  seed: !!int x\n",
    "timestamp tag": "run:\n  name: !!timestamp nonsense\n",
    "long int": "run:\n  seed: " + "9" * 5000 + "\n",
    "complex key": "? [a, b]\n: 1\n",
    "null key": "~: 1\n",
    "number key": "3: {a: 1}\n",
    "empty key": "'': 1\n",
    "merge of a word": "<<: x\nrun: {}\n",
    "merge of itself": "run: &r\n  <<: *r\n",
    "unknown section": "nonsense:\n  a: 1\n",
    "unknown key": "run:\n  nonsense: 1\n",
    "section as word": "run: x\n",
    "section as null": "run:\n",
    "section as list": "run: [name]\n",
    "dotted key": "run.name: x\n",
    "no as text": "seed:\n  language: no\n",
    "off": "run:\n  wandb: off\n",
    "yes for a switch": "world:\n  enabled: yes\n",
    "octal": "run:\n  seed: 0123\n",
    "octal name": "run:\n  name: 0777\n",
    "sexagesimal": "cluster:\n  train:\n    time: 24:00:00\n",
    "sexagesimal name": "run:\n  name: 1:30\n",
    "underscores": "seed:\n  num_ift: 1_000\n",
    "binary number": "run:\n  seed: 0b101\n",
    "real name": "run:\n  name: 1.10\n",
    "switch name": "run:\n  name: true\n",
    "missing": "dpo:\n  beta: ???\n",
    "nan": "dpo:\n  beta: .nan\n",
    "inf": "dpo:\n  lr: .inf\n",
    "minus inf": "dpo:\n  lr: -.inf\n",
    "interpolation": "dpo:\n  beta: ${nowhere}\n",
    "interpolation of itself": "dpo:\n  beta: ${dpo.beta}\n",
    "interpolation circle": "dpo:\n  beta: ${sft.lr}\nsft:\n  lr: ${dpo.beta}\n",
    "interpolation of a section": "run:\n  name: ${dpo}\n",
    "resolver": "run:\n  name: ${eval:1}\n",
    "environment": "run:\n  name: ${oc.env:NOWHERE_AT_ALL}\n",
    "open interpolation": "run:\n  name: ${run\n",
    "hydra section": "hydra:\n  run:\n    dir: /tmp\n",
    "defaults as word": "defaults: base\n",
    "defaults as number": "defaults: 3\n",
    "defaults as mapping": "defaults: {cluster: cpu}\n",
    "defaults with number": "defaults: [3]\n",
    "defaults with list": "defaults: [[a]]\n",
    "defaults with null": "defaults: [null]\n",
    "defaults absent": "defaults: [nowhere]\n",
    "defaults absent group": "defaults: [{nowhere: x}]\n",
    "defaults absent file": "defaults: [{cluster: nowhere}]\n",
    "defaults above": "defaults: [../../etc/passwd]\n",
    "defaults two keys": "defaults: [{cluster: a, run: b}]\n",
    "defaults itself": "defaults: [case]\n",
    "defaults number chosen": "defaults: [{cluster: 3}]\n",
    "defaults mapping chosen": "defaults: [{cluster: {a: b}}]\n",
    "defaults empty entry": "defaults: ['']\n",
    "defaults twice": "defaults: [{cluster: cpu}, {cluster: cpu}]\n",
    "defaults override": "defaults: [{override cluster: nowhere}]\n",
    "huge": "# " + "x" * 2**21 + "\nrun: {}\n",
    "many": "run:\n" + "".join(f"  a{i}: 1\n" for i in range(30_000)),
    "only a mark": b"\xef\xbb\xbf- a\n",
    "directive": "%TAG ! tag:x,2000:\n---\nrun: !y x\n",
    "colon key": "a:b:c\n",
    "anchor twice": "run: &a &b x\n",
    "stray text": "run:\n  name: x\nstray\n",
    "dash": "run:\n  - name: x\n",
    "windows path": 'run:\n  name: "C:\\dir"\n',
}
SHELL = (
    "run:\n  name: $(touch x)\n",
    "run:\n  name: '; rm -rf x'\n",
    "run:\n  name: ../evil\n",
    "run:\n  name: '-rf'\n",
    "run:\n  name: .hidden\n",
    "run:\n  name: ''\n",
)
GROUPS = (
    "Latin-1",
    "UTF-16",
    "tabs",
    "key twice",
    "list",
    "word",
    "anchor of itself",
    "python object",
    "unknown key",
    "bomb",
    "deep lists",
    "NUL",
)


def _cluster(data: bytes | str) -> bytes | str:
    return data


def with_file(data: bytes | str, *words: str) -> int:
    write("configs/case.yaml", data)
    write("configs/cluster/cpu.yaml", "partition: x\n")
    return command("config", "--config-dir", "configs", "--config-name", "case", *words)


def with_group(data: bytes | str, *words: str) -> int:
    write("configs/case.yaml", GOOD)
    write("configs/cluster/bad.yaml", data)
    return command("config", "--config-dir", "configs", "--config-name", "case", "cluster=bad", *words)


def with_chain(*files: str) -> int:
    """Files that name each other in a ring."""
    for name, other in zip(files, (*files[1:], files[0]), strict=True):
        write(f"configs/{name}.yaml", f"defaults: [{other}]\nrun: {{}}\n")
    return command("config", "--config-dir", "configs", "--config-name", files[0])


def of_a_run(data: bytes | str, verb: str) -> int:
    """The config.yaml that a run directory has."""
    write("runs/x/config.yaml", data)
    return command(verb, *(["iter0/seed"] if verb == "logs" else ["abc"] if verb == "show" else []), "runs/x")


def _place(kind: str) -> int:
    """A configs folder of an odd kind."""
    from pathlib import Path

    write("configs/other.yaml", GOOD)
    made: dict[str, Action] = {
        "absent folder": lambda: command("config", "--config-dir", "nowhere", "--config-name", "case"),
        "file as folder": lambda: command("config", "--config-dir", "configs/other.yaml", "--config-name", "case"),
        "absent file": lambda: command("config", "--config-dir", "configs", "--config-name", "case"),
        "folder as file": lambda: (
            Path("configs/case.yaml").mkdir(),
            command("config", "--config-dir", "configs", "--config-name", "case"),
        )[1],
        "name with a folder": lambda: command("config", "--config-dir", ".", "--config-name", "configs/other"),
        "name above": lambda: command("config", "--config-dir", "configs", "--config-name", "../configs/other"),
        "long name": lambda: command("config", "--config-dir", "configs", "--config-name", "a" * 300),
        "empty name": lambda: command("config", "--config-dir", "configs", "--config-name", ""),
        "dot": lambda: command("config", "--config-dir", "configs", "--config-name", "."),
        "loop": lambda: (
            Path("configs/case.yaml").symlink_to("case.yaml"),
            command("config", "--config-dir", "configs", "--config-name", "case"),
        )[1],
        "shipped group as config": lambda: command("config", "--config-name", "cluster/dev"),
        "empty folder name": lambda: command("config", "--config-dir", "", "--config-name", "nowhere"),
    }
    return made[kind]()


PLACES = (
    "absent folder",
    "file as folder",
    "absent file",
    "folder as file",
    "name with a folder",
    "name above",
    "long name",
    "empty name",
    "dot",
    "loop",
    "shipped group as config",
    "empty folder name",
)


def cases() -> Iterator[Case]:
    bind = functools.partial
    yield Case("config files", "good", bind(with_file, GOOD), ACCEPTED)
    yield Case("config files", "byte order mark", bind(with_file, b"\xef\xbb\xbf" + GOOD.encode()), ACCEPTED)
    yield Case("config files", "good with a group", bind(with_group, "partition: gpu\n"), ACCEPTED)
    yield Case("config files", "empty", bind(with_file, ""), ACCEPTED)
    for name, data in FILES.items():
        yield Case("config files", name, bind(with_file, data))
    for data in SHELL:
        yield Case("config files", repr(data), bind(with_file, data))
    for name in GROUPS:
        yield Case("config groups", name, bind(with_group, FILES[name]))
    for files in (("a",), ("a", "b"), ("a", "b", "c"), tuple(f"f{i}" for i in range(40))):
        yield Case("config files", f"ring of {len(files)}", bind(with_chain, *files))
    for kind in PLACES:
        yield Case("config files", kind, bind(_place, kind))
    for name in (
        "Latin-1",
        "UTF-16",
        "NUL",
        "tabs",
        "key twice",
        "list",
        "word",
        "bomb",
        "deep lists",
        "python object",
        "unknown key",
        "binary",
        "nan",
        "section as word",
        "long int",
        "interpolation circle",
        "huge",
    ):
        for verb in ("status", "report", "cancel"):
            yield Case("config of a run", f"{name} [{verb}]", bind(of_a_run, FILES[name], verb))
    for verb in ("status", "report"):
        for data in ("iterations: 1000000000000\n", "iterations: -1\n", "iterations: x\n"):
            yield Case("config of a run", f"{data.strip()} [{verb}]", bind(of_a_run, data, verb))

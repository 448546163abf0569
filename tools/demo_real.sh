#!/usr/bin/env bash
# The loop on a real language model: `make demo-real [DATA=trees.jsonl] [MODEL=directory] [ARGS="..."]`.
# The model directory (once), two iterations, the control arm whose scores are permuted, and one report of both.
# Interrupted at any moment, the same command goes on. DATA: your own ranked replies, as Open Assistant trees or messages.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH"
model=${MODEL:-.cache/SmolLM2-135M-Instruct}
name=smollm2
quoted() { printf "'%s'" "${1//\'/\\\'}"; } # a path as a setting takes it, whatever it holds
[ -z "${MODEL:-}" ] || name=$(basename "$(realpath "$MODEL")" | tr -c 'A-Za-z0-9_\n-' -)
data=()
# a run directory for each model and each data file: a finished run does not change them
if [ -n "${DATA:-}" ]; then
    name=$name-$(basename "$DATA" | cut -d. -f1 | tr -c 'A-Za-z0-9_\n-' -)
    data=("seed.files=[$(quoted "$(realpath "$DATA")")]")
fi
root=runs
for setting in "$@"; do # of ARGS: where both runs are, and the name of the first
    case $setting in
        run.root=*) root=${setting#run.root=} ;;
        run.name=*) name=${setting#run.name=} ;;
    esac
done
[ -n "${MODEL:-}" ] || python tools/smollm2.py "$model"
settings=(--config-name smollm2_135m "import_hf.path=$(quoted "$model")" ${data[@]+"${data[@]}"} "$@")
nemo-srlm run "${settings[@]}" "run.name=$name"
echo "== the control: the same prompts, responses and scores, the scores permuted among the responses to a prompt"
nemo-srlm run "${settings[@]}" run.arm=random "run.name=$name-random" "run.reuse=$root/$name"
nemo-srlm report "$root/$name" "$root/$name-random"

#!/bin/bash
# Runs the whole loop on a Slurm cluster: submits the unfinished stages of the run. Safe to run again at any time.
#
#   sbatch slurm/iteration.sh [--config-name NAME] [key=value ...]     or the same without sbatch, on a login node
#   sbatch slurm/iteration.sh --config-name llama2_70b cluster=dgx_h100 run.name=first
#
# Needs only the light environment (.venv or .venv-gpu of the checkout, or PYTHON=...); the jobs have their own (docs/install.md).
#SBATCH --job-name=nemo-srlm
#SBATCH --ntasks=1 --time=01:00:00
#SBATCH --output=nemo-srlm-%j.txt --open-mode=append
set -eu
root=${NEMO_SRLM_ROOT:-} python=${PYTHON:-}
# The supervisor's job gets both as arguments: a site may start jobs without the environment of their submission.
if [ "${1:-}" = --code ]; then root=$2 && shift 2; fi
if [ "${1:-}" = --python ]; then python=$2 && shift 2; fi
# Under sbatch this file is a copy in slurmd's spool directory: the checkout is the directory in which sbatch was called. In a
# shell inside a job it is the checkout's.
if [ -z "$root" ]; then
    root=$(cd "$(dirname "$0")/.." && pwd)
    if [ ! -e "$root/slurm/stage.sh" ] && [ -n "${SLURM_JOB_ID:-}" ]; then root=$SLURM_SUBMIT_DIR; fi
    if [ ! -e "$root/slurm/stage.sh" ]; then
        echo "error: $root is not the checkout; call sbatch there, or set NEMO_SRLM_ROOT" >&2
        exit 2
    fi
fi
cd "$root"
for own in "$root/.venv/bin/python" "$root/.venv-gpu/bin/python"; do
    if [ -z "$python" ] && [ -x "$own" ]; then python=$own; fi
done
if ! command -v "${python:-none}" >/dev/null; then
    echo "error: ${python:-$root has no .venv}: no interpreter; run \`make venv-light\` there (Python 3.11 or later), or set PYTHON=/path/to/python" >&2
    exit 2
fi
exec "$python" -m nemo_srlm.cli submit "$@"

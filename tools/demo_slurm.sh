#!/usr/bin/env bash
# Runs the whole tiny loop on a temporary real Slurm on this machine: one sbatch; arrays and training over two nodes.
#
#   tools/demo_slurm.sh [key=value ...]        settings of the run; SLURM_DEMO_DIR: directory of the cluster
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
python=${PYTHON:-$root/.venv/bin/python}
dir=${SLURM_DEMO_DIR:-/tmp/nemo-srlm-slurm}
run_name=tiny-slurm
for word in "$@"; do case $word in run.name=*) run_name=${word#*=} ;; esac; done

tools/dev_cluster.sh start "$dir"
trap 'tools/dev_cluster.sh stop "$dir"' EXIT
export SLURM_CONF=$dir/etc/slurm.conf
sbatch --wait --output="$dir/iteration-%j.txt" slurm/iteration.sh cluster=dev run.name="$run_name" \
    parallel.nodes=2 parallel.processes=1 candidates.shards=2 judge.shards=2 "$@" || { cat "$dir"/iteration-*.txt; exit 1; }
started=$(date +%s)
while [ -n "$(squeue --noheader)" ]; do
    if [ -t 1 ]; then clear; fi
    "$python" -m nemo_srlm.cli status "runs/$run_name"
    for _ in $(seq 15); do sleep 2; [ -n "$(squeue --noheader)" ] || break; done
done
"$python" -m nemo_srlm.cli status "runs/$run_name"
echo "$(( $(date +%s) - started )) s in Slurm"
[ -e "runs/$run_name/$(cd "runs/$run_name" && ls -d iter*/report | tail -n 1)/manifest.json" ]

#!/usr/bin/env bash
# Builds Transformer Engine's PyTorch binding against the torch that is installed (make venv-gpu calls it; about 33 C++ files).
#
#   tools/build_transformer_engine.sh .venv-gpu/bin/python      MAX_JOBS=8: compilers at the same time (2 GB of memory each)
#
# No GPU and no CUDA toolkit are needed: a C++20 compiler (g++ 11 or later) and Python's headers. The headers of CUDA, cuDNN and
# NCCL come with the pinned packages.
set -euo pipefail
python=${1:?the interpreter of the environment}
pins=$(dirname "$0")/requirements/gpu-nodeps.txt
site=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
"$python" - <<'PY'
import sys
import torch
if torch.version.cuda is None:
    sys.exit(f"error: torch {torch.__version__} is a build without CUDA; install that of tools/requirements/gpu.txt")
PY
CPATH=$(printf '%s:' "$site"/nvidia/*/include "$site"/nvidia/*/include/cccl)${CPATH:-}
# built, not fetched: the sdist would first look for a wheel on a release page; only C++ is compiled, the kernels are a wheel
export CPATH NVTE_FRAMEWORK=pytorch NVTE_PYTORCH_FORCE_BUILD=TRUE MAX_JOBS=${MAX_JOBS:-$(nproc)}
"$python" -m pip install --no-deps --no-build-isolation -r "$pins"

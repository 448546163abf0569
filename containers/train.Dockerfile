# The training image: NVIDIA's PyTorch image, which brings torch, Transformer Engine, apex and NCCL, and what else training
# imports. The code is not in it: jobs mount the checkout, so one image serves every commit (docs/install.md).
#
#   docker build -f containers/train.Dockerfile -t nemo-srlm-train .        another base: --build-arg BASE=...
ARG BASE=nvcr.io/nvidia/pytorch:25.12-py3
FROM ${BASE}
ARG WORK=/opt/nemo-srlm
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
COPY tools/requirements ${WORK}/requirements
COPY tools/image_constraints.py ${WORK}/
# pip may not replace the image's own builds; the rest gets the pinned versions. The image's PIP_CONSTRAINT freezes everything
# in it, also what training needs newer, so these constraints are used in its place.
RUN python3 "${WORK}/image_constraints.py" "${WORK}/requirements" > "${WORK}/constraints.txt" \
    && env -u PIP_CONSTRAINT python3 -m pip install --no-cache-dir -c "${WORK}/constraints.txt" -r "${WORK}/requirements/train.txt" \
    && python3 "${WORK}/image_constraints.py" "${WORK}/requirements" | diff "${WORK}/constraints.txt" - \
    && python3 -c "import datasets, megatron.core, nemo, torch, transformers; print(torch.__version__)"

# The image that runs the benchmark on NVIDIA GPUs:
#
#     docker build -t llama31 -f Dockerfile .
#
# NVIDIA's PyTorch image with NeMo, Megatron-Core and the rest of requirements.txt beside its own torch, and Transformer
# Engine in a version that this Megatron-Core works with. docs/container.md says why these versions.
# tests/dev/test_docker.py compares the versions here with requirements.txt; dev/check_image.py, the last step, with the
# installed ones.

ARG BASE_IMAGE=nvcr.io/nvidia/pytorch
ARG BASE_TAG=25.09-py3
FROM ${BASE_IMAGE}:${BASE_TAG}

SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
WORKDIR /workspace/llama31

# --- Transformer Engine -------------------------------------------------------------------------------------------
# First: it takes longest, changes least, and is best built with the base image's tools.

ARG TRANSFORMER_ENGINE_VERSION=2.9
ARG TRANSFORMER_ENGINE_REPOSITORY=https://github.com/NVIDIA/TransformerEngine.git
# Hopper and Blackwell. Each further one adds build time.
ARG NVTE_CUDA_ARCHS="90;100"
# Parallel compilers; each needs some GB of memory.
ARG MAX_JOBS=8

# The base image's Transformer Engine is removed first: pip removes the old version after installing the new one, and
# would delete shared files. All other packages keep their versions. Built from the tag, because the source distribution looks
# for a binary that was built for another torch. Build isolation would also build against another torch.
# hadolint ignore=DL3013
RUN unset PIP_CONSTRAINT \
    && python3 -m pip uninstall --yes transformer_engine \
    && python3 -m pip list --format=freeze >/tmp/base.txt \
    && python3 -m pip install --no-cache-dir --constraint /tmp/base.txt \
        cmake ninja "pybind11[global]" nvidia-mathdx==25.1.1 \
    && NVTE_FRAMEWORK=pytorch NVTE_CUDA_ARCHS="${NVTE_CUDA_ARCHS}" MAX_JOBS="${MAX_JOBS}" \
        python3 -m pip install --no-cache-dir --constraint /tmp/base.txt --no-build-isolation \
        "git+${TRANSFORMER_ENGINE_REPOSITORY}@v${TRANSFORMER_ENGINE_VERSION}" \
    && rm /tmp/base.txt

# --- requirements.txt ---------------------------------------------------------------------------------------------
# The packages of requirements.lock, except those of the base image's torch and CUDA; Apex is kept.

COPY requirements.txt requirements-base.txt requirements-train.txt requirements.lock ./
COPY dev/image_requirements.py dev/image_install.sh dev/
RUN bash dev/image_install.sh /opt/llama31

# From here on, also in images based on this one, pip keeps torch and the pinned versions. The base image sets this
# variable to its own constraints, whose versions differ from requirements.txt.
ENV PIP_CONSTRAINT=/opt/llama31/constraints.txt

# --- This repository ----------------------------------------------------------------------------------------------
# Readable for all users, independent of the umask of the checkout.

COPY . .
RUN chmod -R a+rX . /opt/llama31 \
    && mkdir /opt/llama31/bin \
    && ln -s "$(command -v python3)" /opt/llama31/bin/python

# --- How it runs --------------------------------------------------------------------------------------------------
# No library uses the network; HF_HUB_OFFLINE=0 allows a step that downloads.
# LLAMA31_VENV: run_llama31.sh uses this Python even if a mounted checkout has its own .venv.
# HOME and USER make any user id work: libraries keep caches in HOME, and torch names its cache after USER; an id such
# as 12345 has neither here.
ENV HF_HUB_OFFLINE=1 \
    HF_DATASETS_OFFLINE=1 \
    TRANSFORMERS_OFFLINE=1 \
    LLAMA31_VENV=/opt/llama31 \
    HOME=/tmp \
    USER=llama31
USER 12345:12345

ARG BASE_TAG
ARG NEMO_VERSION=2.7.3
ARG MEGATRON_CORE_VERSION=0.15.3
ARG REVISION=unknown
LABEL org.opencontainers.image.title="llama31" \
    org.opencontainers.image.description="MLPerf Training benchmark Llama 3.1 8B pretraining, on NeMo 2.0 and Megatron-Core" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.revision="${REVISION}" \
    llama31.pytorch="${BASE_TAG}" \
    llama31.nemo_toolkit="${NEMO_VERSION}" \
    llama31.megatron-core="${MEGATRON_CORE_VERSION}" \
    llama31.transformer_engine="${TRANSFORMER_ENGINE_VERSION}"

# Runs as a user without a name, without a GPU. The labels must match the installed versions.
RUN python3 dev/check_image.py /opt/llama31 "nemo_toolkit==${NEMO_VERSION}" \
        "megatron-core==${MEGATRON_CORE_VERSION}" "transformer_engine==${TRANSFORMER_ENGINE_VERSION}"

# The image that runs the benchmark on NVIDIA GPUs:
#
#     docker build -t llama31 -f Dockerfile .
#
# NVIDIA's PyTorch image with NeMo, Megatron-Core and the rest of requirements.txt beside its own torch, and Transformer
# Engine in a version that this Megatron-Core works with. docs/container.md says why these versions.
# tests/dev/test_docker.py holds the versions here against requirements.txt; dev/check_image.py, at the end, against what was
# installed.

ARG BASE_IMAGE=nvcr.io/nvidia/pytorch
ARG BASE_TAG=25.09-py3
FROM ${BASE_IMAGE}:${BASE_TAG}

SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
WORKDIR /workspace/llama31

# --- Transformer Engine -------------------------------------------------------------------------------------------
# First, for it takes longest, changes least, and is best built with the base image's own tools.

ARG TRANSFORMER_ENGINE_VERSION=2.9
ARG TRANSFORMER_ENGINE_REPOSITORY=https://github.com/NVIDIA/TransformerEngine.git
# Hopper and Blackwell. Each more takes its time.
ARG NVTE_CUDA_ARCHS="90;100"
# Compilers at a time; each needs some GB of memory.
ARG MAX_JOBS=8

# The base image's Transformer Engine is removed before, for pip installs first and removes after: it would take files
# of the new one along. What else is there keeps its version. Built from its tag, since the sources in package indices
# look for a binary that was built for another torch. Build isolation would build against another torch, too.
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
# Of requirements.lock, all but what belongs to the base image's torch and CUDA; Apex stays as it is.

COPY requirements.txt requirements.lock ./
COPY dev/image_requirements.py dev/image_install.sh dev/
RUN bash dev/image_install.sh /opt/llama31

# From here on, and for whoever builds upon this image: pip leaves torch and the pinned versions alone. The base image
# has constraints of its own under this name, which hold versions that requirements.txt does not.
ENV PIP_CONSTRAINT=/opt/llama31/constraints.txt

# --- This repository ----------------------------------------------------------------------------------------------
# Readable for everyone, whatever umask it was checked out with.

COPY . .
RUN chmod -R a+rX . /opt/llama31 \
    && mkdir /opt/llama31/bin \
    && ln -s "$(command -v python3)" /opt/llama31/bin/python

# --- How it runs --------------------------------------------------------------------------------------------------
# No library asks a network for anything; where a step is to download, HF_HUB_OFFLINE=0 allows it.
# LLAMA31_VENV: run_llama31.sh takes this Python, also where it is one of a mounted checkout that has a .venv of its own.
# Any user id works: libraries keep their caches in HOME, and torch names its own by USER, for an id such as 12345 has
# neither a home nor a name here.
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

# As a user without a name, and without a GPU. The labels must say what is there.
RUN python3 dev/check_image.py /opt/llama31 "nemo_toolkit==${NEMO_VERSION}" \
        "megatron-core==${MEGATRON_CORE_VERSION}" "transformer_engine==${TRANSFORMER_ENGINE_VERSION}"

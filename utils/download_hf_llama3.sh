#!/usr/bin/env bash
# Downloads Llama 3.1 8B's tokenizer from Hugging Face, 10 MB; with --weights also the weights, 16 GB.
#
#     TOKENIZER_PATH=/data/tokenizer bash utils/download_hf_llama3.sh [--weights]
#
# Environment:
#   TOKENIZER_PATH    directory to download to
#   HF_REPOSITORY     repository (default: meta-llama/Llama-3.1-8B)
#   Hugging Face's own variables (HF_TOKEN, HF_ENDPOINT, HF_HOME, ...) are respected.
#
# The repository is gated: ask for access on its page, then log in with: hf auth login
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
case "$*" in
    "" | --weights) ;;
    *)
        echo "download_hf_llama3.sh: unknown arguments: $*; expected: --weights" >&2
        exit 2
        ;;
esac
(: "${TOKENIZER_PATH:?set it to the directory to download to}") || exit 2
exec bash "$here/llama31.sh" download-hf "$TOKENIZER_PATH" ${HF_REPOSITORY:+"--repository=$HF_REPOSITORY"} "$@"

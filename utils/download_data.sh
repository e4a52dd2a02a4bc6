#!/usr/bin/env bash
# Downloads the benchmark's data from MLCommons' bucket with rclone, and checks it.
#
#     bash utils/download_data.sh preprocessed    token files, to PREPROCESSED_PATH; then verified
#     bash utils/download_data.sh tokenizer       the tokenizer, to TOKENIZER_PATH
#     bash utils/download_data.sh raw             C4's shards, to C4_PATH
#
# Environment:
#   MLC_PATH                      path of the data in the bucket, bucket/directory; for raw it is known
#   MLC_ENDPOINT                  address of the bucket's server
#   MLC_ACCESS_KEY_ID             access key
#   MLC_SECRET_ACCESS_KEY         its secret; without these three, rclone's own remote mlc-training is used
#   PARTS                         raw: parts whose training shards are wanted (default: all, 0 1 2 3 4 5 6 7)
#   JOBS                          transfers at a time (default: 8)
#
# Endpoint, keys and paths are published in the README of small_llm_pretraining in https://github.com/mlcommons/training
# and in the members' area of MLCommons. Another way is its R2 downloader, https://github.com/mlcommons/r2-downloader.
#
# A download that was cut goes on where it was, within a file too. Sizes and hashes are checked against the bucket.
# Disk: 85 GB for the token files of part 6 and the validation set; 305 GB for all shards, 77 GB for PARTS="6 7".
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
case "$*" in
    preprocessed) directory=PREPROCESSED_PATH ;;
    tokenizer) directory=TOKENIZER_PATH ;;
    raw)
        directory=C4_PATH
        : "${MLC_PATH:=mlcommons-training-wg-public/common/datasets/c4/original/en_json/3.0.1}"
        ;;
    *)
        echo "download_data.sh: what to download? preprocessed, tokenizer or raw" >&2
        exit 2
        ;;
esac
if [[ -z ${!directory:-} ]]; then
    echo "download_data.sh: $directory: set it to the directory to download to" >&2
    exit 2
fi

bash "$here/llama31.sh" download "$1" "${!directory}" --path="${MLC_PATH:-}" \
    --parts="${PARTS-0 1 2 3 4 5 6 7}" ${JOBS:+"--jobs=$JOBS"}
if [[ $1 == preprocessed ]]; then exec bash "$here/llama31.sh" verify "$PREPROCESSED_PATH"; fi

#!/usr/bin/env bash
# Downloads the benchmark's data from MLCommons' public storage, without a login, and checks every MD5.
#
#     bash utils/download_data.sh preprocessed           token files, 85 GB, to PREPROCESSED_PATH
#     bash utils/download_data.sh tokenizer [--weights]  the tokenizer, 9 MB, to TOKENIZER_PATH; with the weights 16 GB
#     bash utils/download_data.sh raw                    C4's shards as .json, to C4_PATH
#     bash utils/download_data.sh URL DIRECTORY          another data set of MLCommons, by the URL of its .uri file
#
# Environment:
#   PARTS                      raw: parts whose training shards to download (default: all, 0 1 2 3 4 5 6 7)
#   JOBS                       transfers at a time (default: 8)
#   https_proxy, no_proxy, REQUESTS_CA_BUNDLE   as usual
#   MLCOMMONS_MIRROR           address of a mirror of https://training.mlcommons-storage.org
#   CF_ACCESS_CLIENT_ID        private data sets: a service account that may read them
#   CF_ACCESS_CLIENT_SECRET    its secret
#
# With any of these variables, rclone downloads from MLCommons' bucket instead, which needs keys:
#   MLC_PATH                   path of the data, bucket/directory (raw has a default)
#   MLC_ENDPOINT               address of the bucket's server
#   MLC_ACCESS_KEY_ID          access key
#   MLC_SECRET_ACCESS_KEY      its secret; without these three, rclone's remote mlc-training is used
#
# An interrupted download resumes, within files too. Existing files are checked once and not downloaded again.
# Disk: 85 GB for the token files of part 6 and the validation set; 842 GB for all shards, 211 GB for PARTS="6 7".
set -euo pipefail

usage() { sed -n '2,/^set /{/^set /d; s/^# \{0,1\}//; p}' "${BASH_SOURCE[0]}"; }

fail() {
    echo "download_data.sh: $1" >&2
    exit 2
}

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
options=(${JOBS:+"--jobs=$JOBS"})
case "$*" in
    -h | --help)
        usage
        exit
        ;;
    preprocessed) variable=PREPROCESSED_PATH ;;
    tokenizer) variable=TOKENIZER_PATH ;;
    "tokenizer --weights")
        variable=TOKENIZER_PATH
        options+=(--weights)
        ;;
    raw)
        variable=C4_PATH
        options+=(${PARTS+"--parts=$PARTS"})
        ;;
    *://*)
        [[ $# == 2 && -n $2 ]] || fail "$1: directory missing; usage: bash utils/download_data.sh URL DIRECTORY"
        exec bash "$here/llama31.sh" download "$1" "$2" "${options[@]}"
        ;;
    *) fail "expected preprocessed, tokenizer [--weights], raw, or URL DIRECTORY; see --help" ;;
esac
directory="${!variable:-}"
[[ -n $directory ]] || fail "$variable: set it to the directory to download to"
if [[ -z ${MLC_PATH-}${MLC_ENDPOINT-}${MLC_ACCESS_KEY_ID-}${MLC_SECRET_ACCESS_KEY-} ]]; then
    exec bash "$here/llama31.sh" download "$1" "$directory" "${options[@]}"
fi
bash "$here/llama31.sh" download "$1" "$directory" "${options[@]}" --rclone ${MLC_PATH:+"--path=$MLC_PATH"}
# The bucket has no MD5 for some files.
if [[ $1 == preprocessed ]]; then exec bash "$here/llama31.sh" verify "$directory"; fi

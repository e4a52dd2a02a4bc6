#!/usr/bin/env bash
# Compresses C4's .json files to .json.gz in their place, with all cores.
#
#     C4_PATH=/data/c4 bash utils/parallel_compress_json_to_gz.sh
#
# Environment:
#   C4_PATH    directory with c4-train.*.json and c4-validation.*.json
#   JOBS       files at a time (default: the number of cores)
#
# A .json file is removed once its .json.gz was read back and held the same bytes. Files that are compressed already are
# skipped, so a run that was ended can be started again. A file that fails is named; the exit code is then 2.
# Disk: what JOBS files take compressed, on top of the files; 200 GB become free of every 300 GB.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
(: "${C4_PATH:?set it to the directory with the .json files of C4}") || exit 2
exec bash "$here/llama31.sh" compress "$C4_PATH" ${JOBS:+"--jobs=$JOBS"}

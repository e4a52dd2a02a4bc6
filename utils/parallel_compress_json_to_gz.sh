#!/usr/bin/env bash
# Compresses C4's .json files to .json.gz in place, on all cores.
#
#     C4_PATH=/data/c4 bash utils/parallel_compress_json_to_gz.sh
#
# Environment:
#   C4_PATH    directory with c4-train.*.json and c4-validation.*.json
#   JOBS       files at a time (default: the number of cores)
#
# A .json file is removed after its .json.gz has been read back and compared. Compressed files are skipped, so an
# interrupted call can be repeated. Files that fail are listed; the exit code is then 2.
# Disk: the compressed size of JOBS files in addition; frees 200 GB of every 300 GB.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
(: "${C4_PATH:?set it to the directory with the .json files of C4}") || exit 2
exec bash "$here/llama31.sh" compress "$C4_PATH" ${JOBS:+"--jobs=$JOBS"}

#!/usr/bin/env bash
# Merges C4's 1,024 training shards into 8 files and its 8 validation shards into one, and makes the validation set.
#
#     C4_PATH=/data/c4 MERGED_C4_PATH=/data/merged PARTS="6 7" bash utils/consolidate_data.sh
#
# Environment:
#   C4_PATH                 directory with c4-train.*.json.gz and c4-validation.*.json.gz
#   MERGED_C4_PATH          directory for c4-train.en_<part>.json.gz, c4-validation.en.json.gz and the validation set,
#                           c4-validation-<N_VALIDATION_SAMPLES>-samples.en.json.gz
#   N_VALIDATION_SAMPLES    documents in the validation set: the first of the validation shards (default: 91,205, the
#                           smallest number that gives the required 47,185,920 tokens)
#   PARTS                   parts to make, separated by spaces (default: 0 1 2 3 4 5 6 7; the benchmark trains on 6 7)
#   JOBS                    files to write at a time (default: the number of cores)
#
# Shards are copied compressed, and decompressed on the way to verify them: missing and damaged ones are listed, and the
# exit code is then 2. Finished files are skipped, so an interrupted call can be repeated.
# Disk: the size of the shards of the parts.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
(: "${C4_PATH:?set it to the directory with the .json.gz files of C4}") || exit 2
(: "${MERGED_C4_PATH:?set it to the directory for the merged files}") || exit 2
exec bash "$here/llama31.sh" consolidate "$C4_PATH" "$MERGED_C4_PATH" --parts="${PARTS-0 1 2 3 4 5 6 7}" \
    ${N_VALIDATION_SAMPLES:+"--samples=$N_VALIDATION_SAMPLES"} ${JOBS:+"--jobs=$JOBS"}

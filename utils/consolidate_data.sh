#!/usr/bin/env bash
# Joins C4's 1,024 training shards to 8 files and its 8 validation shards to one, and makes the validation set.
#
#     C4_PATH=/data/c4 MERGED_C4_PATH=/data/merged PARTS="6 7" bash utils/consolidate_data.sh
#
# Environment:
#   C4_PATH                 directory with c4-train.*.json.gz and c4-validation.*.json.gz
#   MERGED_C4_PATH          directory for c4-train.en_<part>.json.gz, c4-validation.en.json.gz and the validation set,
#                           c4-validation-<N_VALIDATION_SAMPLES>-samples.en.json.gz
#   N_VALIDATION_SAMPLES    documents in the validation set: the first of the validation shards (default: 91,205, the
#                           fewest that give the 47,185,920 tokens that were wanted)
#   PARTS                   parts to make, separated by spaces (default: 0 1 2 3 4 5 6 7; the benchmark trains on 6 7)
#   JOBS                    files to make at a time (default: the number of cores)
#
# Shards are copied compressed, and decompressed on the way to see that they are whole: those missing or damaged are all
# listed, and the exit code is then 2. What is done is skipped, so a run that was ended can be started again.
# Disk: as much as the shards of the parts.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
(: "${C4_PATH:?set it to the directory with the .json.gz files of C4}") || exit 2
(: "${MERGED_C4_PATH:?set it to the directory for the merged files}") || exit 2
exec bash "$here/llama31.sh" consolidate "$C4_PATH" "$MERGED_C4_PATH" --parts="${PARTS-0 1 2 3 4 5 6 7}" \
    ${N_VALIDATION_SAMPLES:+"--samples=$N_VALIDATION_SAMPLES"} ${JOBS:+"--jobs=$JOBS"}

#!/usr/bin/env bash
# zstandard's read_to_iter and decompress give the first frame of a file and no more, without an error.
#
# Guess: a file of several frames, as `cat part1.jsonl.zst part2.jsonl.zst` and parallel compressors write it, reads
# whole through every reader, as gzip's members do; stream_reader's option read_across_frames=False suggests otherwise.
# Seen: stream_reader and open read all frames. read_to_iter, the memory-saving loop for large files, ends after the
# first: a corpus loses all shards but one, and the token counts look plausible.
set -euo pipefail

work="$(mktemp -d)"
trap 'rm -rf -- "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check zstandard==0.25.0
cd "$work"
cat >frames.py <<'PY'
import gzip
import io

import zstandard

SHARDS = [b'{"text": "one"}\n', b'{"text": "two"}\n', b'{"text": "three"}\n']
file = b"".join(zstandard.ZstdCompressor().compress(shard) for shard in SHARDS)
reader = zstandard.ZstdDecompressor()
with open("corpus.jsonl.zst", "wb") as out:
    out.write(file)


def lines(data):
    return data.count(b"\n")


print(
    "gzip", lines(gzip.decompress(b"".join(map(gzip.compress, SHARDS)))),
    "stream_reader", lines(reader.stream_reader(io.BytesIO(file)).read()),
    "open", lines(zstandard.open("corpus.jsonl.zst", "rb").read()),
    "read_to_iter", lines(b"".join(reader.read_to_iter(io.BytesIO(file)))),
    "decompress", lines(zstandard.decompress(file)),
)
PY
seen="$(venv/bin/python frames.py)"
printf 'lines of 3: %s\n' "$seen"
if [[ $seen != "gzip 3 stream_reader 3 open 3 read_to_iter 1 decompress 1" ]]; then
    echo "zstandard's readers treat several frames in another way now" >&2
    exit 1
fi
# seen 2026-11-29: zstandard 0.25.0, lines of 3: gzip 3 stream_reader 3 open 3 read_to_iter 1 decompress 1

"""Commands in docs/data.md: the steps in their order, and the names of the files that they make."""

import re
from itertools import pairwise
from pathlib import Path

from documents import bash, blocks, page, text

from llama31 import rules
from llama31.corpus import consolidate

DATA = page("data")


def test_data_is_prepared_in_the_benchmarks_order() -> None:
    """Each script of utils/ that a user calls; test_demo_corpus.py tests what the commands do."""
    steps = text(DATA).partition("\n## Time and disk\n")[0]
    called = re.findall(r"utils/(\w+\.sh)(?: (\w+)$)?|-m llama31 (verify)", "\n".join(commands_of(steps)), re.M)
    assert [" ".join(filter(None, words)) for words in called] == [
        "download_data.sh preprocessed",
        "download_data.sh tokenizer",
        "download_data.sh raw",
        "parallel_compress_json_to_gz.sh",
        "consolidate_data.sh",
        "download_hf_llama3.sh",
        "preprocess.sh",
        "preprocess.sh",
        "verify",
        "verify",
    ]


def commands_of(markdown: str) -> list[str]:
    """Bash blocks of a part of a page."""
    return re.findall(r"^```bash\n(.*?)^```$", markdown, re.M | re.S)


def test_tokenize_commands_name_the_benchmarks_files(tmp_path: Path) -> None:
    """The block with stand-ins for python3 and zcat that print their arguments."""
    (block,) = (block for block in blocks(DATA, "bash") if "--output-prefix" in block)
    stand_ins = "python3() { printf '%s\\n' \"$@\"; }\nzcat() { printf '%s\\n' \"$@\" >&2; }\n"
    block = block.replace("source .venv/bin/activate\n", stand_ins)
    block = re.sub(r">/data/c4/(\S+)", r">\1", block)
    done = bash(block, tmp_path)
    assert done.returncode == 0, done.stderr
    words = [Path(word).name for word in done.stdout.split()]
    part = rules.BENCHMARK_PARTS[0]
    validation = rules.validation_name(rules.VALIDATION_DOCUMENTS)
    shards = [rules.train_shard_name(shard) for shard in consolidate.part_shards(part)]
    inputs = [word for option, word in pairwise(words) if option == "--input"]
    assert inputs == [*shards, f"{validation}.json"]
    outputs = [word for option, word in pairwise(words) if option == "--output-prefix"]
    assert outputs == [rules.token_file_name(rules.train_part_name(part)), rules.token_file_name(validation)]
    shards = [rules.validation_shard_name(shard) for shard in range(rules.VALIDATION_SHARDS)]
    assert [Path(word).name for word in done.stderr.split()] == shards
    assert (tmp_path / f"{validation}.json").is_file()
    assert f"head -n {rules.VALIDATION_DOCUMENTS} " in block

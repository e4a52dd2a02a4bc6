"""The parts into which C4's training shards are merged."""

from llama31 import rules
from llama31.common.errors import UserError

PARTS = rules.TRAIN_SHARDS // rules.SHARDS_PER_PART


def part_shards(part: int) -> range:
    """Return the numbers of the training shards of part 0..7."""
    return range(part * rules.SHARDS_PER_PART, (part + 1) * rules.SHARDS_PER_PART)


def parse(text: str) -> list[int]:
    """Parse part numbers separated by spaces; return them sorted, without duplicates. Raises UserError."""
    known = {str(part): part for part in range(PARTS)}
    unknown = [word for word in text.split() if word not in known]
    if unknown:
        raise UserError(f'PARTS="{text}": {unknown[0]} is not one of the parts 0 to {PARTS - 1}; example: PARTS="6 7"')
    return sorted({known[word] for word in text.split()})

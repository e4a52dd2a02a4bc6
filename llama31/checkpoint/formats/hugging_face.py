"""Hugging Face checkpoints of a Llama: config.json, safetensors, tokenizer. The checks need only orjson."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llama31.checkpoint.formats import architecture, parameter_mapping, redundant
from llama31.checkpoint.formats.architecture import Architecture
from llama31.checkpoint.formats.safetensors_header import Stored, read_header, some
from llama31.common.direct_file import open_to_read
from llama31.common.errors import UserError
from llama31.common.files import failures_named
from llama31.common.json_files import load_json, load_object
from llama31.data import tokenizer

if TYPE_CHECKING:
    from torch import Tensor

CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
# The files that a tokenizer may consist of.
SMALL_FILES = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "*.jinja")


@dataclass(frozen=True)
class HuggingFaceCheckpoint:
    """A checked checkpoint: all parameters exist and have the right shapes."""

    path: Path
    architecture: Architecture
    tensors: dict[str, Stored]
    tokenizer_ids: int
    """Ids of the tokenizer; 0 if there is no tokenizer."""
    from_disk: bool = False
    """Whether to read weights around the page cache."""

    def dtype(self, key: str) -> str:
        """Return the type in which the parameters of one of Megatron's keys are stored, by torch's name."""
        return self.tensors[parameter_mapping.hugging_face_names(key)[0]].dtype

    def tensor(self, name: str) -> "Tensor":
        """Read one parameter."""
        import torch

        stored = self.tensors[name]
        contents = torch.empty(stored.size, dtype=torch.uint8)
        with failures_named(stored.file), open_to_read(stored.file, from_disk=self.from_disk) as file:
            file.seek(stored.start)
            if file.readinto(contents.numpy()) != stored.size:
                raise OSError("truncated")
        return contents.view(getattr(torch, stored.dtype)).view(stored.shape)

    def files(self) -> list[Path]:
        """Return config.json and the weights' files."""
        return [self.path / CONFIG, *sorted({stored.file for stored in self.tensors.values()})]

    def bytes(self) -> int:
        """Return the size of all weights, bytes."""
        return sum(stored.size for stored in self.tensors.values())


def small_files(directory: Path) -> list[Path]:
    """Return the files of the tokenizer and the generation settings in a directory, which a conversion copies."""
    names = (*SMALL_FILES, GENERATION_CONFIG)
    return sorted(file for name in names for file in directory.glob(name) if file.is_file())


def inspect(path: Path) -> HuggingFaceCheckpoint:
    """Read and check all but the weights. Raises UserError, a line for each problem, unless it is a complete Llama."""
    config = load_object(path / CONFIG)
    llama = architecture.from_hugging_face(config, path / CONFIG)
    files = _weight_files(path)
    problems: list[str] = []
    tensors: dict[str, Stored] = {}
    for file, names in files.items():
        try:
            found = read_header(file)
        except UserError as error:
            problems += error.lines
            continue
        lost = [name for name in names if name not in found]
        problems += [f"{path / INDEX}: lists {some(lost)}, which {file.name} does not hold"] if lost else []
        tensors |= found
    if problems:
        raise UserError(problems)
    tensors, problems = redundant.drop(llama, tensors)
    problems += [*_wrong_parameters(path, llama, tensors), *_mixed_types(llama, tensors)]
    has_tokenizer = all((path / name).is_file() for name in (tokenizer.TOKENIZER_FILE, tokenizer.CONFIG_FILE))
    problems += tokenizer.problems(path) if has_tokenizer else []
    if problems:
        raise UserError(problems)
    return HuggingFaceCheckpoint(path, llama, tensors, tokenizer.vocabulary_size(path) if has_tokenizer else 0)


def _weight_files(path: Path) -> dict[Path, list[str]]:
    """Return the weight files, each with its tensors as the index lists them. Raises UserError if one is missing."""
    if not (path / INDEX).exists():
        if (path / WEIGHTS).is_file():
            return {path / WEIGHTS: []}
        others = next(iter(sorted(path.glob("*.safetensors"))), None)
        problem = f"holds {others.name}, but no {INDEX}" if others else f"holds no {WEIGHTS} and no {INDEX}"
        raise UserError(f"{path}: {problem}; download the complete checkpoint as safetensors")
    index = load_json(path / INDEX)
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(f"{path / INDEX}: has no weight_map, the file of each tensor")
    names = defaultdict(list)
    for name, file in weight_map.items():
        if not isinstance(file, str) or Path(file).name != file:
            raise UserError(f"{path / INDEX}: {name} is in {file!r}, which is not a file name in that directory")
        names[path / file].append(name)
    with failures_named(path / INDEX):  # for instance a name that is too long
        missing = [file for file in sorted(names) if not file.is_file()]
    if missing:
        raise UserError(f"{path / INDEX}: names {file.name}, which is missing; download it again" for file in missing)
    return dict(sorted(names.items()))


def _wrong_parameters(path: Path, llama: Architecture, tensors: dict[str, Stored]) -> Iterator[str]:
    """Yield lines on parameters that are missing, unknown or of another shape."""
    shapes = llama.shapes()
    if lost := [name for name in shapes if name not in tensors]:
        yield f"{path}: holds no {some(lost)}, which {CONFIG} requires"
    if unknown := sorted(tensors.keys() - shapes.keys()):
        yield f"{path}: holds {some(unknown)}, which a Llama with this {CONFIG} does not have; it would be lost"
    for name in shapes.keys() & tensors.keys():
        stored = tensors[name]
        if stored.shape != shapes[name]:
            yield f"{stored.file}: {name} has shape {list(stored.shape)}; {CONFIG} requires {list(shapes[name])}"


def _mixed_types(llama: Architecture, tensors: dict[str, Stored]) -> Iterator[str]:
    """Yield a line for each tensor of Megatron's, which joins all layers, whose parts are of different types."""
    for key in parameter_mapping.megatron_keys(llama):
        dtypes: dict[str, str] = {}
        for layer in range(llama.layers) if parameter_mapping.is_layered(key) else (0,):
            for name in parameter_mapping.hugging_face_names(key, layer):
                if name in tensors:
                    dtypes.setdefault(tensors[name].dtype, name)
        if len(dtypes) > 1:
            found = ", ".join(f"{name} is {dtype}" for dtype, name in dtypes.items())
            yield f"{next(iter(tensors.values())).file.parent}: {found}; Megatron keeps both in one tensor of one type"

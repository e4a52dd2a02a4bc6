"""A Llama as Hugging Face saves it: config.json, safetensors, tokenizer. The checks need the standard library alone."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llama31.checkpoint.formats import architecture, parameter_mapping, redundant
from llama31.checkpoint.formats.architecture import Architecture
from llama31.checkpoint.formats.safetensors_header import Stored, read_header, some
from llama31.common.errors import UserError
from llama31.common.json_files import load_json, load_object
from llama31.data import tokenizer

if TYPE_CHECKING:
    from torch import Tensor

CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
# What a tokenizer may consist of, and what else of a model is no weight.
SMALL_FILES = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "*.jinja")


@dataclass(frozen=True)
class HuggingFaceCheckpoint:
    """A directory that was looked at: all parameters are there, with the right shapes."""

    path: Path
    architecture: Architecture
    tensors: dict[str, Stored]
    tokenizer_ids: int
    """Size of the tokenizer; 0 where there is none."""

    def dtype(self, key: str) -> str:
        """torch's name of the type in which the parameters of one of Megatron's keys are stored."""
        return self.tensors[parameter_mapping.hugging_face_names(key)[0]].dtype

    def tensor(self, name: str) -> "Tensor":
        """Reads one parameter."""
        from safetensors import safe_open

        with safe_open(self.tensors[name].file, framework="pt") as file:
            return file.get_tensor(name)

    def files(self) -> list[Path]:
        """The files that hold the weights, and config.json."""
        return [self.path / CONFIG, *sorted({stored.file for stored in self.tensors.values()})]

    def small_files(self) -> list[Path]:
        """Tokenizer and generation settings: what else a converted checkpoint takes along."""
        return small_files(self.path)

    def bytes(self) -> int:
        """Size of all weights."""
        return sum(stored.size for stored in self.tensors.values())


def small_files(directory: Path) -> list[Path]:
    """The files of a directory that belong to a tokenizer, and the settings for generation; no weights."""
    names = (*SMALL_FILES, GENERATION_CONFIG)
    return sorted(file for name in names for file in directory.glob(name) if file.is_file())


def look(path: Path) -> HuggingFaceCheckpoint:
    """Reads the configuration and the headers of all files.

    Raises UserError, with a line for each thing that is wrong, where it is not a whole Llama.
    """
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
        problems += [f"{path / INDEX}: says that {file.name} holds {some(lost)}; it does not"] if lost else []
        tensors |= found
    if problems:
        raise UserError(problems)
    tensors, problems = redundant.left_out(llama, tensors)
    problems += [*_wrong_names(path, llama, tensors), *_wrong_kinds(llama, tensors)]
    has_tokenizer = all((path / name).is_file() for name in (tokenizer.TOKENIZER_FILE, tokenizer.CONFIG_FILE))
    problems += tokenizer.problems(path) if has_tokenizer else []
    if problems:
        raise UserError(problems)
    return HuggingFaceCheckpoint(path, llama, tensors, tokenizer.vocabulary_size(path) if has_tokenizer else 0)


def _weight_files(path: Path) -> dict[Path, list[str]]:
    """The weights' files, with the tensors that the index says they hold."""
    if not (path / INDEX).exists():
        if (path / WEIGHTS).is_file():
            return {path / WEIGHTS: []}
        others = next(iter(sorted(path.glob("*.safetensors"))), None)
        problem = f"holds {others.name}, but no {INDEX}" if others else f"holds no {WEIGHTS} and no {INDEX}"
        raise UserError(f"{path}: {problem}; get the whole checkpoint, as safetensors")
    index = load_json(path / INDEX)
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(f"{path / INDEX}: has no weight_map that says which file holds which tensor")
    names = defaultdict(list)
    for name, file in weight_map.items():
        if not isinstance(file, str) or Path(file).name != file:
            raise UserError(f"{path / INDEX}: {name} is in {file!r}, which is not the name of a file beside it")
        names[path / file].append(name)
    missing = [file for file in sorted(names) if not file.is_file()]
    if missing:
        raise UserError(f"{path / INDEX}: names {file.name}, which is not there; get it again" for file in missing)
    return dict(sorted(names.items()))


def _wrong_names(path: Path, llama: Architecture, tensors: dict[str, Stored]) -> Iterator[str]:
    """Lines on parameters that are missing, that nothing is known of, or that have another shape."""
    shapes = llama.shapes()
    if lost := [name for name in shapes if name not in tensors]:
        yield f"{path}: holds no {some(lost)}, which {CONFIG} asks for"
    if unknown := sorted(tensors.keys() - shapes.keys()):
        yield f"{path}: holds {some(unknown)}, which a Llama of this {CONFIG} has not; it would be lost"
    for name in shapes.keys() & tensors.keys():
        stored = tensors[name]
        if stored.shape != shapes[name]:
            yield f"{stored.file}: {name} has shape {list(stored.shape)}; {CONFIG} asks for {list(shapes[name])}"


def _wrong_kinds(llama: Architecture, tensors: dict[str, Stored]) -> Iterator[str]:
    """Lines on parameters that Megatron keeps in one tensor, of all layers, and that are of several types here."""
    for key in parameter_mapping.megatron_keys(llama):
        layers = range(llama.layers) if parameter_mapping.is_layered(key) else (0,)
        kinds: dict[str, str] = {}
        for layer in layers:
            for name in parameter_mapping.hugging_face_names(key, layer):
                if name in tensors:
                    kinds.setdefault(tensors[name].dtype, name)
        if len(kinds) > 1:
            found = ", ".join(f"{name} is {dtype}" for dtype, name in kinds.items())
            yield f"{next(iter(tensors.values())).file.parent}: {found}; Megatron keeps both in one tensor of one type"

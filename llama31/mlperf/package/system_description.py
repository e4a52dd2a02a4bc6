"""System description of a submission, systems/SYSTEM.json: a draft from the machine, and what is wrong with one.

The fields are those that mlperf-logging's system_desc_checker requires; of most it wants no more than that they are
there, be they empty.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llama31.common.errors import UserError
from llama31.common.files import atomic_writer, failures_named
from llama31.config.mlperf_names import are_same, is_name
from llama31.config.resolve import Resolved
from llama31.mlperf.log.records import shown
from llama31.mlperf.package import machine
from llama31.settings import Division, Status

BLANK = "FILL IN: "
"""How a value begins that the machine cannot know."""

STATUSES = {
    Status.onprem: "Available on-premise",
    Status.cloud: "Available cloud",
    Status.preview: "Preview",
    Status.research: "Research, Development, or Internal (RDI)",
}
"""What the checker takes as status, by what SUBMISSION_STATUS calls it in a log."""

FIELDS = {
    "submitter": "the organisation, as --org of package",
    "division": Division.closed.value,
    "status": f"one of: {'; '.join(STATUSES.values())}",
    "system_name": "name of the system, for the table of results",
    "number_of_nodes": "nodes of a run",
    "host_processors_per_node": "processors (sockets) of a node",
    "host_processor_model_name": "such as Intel(R) Xeon(R) Platinum 8480C",
    "host_processor_core_count": "cores of one processor",
    "host_processor_vcpu_count": "hardware threads of one processor",
    "host_processor_frequency": "such as 3800 MHz at most",
    "host_processor_caches": "such as L1d 48 KiB a core, L2 2 MiB a core, L3 105 MiB",
    "host_processor_interconnect": "between processors, such as UPI",
    "host_memory_capacity": "of a node, such as 2 TB",
    "host_storage_type": "such as NVMe SSD",
    "host_storage_capacity": "such as 8x 3.84 TB",
    "host_networking": "such as 8x InfiniBand NDR 400 Gb/s",
    "host_networking_topology": "such as fat tree, or N/A for one node",
    "host_memory_configuration": "such as 32x 64 GB DDR5-4800",
    "accelerators_per_node": "such as 8",
    "accelerator_model_name": "such as NVIDIA H200",
    "accelerator_host_interconnect": "such as PCIe 5.0 x16",
    "accelerator_frequency": "such as 1980 MHz at most",
    "accelerator_on-chip_memories": "such as L2 50 MB, or N/A",
    "accelerator_memory_configuration": "such as HBM3e",
    "accelerator_memory_capacity": "of one accelerator, such as 141 GB",
    "accelerator_interconnect": "such as NVLink 4, 900 GB/s",
    "accelerator_interconnect_topology": "such as NVSwitch, all to all",
    "cooling": "air or liquid",
    "hw_notes": "",
    "framework": "with version",
    "other_software_stack": "libraries and driver, with versions",
    "operating_system": "with version",
    "sw_notes": "",
}
"""Field -> what is to be filled in where the machine does not say; notes may stay empty."""

COUNTS = ("number_of_nodes", "accelerators_per_node")
"""Fields that are compared with the runs."""
TEXTS = (
    "submitter",
    "system_name",
    "host_processor_model_name",
    "host_processor_core_count",
    "accelerator_model_name",
    "accelerators_per_node",
    "framework",
)
"""Fields at which system_desc_checker ends with TypeError if they are no text."""


def system(resolved: Resolved, output: Path | None) -> int:
    """Prints a draft for this machine, or writes it to a new file; says which fields are blank."""
    drafted = draft(resolved)
    text = json.dumps(drafted, indent=4) + "\n"
    if output is None:
        print(text, end="")
    else:
        if output.exists():
            raise UserError(f"{output}: exists; name another file for the draft")
        with atomic_writer(output) as file:
            file.write(text.encode())
        print(f"{output}: written")
    blanks = [field for field, value in drafted.items() if value.startswith(BLANK)]
    print(f"to be filled in, {len(blanks)} of {len(drafted)} fields: {', '.join(blanks)}", file=sys.stderr)
    return 0


def draft(resolved: Resolved) -> dict[str, str]:
    """Description of this machine; settings that the user gave say who submits what, and on how many nodes."""
    settings = resolved.settings
    of_settings = {
        "submission_org": ("submitter", settings.submission_org),
        "submission_platform": ("system_name", settings.submission_platform),
        "submission_status": ("status", STATUSES[settings.submission_status]),
        "nnodes": ("number_of_nodes", str(settings.nnodes)),
    }
    known = {
        "division": Division.closed.value,
        **{field: value for name, (field, value) in of_settings.items() if _is_given(resolved, name)},
        **machine.look(),
    }
    return {field: known.get(field, f"{BLANK}{hint}" if hint else "") for field, hint in FIELDS.items()}


def _is_given(resolved: Resolved, name: str) -> bool:
    return resolved.origins[name] != "default" and getattr(resolved.settings, name) != "unset"


def read(path: Path) -> dict[str, Any]:
    """A description, or another JSON object. Raises UserError where the file holds none."""
    with failures_named(path):
        text = path.read_bytes()
    try:
        content = json.loads(text)
    except ValueError as error:
        raise UserError(f"{path}: no JSON object: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: no JSON object")
    return content


def problems(path: Path, content: Mapping[str, Any], submitters: Sequence[str]) -> Iterator[str]:
    """Find what keeps a description from a submission in the closed division, a line each.

    Args:
        path: The file, which names the system.
        content: The description.
        submitters: Names of the organisation, of which the description has one, up to case and punctuation.
    """
    if not is_name(path.stem) or path.suffix != ".json":
        yield f"{path}: names the system in the tree; use letters, digits, -, _ and . and the ending .json"
    for field, hint in FIELDS.items():
        value = content.get(field)
        if field not in content:
            yield f"{path}: {field} is missing; {hint or 'it may be empty'}"
        elif field in TEXTS and not isinstance(value, str):
            yield f"{path}: {field} is {json.dumps(value)}; the checkers want text, in quotation marks"
        elif isinstance(value, str) and value.startswith(BLANK):
            yield f"{path}: {field} is not filled in; {value.removeprefix(BLANK)}"
    for field, choices in {"division": [Division.closed.value], "status": list(STATUSES.values())}.items():
        if (value := content.get(field)) not in choices and field in content and not str(value).startswith(BLANK):
            yield f"{path}: {field} is {shown(value)}; here {' or '.join(choices)}"
    submitter = content.get("submitter")
    is_named = isinstance(submitter, str) and not submitter.startswith(BLANK)
    if is_named and not any(are_same(str(submitter), one) for one in submitters):
        yield f"{path}: submitter is {submitter}; here {' or '.join(dict.fromkeys(submitters))}"


def notes(path: Path, content: Mapping[str, Any]) -> Iterator[str]:
    """Name what a description leaves open and MLCommons accepts."""
    values = {field: content.get(field) for field, hint in FIELDS.items() if hint}
    if empty := [field for field, value in values.items() if value is None or not str(value).strip()]:
        yield f"{path}: empty, which MLCommons accepts: {', '.join(empty)}"
    for field in COUNTS:
        value = values[field]
        if value is not None and str(value).strip() and count(content, field) is None:
            yield f"{path}: {field} is {shown(value)}, and not compared with the runs; a whole number, such as 8"


def count(content: Mapping[str, Any], field: str) -> int | None:
    """The whole number in a field; None if there is none."""
    text = str(content.get(field, "")).strip()
    return int(text) if text.isdecimal() else None


def disagreements(path: Path, content: Mapping[str, Any], platform: str, status: str) -> Iterator[str]:
    """Name what the runs' logs call otherwise than the description; no checker of MLCommons compares them."""
    system = str(content.get("system_name"))
    if not any(are_same(platform, name) for name in (system, path.stem)):
        yield f"submission_platform is {platform} in the logs; {path} has system_name {system}"
    meant = next((words for known, words in STATUSES.items() if known.value == status), None)
    if meant != content.get("status"):
        yield f"submission_status is {status or 'empty'} in the logs; {path} has status {content.get('status')}"

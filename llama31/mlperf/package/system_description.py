"""System description of a submission, systems/SYSTEM.json: draft one from the machine, and check one.

The fields are those that mlperf-logging's system_desc_checker requires; most may be empty.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llama31.common.errors import UserError
from llama31.common.files import atomic_writer
from llama31.config.mlperf_names import are_same, is_name
from llama31.config.resolve import Resolved
from llama31.mlperf.log.records import shown
from llama31.mlperf.package import machine
from llama31.settings import Division, Status

BLANK = "FILL IN: "
"""Prefix of a value that the submitter must fill in."""

STATUSES = {
    Status.onprem: "Available on-premise",
    Status.cloud: "Available cloud",
    Status.preview: "Preview",
    Status.research: "Research, Development, or Internal (RDI)",
}
"""Status in a description, by the value of SUBMISSION_STATUS in a log."""

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
"""Field -> hint for the submitter, if the machine does not provide the value; notes may stay empty."""

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
"""Fields at which system_desc_checker raises TypeError unless they are strings."""


def system(resolved: Resolved, output: Path | None) -> int:
    """Print a draft for this machine, or write it to a new file, and list the fields to fill in."""
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
    print(f"to fill in, {len(blanks)} of {len(drafted)} fields: {', '.join(blanks)}", file=sys.stderr)
    return 0


def draft(resolved: Resolved) -> dict[str, str]:
    """Return a draft; settings that the user set give the submitter, the system name and the number of nodes."""
    settings = resolved.settings
    from_settings = {
        "submission_org": ("submitter", settings.submission_org),
        "submission_platform": ("system_name", settings.submission_platform),
        "submission_status": ("status", STATUSES[settings.submission_status]),
        "nnodes": ("number_of_nodes", str(settings.nnodes)),
    }
    known = {"division": Division.closed.value, **machine.describe()}
    for name, (field, value) in from_settings.items():
        if resolved.origins[name] != "default" and value != "unset":
            known[field] = value
    return {field: known.get(field, f"{BLANK}{hint}" if hint else "") for field, hint in FIELDS.items()}


def problems(path: Path, content: Mapping[str, Any], submitters: Sequence[str]) -> Iterator[str]:
    """Yield what makes a description unfit for a submission in the closed division.

    The name of its file, `path`, is the system's. `submitters`: accepted names of the organisation; case and
    punctuation are ignored.
    """
    if not is_name(path.stem) or path.suffix != ".json":
        yield f"{path}: not a valid system name; use letters, digits, -, _ and . and the ending .json"
    for field, hint in FIELDS.items():
        value = content.get(field)
        if field not in content:
            yield f"{path}: {field} is missing; {hint or 'it may be empty'}"
        elif field in TEXTS and not isinstance(value, str):
            yield f"{path}: {field} is {json.dumps(value)}; the checkers require a string"
        elif isinstance(value, str) and value.startswith(BLANK):
            yield f"{path}: {field} is not filled in; {value.removeprefix(BLANK)}"
    for field, choices in {"division": [Division.closed.value], "status": list(STATUSES.values())}.items():
        if (value := content.get(field)) not in choices and field in content and not str(value).startswith(BLANK):
            yield f"{path}: {field} is {shown(value)}; must be {' or '.join(choices)}"
    submitter = content.get("submitter")
    is_named = isinstance(submitter, str) and not submitter.startswith(BLANK)
    if is_named and not any(are_same(str(submitter), one) for one in submitters):
        yield f"{path}: submitter is {submitter}; must be {' or '.join(dict.fromkeys(submitters))}"


def notes(path: Path, content: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a description leaves open although MLCommons accepts it."""
    values = {field: content.get(field) for field, hint in FIELDS.items() if hint}
    if empty := [field for field, value in values.items() if value is None or not str(value).strip()]:
        yield f"{path}: empty, which MLCommons accepts: {', '.join(empty)}"
    for field in COUNTS:
        value = values[field]
        if value is not None and str(value).strip() and count(content, field) is None:
            yield f"{path}: {field} is {shown(value)}, not a whole number such as 8: not compared with the runs"


def count(content: Mapping[str, Any], field: str) -> int | None:
    """Return the whole number in a field, or None."""
    text = str(content.get(field, "")).strip()
    return int(text) if text.isdecimal() else None


def disagreements(path: Path, content: Mapping[str, Any], platform: str, status: str) -> Iterator[str]:
    """Yield where the description differs from the logs; no checker of MLCommons compares them."""
    system = str(content.get("system_name"))
    if not any(are_same(platform, name) for name in (system, path.stem)):
        yield f"submission_platform is {platform} in the logs; {path} has system_name {system}"
    logged = next((title for known, title in STATUSES.items() if known.value == status), None)
    if logged != content.get("status"):
        yield f"submission_status is {status or 'empty'} in the logs; {path} has status {content.get('status')}"

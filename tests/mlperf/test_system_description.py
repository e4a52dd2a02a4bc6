"""`llama31 system`: the draft of a system description, and its errors."""

import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mlperf_logging.system_desc_checker import system_desc_checker

from llama31 import rules
from llama31.common.errors import UserError
from llama31.common.json_files import load_object
from llama31.config.resolve import resolve
from llama31.mlperf.package import machine, system_description

SUBMITTER = {"SUBMISSION_ORG": "Acme", "SUBMISSION_PLATFORM": "8xH200", "SUBMISSION_STATUS": "cloud", "NNODES": "2"}
H200 = "NVIDIA H200, 143771, 1980, 5, 16, 570.86.15\n"


@pytest.fixture(scope="module")
def drafted() -> dict[str, str]:
    return system_description.draft(resolve([], SUBMITTER))


def filled_in(drafted: dict[str, str]) -> dict[str, Any]:
    """The draft with something in each blank."""
    counts = dict.fromkeys(system_description.COUNTS, "8")
    return {
        field: counts.get(field, "something") if value.startswith(system_description.BLANK) else value
        for field, value in drafted.items()
    }


def problems(tmp_path: Path, content: dict[str, Any], org: str = "Acme") -> list[str]:
    path = tmp_path / "8xH200.json"
    return [line.removeprefix(f"{path}: ") for line in system_description.problems(path, content, [org])]


def notes(tmp_path: Path, content: dict[str, Any]) -> list[str]:
    path = tmp_path / "8xH200.json"
    return [line.removeprefix(f"{path}: ") for line in system_description.notes(path, content)]


def officially_valid(tmp_path: Path, content: dict[str, Any], ruleset: str = rules.RULESETS[-1]) -> bool:
    file = tmp_path / "official.json"
    file.write_text(json.dumps(content))
    return bool(system_desc_checker.check_system_desc(str(file), "training", ruleset)[0])


@pytest.mark.parametrize("ruleset", rules.RULESETS)
def test_a_filled_in_draft_is_accepted(tmp_path: Path, drafted: dict[str, str], ruleset: str) -> None:
    assert problems(tmp_path, filled_in(drafted)) == []
    assert officially_valid(tmp_path, filled_in(drafted), ruleset)


@pytest.mark.parametrize("field", system_description.FIELDS)
def test_each_field_is_one_that_the_official_checker_wants(tmp_path: Path, drafted: dict[str, str], field: str) -> None:
    content = filled_in(drafted)
    del content[field]
    assert not officially_valid(tmp_path, content)
    assert [line.split(" is missing")[0] for line in problems(tmp_path, content)] == [field]


def test_each_blank_is_named_with_what_belongs_there(tmp_path: Path, drafted: dict[str, str]) -> None:
    blanks = {field for field, value in drafted.items() if value.startswith(system_description.BLANK)}
    assert {"cooling", "host_memory_configuration", "accelerator_interconnect"} <= blanks, "no machine can know these"
    found = problems(tmp_path, drafted)
    assert {line.split(" is not filled in; ")[0] for line in found} == blanks
    assert "cooling is not filled in; air or liquid" in found


def test_settings_say_who_submits(drafted: dict[str, str]) -> None:
    said = {field: drafted[field] for field in ("submitter", "system_name", "status", "number_of_nodes", "division")}
    assert said == {
        "submitter": "Acme", "system_name": "8xH200", "status": "Available cloud", "number_of_nodes": "2",
        "division": "closed",
    }  # fmt: skip
    silent = system_description.draft(resolve([], {}))
    assert all(silent[field].startswith(system_description.BLANK) for field in said if field != "division")


def test_the_machine_is_this_one(drafted: dict[str, str]) -> None:
    """Against other sources than the draft's: sysconf, procfs, the interpreter."""
    sockets, threads = (int(drafted[f"host_processor{name}"]) for name in ("s_per_node", "_vcpu_count"))
    assert sockets * threads == os.sysconf("SC_NPROCESSORS_CONF")
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert drafted["host_memory_capacity"] == f"{pages / 2**30:.0f} GiB"
    assert platform.release() in drafted["operating_system"]
    assert f"Python {platform.python_version()}" in drafted["other_software_stack"]
    assert re.fullmatch(r"NVIDIA NeMo \S+, Megatron-Core \S+, PyTorch \S+", drafted["framework"])


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that is all of PATH: programs that a test puts there are the only ones."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", str(directory))
    return directory


def put(tools: Path, name: str, output: str) -> None:
    """A program that prints so much, as the real one on another machine."""
    program = tools / name
    program.write_text(f"#!{sys.executable}\nprint({output!r}, end='')\n")
    program.chmod(0o755)


def test_gpus_are_those_of_nvidia_smi(tools: Path) -> None:
    put(tools, "nvidia-smi", H200 * 8)
    assert "NVIDIA driver 570.86.15" in machine.software()["other_software_stack"]
    assert machine.gpus() == {
        "accelerators_per_node": "8",
        "accelerator_model_name": "NVIDIA H200",
        "accelerator_memory_capacity": "140 GiB",
        "accelerator_frequency": "1980 MHz at most",
        "accelerator_host_interconnect": "PCIe 5.0 x16",
    }


def test_what_nvidia_smi_does_not_know_stays_blank(tools: Path) -> None:
    put(tools, "nvidia-smi", "NVIDIA GB200, [N/A], [N/A], [N/A], [N/A], 570.86.15\n")
    assert machine.gpus() == {"accelerators_per_node": "1", "accelerator_model_name": "NVIDIA GB200"}
    put(tools, "nvidia-smi", "No devices were found\n")
    assert machine.gpus() == {} and "driver" not in machine.software()["other_software_stack"]


@pytest.mark.parametrize("nested", [False, True])
def test_processors_are_those_of_lscpu(tools: Path, nested: bool) -> None:
    socket = [
        ("Socket(s):", "2"),
        ("Core(s) per socket:", "56"),
        ("Thread(s) per core:", "2"),
        ("CPU max MHz:", "3800.0"),
    ]
    inner = [{"field": field, "data": data} for field, data in [*socket, ("L3 cache:", "210 MiB (2 instances)")]]
    model = {"field": "Model name:", "data": "Intel(R) Xeon(R) Platinum 8480C"}
    entries = [{**model, "children": inner}] if nested else [model, *inner]
    put(tools, "lscpu", json.dumps({"lscpu": entries}))
    assert machine.processors() == {
        "host_processor_model_name": "Intel(R) Xeon(R) Platinum 8480C",
        "host_processors_per_node": "2",
        "host_processor_core_count": "56",
        "host_processor_vcpu_count": "112",
        "host_processor_frequency": "3800 MHz at most",
        "host_processor_caches": "L3 210 MiB (2 instances), summed over the node",
    }


def test_disks_are_those_of_lsblk(tools: Path) -> None:
    disks = [
        ("nvme0n1", 3_840_755_982_336, False),
        ("nvme1n1", 3_840_755_982_336, False),
        ("sda", 480_103_981_056, True),
    ]
    devices = [{"name": name, "size": size, "rota": rota, "type": "disk"} for name, size, rota in disks]
    put(
        tools,
        "lsblk",
        json.dumps({"blockdevices": [*devices, {"name": "loop0", "size": 1, "rota": 0, "type": "loop"}]}),
    )
    assert machine.storage() == {
        "host_storage_type": "HDD, NVMe SSD",
        "host_storage_capacity": "2x 3,841 GB, 1x 480 GB",
    }


def test_networks_are_those_of_sysfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "SYSTEM", tmp_path)
    for card, speed in (("eth0", "100000"), ("eth1", "-1")):
        (tmp_path / "net" / card / "device").mkdir(parents=True)
        (tmp_path / "net" / card / "speed").write_text(f"{speed}\n")
    (tmp_path / "net" / "lo").mkdir()
    assert machine.network() == {"host_networking": "1x Ethernet 100 Gb/s"}
    for card in range(8):
        port = tmp_path / "infiniband" / f"mlx5_{card}" / "ports" / "1"
        port.mkdir(parents=True)
        (port / "rate").write_text("400 Gb/sec (4X NDR)\n")
    assert machine.network() == {"host_networking": "8x InfiniBand or RoCE 400 Gb/sec (4X NDR)"}


@pytest.mark.parametrize("output", ["", "{}", "not JSON", '{"lscpu": 3, "blockdevices": [{"name": "x"}]}'])
def test_tools_that_say_nothing_leave_blanks(tools: Path, output: str) -> None:
    for name in ("lscpu", "lsblk", "nvidia-smi"):
        put(tools, name, output)
    found = machine.describe()
    assert not {field for field in found if field.startswith(("host_processor", "host_storage", "accelerator"))}


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"submitter": "Other"}, "submitter is Other; must be Acme"),
        ({"division": "open"}, 'division is "open"; must be closed'),
        (
            {"status": "onprem"},
            'status is "onprem"; must be Available on-premise or Available cloud or Preview',
        ),
        ({"accelerators_per_node": 8}, "accelerators_per_node is 8; the checkers require a string"),
        ({"framework": None}, "framework is null; the checkers require a string"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, drafted: dict[str, str], change: dict[str, Any], line: str) -> None:
    (found,) = problems(tmp_path, {**filled_in(drafted), **change})
    assert found.startswith(line), found


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            {"cooling": " ", "host_processor_caches": ""},
            "empty, which MLCommons accepts: host_processor_caches, cooling",
        ),
        ({"cooling": None}, "empty, which MLCommons accepts: cooling"),
        (
            {"accelerators_per_node": "eight"},
            'accelerators_per_node is "eight", not a whole number such as 8: not compared with the runs',
        ),
        (
            {"number_of_nodes": "2 to 4"},
            'number_of_nodes is "2 to 4", not a whole number such as 8: not compared with the runs',
        ),
    ],
)
def test_what_mlcommons_accepts_is_a_note(
    tmp_path: Path, drafted: dict[str, str], change: dict[str, Any], line: str
) -> None:
    content = {**filled_in(drafted), **change}
    assert officially_valid(tmp_path, content) and problems(tmp_path, content) == []
    (found,) = notes(tmp_path, content)
    assert found.startswith(line), found


@pytest.mark.parametrize("field", system_description.FIELDS)
def test_a_number_is_refused_where_the_official_checker_ends(
    tmp_path: Path, drafted: dict[str, str], field: str
) -> None:
    content = {**filled_in(drafted), field: 8}
    try:
        accepts = officially_valid(tmp_path, content)
    except TypeError:
        accepts = False
    found = problems(tmp_path, content, "8") if field == "submitter" else problems(tmp_path, content)
    assert bool(found) != accepts or field == "division", found


def test_submitters_are_compared_without_punctuation(tmp_path: Path, drafted: dict[str, str]) -> None:
    content = {**filled_in(drafted), "submitter": "Quanta Cloud Technology"}
    assert problems(tmp_path, content, "Quanta_Cloud_Technology") == []


def test_software_by_name_is_as_good(tmp_path: Path, drafted: dict[str, str]) -> None:
    content = {**filled_in(drafted), "other_software_stack": {"cuda": "12.8"}}
    assert problems(tmp_path, content) == [] and officially_valid(tmp_path, content)


@pytest.mark.parametrize("text", ["", "{", "[]", "\xff"])
def test_what_is_no_description_is_one_line(tmp_path: Path, text: str) -> None:
    file = tmp_path / "system.json"
    file.write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=r"system\.json: not (JSON: .*|a JSON object)$") as error:
        load_object(file)
    assert len(error.value.lines) == 1


def test_the_verb_writes_a_new_file_only(tmp_path: Path) -> None:
    file = tmp_path / "8xH200.json"
    command = [sys.executable, "-m", "llama31", "system", "-o", str(file)]
    environment = {name: value for name, value in os.environ.items() if name != "SUBMISSION_ORG"} | SUBMITTER
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout == f"{file}: written\n", done.stderr
    assert json.loads(file.read_text())["submitter"] == "Acme"
    assert re.fullmatch(r"to fill in, \d+ of 33 fields: .*\bcooling\n", done.stderr), done.stderr
    again = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (again.returncode, again.stderr) == (2, f"{file}: exists; name another file for the draft\n")
    printed = subprocess.run(command[:-2], env=environment, capture_output=True, text=True, check=True)
    assert printed.stdout == file.read_text()

"""Console output of a run during training."""

import contextlib
import io
import os
import pty
import re
from dataclasses import replace

import pytest

from llama31.config.environment import read_by_libraries
from llama31.estimates.gpus import GPUS, Gpu, by_device_name
from llama31.run_dir.events import ABORTED, Evaluation, Outcome, Step
from llama31.settings import Precision, Settings
from llama31.training.console_progress import ConsoleProgress

BENCHMARK = Settings(gbs=32, gpus_per_node=8)
VOCABULARY = 128_256
FLOPS_PER_TOKEN = 6 * 8_030_261_248 + 12 * 32 * 4096 * 8192  # of the 8b model, as the Llama 3 paper counts


def step(number: int, seconds: float = 2.0) -> Step:
    return Step(number, number * BENCHMARK.gbs, 5.4321, 8e-4, seconds)


def evaluation(number: int, loss: float, seconds: float) -> Evaluation:
    return Evaluation(number, number * BENCHMARK.gbs, loss, 1024, "0", seconds, reached_target=loss <= 3.3)


def plain(
    *events: Step | Evaluation, settings: Settings = BENCHMARK, last: int = 100_000, gpu: Gpu | None = None
) -> str:
    """What is written where output is no terminal."""
    out = io.StringIO()
    progress = ConsoleProgress(settings, VOCABULARY, last, gpu, out)
    for event in events:
        if isinstance(event, Step):
            progress._shown_at = float("-inf")
            progress.step_ended(event)
        else:
            progress.evaluation_ended(event)
    return out.getvalue()


def test_a_line_holds_what_a_person_asks_for() -> None:
    line = plain(step(1), gpu=GPUS["H200"])
    flops = FLOPS_PER_TOKEN * 32 * 8192 / 2 / 8
    assert line == (
        "step 1/100,000 | 32 samples | loss 5.4321 | lr 8.00e-04 | 131,072 tokens/s | "
        f"{flops / 1e15:.4g} PFLOP/s each | MFU {flops / 989e12:.1%} | next evaluation in 0:12:46 | "
        "the reference's 178,859 samples in 3:06:18\n"
    )


@pytest.mark.parametrize(
    ("settings", "gpu"), [(BENCHMARK, None), (replace(BENCHMARK, precision=Precision.fp32), GPUS["H200"])]
)
def test_without_a_known_peak_there_is_no_mfu(settings: Settings, gpu: Gpu | None) -> None:
    text = plain(step(1), settings=settings, gpu=gpu)
    assert "FLOP/s each" in text and "MFU" not in text


@pytest.mark.parametrize(
    ("settings", "number", "last"),
    [
        (BENCHMARK, 5590, 100_000),  # past the reference's count
        (BENCHMARK, 1, 900),  # the run ends before
        (replace(BENCHMARK, size="demo"), 1, 900),  # the reference says nothing of it
        (replace(BENCHMARK, gbs=48), 1, 900),
    ],
)
def test_without_a_reference_ahead_the_last_step_counts(settings: Settings, number: int, last: int) -> None:
    text = plain(replace(step(number), consumed_samples=number * settings.gbs), settings=settings, last=last)
    assert "reference" not in text and re.search(r"\| ends within \d+:\d\d:\d\d$", text)


def test_evaluations_ahead_take_their_time() -> None:
    """The reference's 178,859 samples are step 5,590, after 14 evaluations of each 384 steps."""
    text = plain(step(384), evaluation(384, 4.0, 100.0), step(385))
    hours, minutes, seconds = map(int, re.findall(r"samples in (\d+):(\d+):(\d+)", text)[-1])
    assert (hours * 60 + minutes) * 60 + seconds == (5590 - 385) * 2 + 13 * 100


def test_the_mean_step_follows_the_newest() -> None:
    lines = plain(step(1, 2.0), *(step(number, 4.0) for number in range(2, 60))).splitlines()
    speeds = [int(re.findall(r"([\d,]+) tokens/s", line)[0].replace(",", "")) for line in lines]
    assert speeds[0] == 131_072 and speeds == sorted(speeds, reverse=True)
    assert speeds[-1] == pytest.approx(65_536, rel=0.01)


def test_a_slow_first_step_does_not_last() -> None:
    lines = plain(step(1, 60.0), step(2, 2.0), step(3, 2.0)).splitlines()
    assert ["4,369 tokens/s" in lines[0], *("131,072 tokens/s" in line for line in lines[1:])] == [True] * 3, lines


@pytest.mark.parametrize("no_color", ["", "1"])
def test_a_terminal_gets_one_live_line_and_evaluations_that_stand_out(
    no_color: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", no_color)
    reader, writer = pty.openpty()
    with os.fdopen(writer, "w", encoding="utf-8") as out:
        _set_columns(writer, 60)
        progress = ConsoleProgress(BENCHMARK, VOCABULARY, 100_000, None, out)
        progress.run_started(0)
        for number in (1, 2, 3):
            progress.step_ended(step(number))
        progress.evaluation_ended(evaluation(3, 3.2, 1.5))
        progress.run_stopped(Outcome(ABORTED, "", 1, 3, 96))
    text = _read_all(reader)
    live = [part for part in text.split("\r\x1b[K") if part.startswith("step ")]
    assert len(live) == 3 and all(len(part) < 60 and "\n" not in part for part in live)
    bold = "" if no_color else "\x1b[1m"
    assert f"\r\x1b[K{bold}==> evaluation at step 3 (96 samples): validation loss 3.2000, reached the target" in text


@pytest.mark.parametrize(
    ("columns", "names"),
    [
        (200, "step samples loss lr tokens/s each MFU evaluation reference"),
        (150, "step samples loss tokens/s MFU evaluation reference"),
        (120, "step loss MFU evaluation reference"),
        (80, "step loss MFU evaluation"),
        (40, "step loss"),
        (1, ""),
        (0, "step loss MFU evaluation"),  # as a container's or a serial line says: it is taken for one of 80
    ],
)
def test_a_narrow_terminal_keeps_what_matters_most(columns: int, names: str) -> None:
    reader, writer = pty.openpty()
    with os.fdopen(writer, "w", encoding="utf-8") as out:
        _set_columns(writer, columns)
        ConsoleProgress(BENCHMARK, VOCABULARY, 100_000, GPUS["H200"], out).step_ended(step(1))
    shown = _read_all(reader).removeprefix("\r\x1b[K")
    assert len(shown) < (columns or 80)
    wanted = names.split()
    parts = shown.split(" | ") if shown else []
    assert len(parts) == len(wanted) and all(word in part for word, part in zip(wanted, parts, strict=True)), shown


def _read_all(terminal: int) -> str:
    """What was written to a terminal that is closed by now."""
    found = b""
    with contextlib.suppress(OSError):  # how a terminal says that nothing more comes
        while data := os.read(terminal, 100_000):
            found += data
    os.close(terminal)
    return found.decode()


def _set_columns(terminal: int, columns: int) -> None:
    import fcntl
    import struct
    import termios

    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA B200", "B200"),
        ("NVIDIA GB200", "GB200"),
        ("AMD Instinct MI325X", "MI325X"),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA H200 NVL", "H200-NVL"),
        ("NVIDIA H100 NVL", None),
        ("NVIDIA A100-SXM4-80GB", None),
        ("", None),
    ],
)
def test_gpus_by_their_drivers_names(name: str, known: str | None) -> None:
    assert by_device_name(name) == (GPUS[known] if known else None)


def test_no_record_holds_a_secret() -> None:
    environment = {
        "WANDB_API_KEY": "x",
        "WANDB_MODE": "offline",
        "NCCL_TOKEN": "x",
        "WANDB_X_EXTRA_HTTP_HEADERS": '{"Authorization": "x"}',
        "WANDB_BASE_URL": "https://user:x@wandb.example.com",
        "HOME": "/x",
        "OMP_NUM_THREADS": "1",
    }
    assert read_by_libraries(environment) == {"OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}

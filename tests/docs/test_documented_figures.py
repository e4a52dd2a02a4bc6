"""Figures in docs/: rules, model sizes, reference points, estimates, recomputation, exit codes."""

import re
from dataclasses import fields

import tiny
from documents import (
    REPOSITORY,
    blocks,
    exported_by,
    flowing,
    identifier,
    number,
    page,
    shown,
    table,
    text,
)

from dev import demo_tokenizer
from llama31 import rules
from llama31.config import low_precision, recompute
from llama31.config.model_sizes import ROTARY_BASE, SIZES, Shape
from llama31.config.resolve import resolve
from llama31.corpus import consolidate
from llama31.estimates import memory, speed
from llama31.estimates.gpus import GB, GPUS, recipes
from llama31.plan import validate
from llama31.report.published import published
from llama31.run_dir import events
from llama31.settings import Fp8Recipe, Precision, RecomputeGranularity, Settings, names, to_dict

PUBLISHED = "configs/published/"
BENCHMARK, LAYOUT = page("benchmark"), page("memory-and-layout")


def test_settings_are_in_the_order_of_the_code() -> None:
    described = {row["Setting"].strip("`"): row["Meaning"] for row in table(page("settings"), "Setting")}
    assert list(described) == names()
    assert described["PRECISION"].startswith("Arithmetic: bf16 \\| fp8 ")


def test_rules_are_those_of_the_code() -> None:
    rows = table(BENCHMARK, "Rule")
    for row in rows:
        value = getattr(rules, identifier(row["Rule"]).upper())
        assert row["Value"] == shown(value) or number(row["Value"]) == value, row
        if row.get("Setting"):
            assert to_dict(Settings())[row["Setting"].strip("`").lower()] == value, row
    shown_rules = {identifier(row["Rule"]).upper() for row in rows}
    fixed = {name for name in vars(rules) if re.match("ADAM_|EVAL_|VALIDATION_", name)}
    assert fixed <= shown_rules


def test_figures_within_the_text_follow_from_the_rules() -> None:
    usual = Settings()
    interval = rules.steps_between_evaluations(usual.eval_every, usual.gbs)
    first, last = (consolidate.part_shards(part) for part in rules.BENCHMARK_PARTS)
    point = rules.REFERENCE_POINTS[usual.gbs]
    for words in (
        f"loss reaches {rules.TARGET}",
        f"the last {len(first) + len(last)} shards, which are parts {usual.train_parts.replace(' ', ' and ')}",
        f"shards {first[0]} to {first[-1]}, part {rules.BENCHMARK_PARTS[1]} shards {last[0]} to {last[-1]}",
        f"the first {usual.eval_samples:,} sequences",
        f"{usual.eval_samples * usual.seq_length:,} tokens",
        f"at `GBS={usual.gbs}` that is {interval} steps",
        f"{usual.warmup} at `GBS={usual.gbs}`",
        f"`WARMUP_STEPS={point.warmup_samples // point.global_batch_size}` at `GBS={usual.gbs}`",
    ):
        assert words in flowing(BENCHMARK), words
    assert f"rulesets {', '.join(rules.RULESETS[:-1])} and {rules.RULESETS[-1]}" in flowing(page("results"))
    steps = [point.mean / point.global_batch_size for point in rules.REFERENCE_POINTS.values()]
    assert max(steps) < rules.MAX_STEPS / 100, "a run of the reference ends within the schedule's first hundredth"
    free = re.search(r"Free in the closed division: (.*?), the seed", text(BENCHMARK), re.S)
    assert free and not set(re.findall(r"`(\w+)`", free[1])) & {
        row.get("Setting", "").strip("`") for row in table(BENCHMARK, "Rule")
    }


def test_model_table_is_that_of_the_sizes() -> None:
    rows = {identifier(row.pop("")): row for row in table(BENCHMARK, "")}
    vocabularies = rows.pop(identifier("Vocabulary, its tokenizer's"))
    parameters = rows.pop("parameters")
    assert list(vocabularies) == list(SIZES)
    assert rows == {
        field.name: {size: shown(getattr(shape, field.name)) for size, shape in SIZES.items()}
        for field in fields(Shape)
    }
    assert vocabularies["demo"] == shown(demo_tokenizer.VOCABULARY)
    assert vocabularies["tiny"] == shown(tiny.VOCABULARY)
    for size, shape in SIZES.items():
        assert parameters[size] == shown(shape.parameters(int(number(vocabularies[size]))))
    assert f"base {ROTARY_BASE:,}" in text(BENCHMARK)


def test_reference_points_are_those_of_the_rules() -> None:
    rows = table(BENCHMARK, "Global batch size")
    points = [{identifier(title): number(cell) for title, cell in row.items()} for row in rows]
    assert points == [vars(point) for point in rules.REFERENCE_POINTS.values()]


def test_systems_are_those_of_the_configurations() -> None:
    rows = {row.pop("Configuration").strip("`"): row for row in table(LAYOUT, "Configuration")}
    assert set(rows) == {f"configs/{path.name}" for path in (REPOSITORY / "configs").glob("config_*x*.sh")}
    for config, row in rows.items():
        settings = resolve([], exported_by(config)).settings
        for title, cell in row.items():
            if title.startswith("`"):
                assert number(cell) == getattr(settings, title.strip("`").lower()), (config, title)
        gpu, vocabulary = GPUS[settings.gpu], rules.VOCABULARY_SIZE
        needed, selective, full = (
            memory.per_gpu(recompute.instead(settings, granularity), vocabulary).total
            for granularity in RecomputeGranularity
        )
        assert settings.recompute_granularity is RecomputeGranularity.none, config
        operations = speed.flops_to(rules.REFERENCE_POINTS[settings.gbs].mean, settings, vocabulary)
        figures = {
            "Tensor parallel": str(settings.tensor_parallel_size),
            "GB needed": f"{needed / GB:.1f}",
            "GB there": f"{gpu.memory / GB:.0f}",
            "FFNs recomputed": f"{selective / GB:.1f}",
            "Layers recomputed": f"{full / GB:.1f}",
            "Hours": f"{speed.seconds(operations, settings, gpu) / 3600:.1f}",
        }
        assert {title: row[title] for title in figures} == figures, config
    assert f"an allowance of {memory.ALLOWANCE // GB} GB" in flowing(LAYOUT)
    shares = [f"{share:.0%}" for share in speed.UTILISATION.values()]
    assert f"{shares[0]} of the GPU's peak in bf16, and {shares[1]} of the bf16 peak in fp8" in flowing(LAYOUT)


def test_published_systems_are_those_of_their_configurations() -> None:
    rows = {row.pop("Published").strip("`"): row for row in table(LAYOUT, "Published")}
    assert set(rows) == {f"{PUBLISHED}{path.name}" for path in (REPOSITORY / PUBLISHED).iterdir()}
    scores = {system.system: system.score_minutes for system in published() if system.round == "v6.0"}
    for config, row in rows.items():
        settings, source = resolve([], exported_by(config)).settings, text(REPOSITORY / config)
        (score,) = [score for system, score in scores.items() if f"({system})" in source]
        gpu = GPUS[settings.gpu]
        operations = speed.flops_to(rules.REFERENCE_POINTS[settings.gbs].mean, settings, rules.VOCABULARY_SIZE)
        assert row.pop("System").endswith(
            f", {settings.nnodes * settings.gpus_per_node:,} x {settings.gpu.replace('-', ' ')}"
        )
        assert row == {
            "`PRECISION`": settings.precision.name,
            "`GBS`": str(settings.gbs),
            "`MBS`": str(settings.mbs),
            "Published score": f"{score:.1f}",
            "Estimate": f"{speed.seconds(operations, settings, gpu) / 60:.1f}",
            "GB needed": f"{memory.per_gpu(settings, rules.VOCABULARY_SIZE).total / GB:.1f}",
            "GB there": f"{gpu.memory / GB:.0f}",
        }, config


def test_what_recomputation_saves_and_costs() -> None:
    title = "`RECOMPUTE_GRANULARITY`"
    rows = {row.pop(title).strip("`"): row for row in table(LAYOUT, title)}
    assert list(rows) == [granularity.name for granularity in RecomputeGranularity]
    for name, row in rows.items():
        settings = recompute.instead(Settings(), RecomputeGranularity[name])
        kept = memory.per_gpu(settings, rules.VOCABULARY_SIZE).activations
        more = speed.recomputed_per_token(settings) / speed.flops_per_token(settings, rules.VOCABULARY_SIZE)
        assert (row["Activations, GB"], row["Extra operations"]) == (f"{kept / GB:.1f}", f"{more:.0%}"), name
    selective, full = rows["selective"]["Extra operations"], rows["full"]["Extra operations"]
    assert f"`selective` costs {selective} more operations, `full` {full}" in flowing(REPOSITORY / "README.md")


def test_the_refusal_shown_is_that_of_a_run(benchmark_data: dict[str, str]) -> None:
    given = [f"{name}={value}" for name, value in benchmark_data.items()]
    exported = exported_by("configs/config_H200_1x8.sh")
    _, (line,) = validate.look(resolve([*given, "MBS=2"], exported).settings)
    for document in (REPOSITORY / "README.md", LAYOUT):
        assert any(line in block.splitlines() for block in blocks(document, "text")), document.name


def test_exit_codes_are_those_of_a_run() -> None:
    codes = {value: name for name, value in vars(events).items() if name.isupper() and isinstance(value, int)}
    rows = {int(row["Exit code"]): row["Meaning"] for row in table(page("running"), "Exit code")}
    assert set(rows) == {0, *codes}
    for value, name in {0: events.SUCCESS, **codes}.items():
        expected = name.lower().replace("_", " ")
        assert rows[value].startswith(expected), f"{value} is {name}: {rows[value]}"
    listed = {int(code): words for code, words in re.findall(r"\b(\d+): ([a-z ]+)", exit_codes_of_the_readme())}
    assert listed.keys() == rows.keys()
    assert all(rows[code].startswith(words) or code == 0 for code, words in listed.items())


def exit_codes_of_the_readme() -> str:
    """The sentence of README.md that lists exit codes."""
    sentence = re.search(r"Exit code (0: .*?)\.", flowing(REPOSITORY / "README.md"))
    assert sentence
    return sentence[1]


def test_recipes_and_their_gpus() -> None:
    rows = {row["Recipe"].strip("`"): row for row in table(page("running"), "Recipe")}
    assert list(rows) == [*Fp8Recipe.__members__, Precision.nvfp4.name]
    before = ""
    for name, row in rows.items():
        named = before = before if row["`GPU`"] == "the same" else row["`GPU`"]
        assert named.split(", ") == [gpu for gpu, entry in GPUS.items() if name in recipes(entry.capability)]
        given = resolve(row["Settings"].strip("`").split(), {}).settings
        assert low_precision.recipe(given) == name

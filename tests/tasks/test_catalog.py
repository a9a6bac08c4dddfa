"""The catalogue: every entry is sound, a study's entries are laid over it, mistakes are listed together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rows import source

from xtrain.errors import UserError
from xtrain.evaluation.benchmark.layout import BENCHMARKS
from xtrain.study import Recipe
from xtrain.tasks import catalog, formats

ENTRY: dict[str, Any] = {
    "format": "classification",
    "languages": ["en"],
    "labels": ["a", "b"],
    "sources": [source()],
}


def problems_of(**changes: Any) -> str:
    with pytest.raises(UserError) as caught:
        catalog.load({"mine": {**ENTRY, **changes}}, "study.toml")
    return str(caught.value)


INTERMEDIATE = {
    "anli_plus", "anli", "boolq", "ccg", "commonsense_qa", "copa", "copa_translated", "cosmosqa", "hellaswag",
    "hellaswag_translated", "mlm", "mlqa_translated", "mnli", "mrpc", "paws", "pawsx_translated", "qnli", "qqp",
    "qqp_translated", "rte", "snli", "socialiqa", "socialiqa_translated", "squad", "squad_retrieval",
    "squad_translated", "squad_v2", "tydiqa_goldp", "ud", "wikiann", "xnli_translated",
}  # fmt: skip
TRANSLATED = sorted(name for name in INTERMEDIATE if name.endswith("_translated"))


def test_every_entry_of_the_catalogue_is_sound() -> None:
    specs = catalog.load()
    targets = {name for version in BENCHMARKS.values() for name in version.tasks}
    missing = (INTERMEDIATE | targets | {"messages", "message_retrieval", "starter_rte", "starter_boolq"}) - set(specs)
    assert not missing, missing
    for name, spec in specs.items():
        Recipe(**spec.recipe)
        trains = formats.get(spec.format).trained
        evaluated = bool({"test", "dev"} & set(spec.splits)) and not spec.joined
        assert name not in targets or evaluated, name
        for other in spec.training_tasks() or ((name,) if trains else ()):
            assert {"train", "dev"} <= set(specs[other].splits), name
        assert not any(source.files and source.hub for source in spec.sources)
        assert set(spec.default_train_languages) <= set(spec.languages) or spec.languages == ("*",), name


@pytest.mark.parametrize("version", sorted(BENCHMARKS))
def test_benchmark_languages(version: str) -> None:
    specs = catalog.load()
    for name, task in BENCHMARKS[version].tasks.items():
        assert specs[name].languages_in(version) == tuple(sorted(task.languages)), name
        fixed = task.kind in ("label", "tags") and task.labels
        assert not fixed or set(specs[name].labels) == set(task.labels), name


def test_the_files_of_a_benchmark_are_those_of_its_script() -> None:
    specs = catalog.load()
    found = {
        name: [path for split in source.files for path in source.paths(split, "sw")]
        for name, source in ((name, specs[name].sources[0]) for name in ("xnli", "xcopa", "tatoeba", "mlqa"))
    }
    assert found == {
        "xnli": ["xnli/dev-sw.tsv", "xnli/test-sw.tsv"],
        "xcopa": ["xcopa/val-sw.jsonl", "xcopa/test-sw.jsonl"],
        "tatoeba": ["tatoeba/tatoeba.swh-eng.swh", "tatoeba/tatoeba.swh-eng.eng"],
        "mlqa": [f"mlqa/MLQA_V1/{split}/{split}-context-sw-question-sw.json" for split in ("dev", "test")],
    }
    for version in BENCHMARKS.values():
        for name in version.tasks:
            assert specs[name].sources[0].files, f"{name}: the hub comes first"
            assert name == "bucc2018" or any(source.hub for source in specs[name].sources), f"{name}: no hub"


def test_anli_plus_is_one_set_and_xcopa_trains_twice() -> None:
    specs = catalog.load()
    assert specs["anli_plus"].members == ("snli", "mnli", "anli")
    assert specs["anli_plus"].splits == ("train", "dev")
    assert (specs["anli_plus"].recipe["batch_size"], specs["anli_plus"].recipe["epochs"]) == (24, 2)
    assert specs["xcopa"].training_tasks() == ("socialiqa", "copa")
    assert specs["xcopa"].options == specs["copa"].options


@pytest.mark.parametrize("name", TRANSLATED)
def test_translated_sets_say_so_and_are_no_english(name: str) -> None:
    spec = catalog.load()[name]
    assert spec.translated_from == "en"
    assert spec.train_languages == spec.languages
    assert "en" not in spec.languages


def test_the_table_of_tasks_has_every_task_with_its_files_and_ids() -> None:
    page = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text(encoding="utf-8")
    lines = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| `")]
    rows = {cells[0].strip("`"): cells for cells in lines}
    specs = catalog.load()
    assert sorted(rows) == sorted(specs)
    assert len(lines) == len(rows)
    for name, spec in specs.items():
        row = " | ".join(rows[name])
        assert rows[name][-1].strip(), f"{name}: how it was exercised is not said"
        for place in (place for place in spec.sources if place.root == "data"):
            wanted = [place.hub, *(path for split in place.files for path in place.paths(split, "{lang}"))]
            missing = [one for one in wanted if one and f"`{one}`" not in row]
            assert not missing, f"{name}: {missing}"


def test_a_new_entry_and_one_laid_over_the_catalogue() -> None:
    changed = {"files": {"train": "x.tsv"}, "columns": {"text_a": 0, "label": 1}}
    specs = catalog.load({"mine": ENTRY, "mnli": {"recipe": {"epochs": 1}, "sources": [changed]}})
    assert specs["mine"].labels == ("a", "b")
    assert specs["mnli"].recipe["epochs"] == 1
    assert specs["mnli"].recipe["batch_size"] == 24  # the catalogue's, untouched
    assert len(specs["mnli"].sources) == 1
    assert len(catalog.load()["mnli"].sources) > 2  # the catalogue itself is untouched


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"langauges": ["en"]}, ["study.toml: task.mine.langauges", "did you mean 'languages'"]),
        ({"format": "clasification"}, ["task.mine.format", "did you mean 'classification'"]),
        ({"metric": "acuracy"}, ["task.mine.metric", "did you mean 'accuracy'"]),
        ({"labels": ["a"]}, ["task.mine.labels", "two different labels"]),
        ({"labels": ["a", "a"]}, ["task.mine.labels"]),
        ({"languages": []}, ["task.mine.languages"]),
        ({"languages": ["en", "*"]}, ["task.mine.languages"]),
        ({"languages": ["*"]}, ["task.mine.languages", "{lang} in every path"]),
        ({"languages": ["en", "de"]}, ["task.mine.sources[0]", "2 languages", "{lang}"]),
        ({"recipe": {"learning_rat": 1e-5}}, ["task.mine.recipe.learning_rat", "mean 'learning_rate'"]),
        ({"recipe": {"epochs": -1}}, ["task.mine.recipe.epochs", "-1"]),
        ({"options": {"num_choices": 2}}, ["task.mine.options.num_choices", "unknown key"]),
        ({"train_on": "mnly"}, ["task.mine.train_on", "did you mean 'mnli'"]),
        ({"train_on": "mnli"}, ["task.mine.train_on", "other labels"]),
        ({"sources": []}, ["task.mine.sources", "there is none"]),
        ({"sources": [source(hub="x")]}, ["sources[0].splits", "missing"]),
        ({"sources": [{**source(), "hub": "x"}]}, ["sources[0]", "both files and hub"]),
        ({"sources": [source(files={})]}, ["sources[0]", "neither files nor hub"]),
        ({"sources": [source(files={"validation": "x.jsonl"})]}, ["validation", "train, dev, test"]),
        ({"sources": [source(files={"train": "x.txt"})]}, ["sources[0].reader", "jsonl, tsv, csv, lines"]),
        ({"sources": [source(reader="json")]}, ["sources[0].reader", "'json'"]),
        ({"sources": [source(root="here")]}, ["sources[0].root", "data, starter"]),
        ({"sources": [source(columns={"text_a": "t"})]}, ["sources[0].columns.label", "missing"]),
        (
            {"sources": [source(columns={"text_a": "t", "label": "l", "text_c": "u"})]},
            ["columns.text_c", "unknown column", "did you mean 'text_"],
        ),
        ({"sources": [source(columns={"text_a": 0, "label": "l"})]}, ["names and numbers"]),
        ({"sources": [source(columns={"text_a": 0, "label": 1})]}, ["has numbers"]),
        ({"sources": [source(label_map={"x": "c"})]}, ["label_map.x", "'c' is not a label", "a, b"]),
        ({"sources": [source(hash_split={"dev": 1.5})]}, ["sources[0].hash_split"]),
        ({"sources": [source(hash_split={"dev": 0.5, "test": 0.5})]}, ["nothing is left of train"]),
        (
            {"sources": [source(files={"train": "a.jsonl", "dev": "b.jsonl"}, hash_split={"dev": 0.1})]},
            ["hash_split.dev", "named already"],
        ),
        ({"sources": [source(hash_split={"dev": 0.1}, hash_by=["text"])]}, ["hash_by", "'text_a'"]),
        ({"name": "other"}, ["task.mine.name", "unknown key"]),
    ],
)  # fmt: skip
def test_mistakes_in_an_entry(changes: dict[str, Any], said: list[str]) -> None:
    message = problems_of(**changes)
    for part in said:
        assert part in message, message


def test_all_mistakes_at_once() -> None:
    message = problems_of(metric="f2", labels=["a"], recipe={"epoch": 3})
    assert message.startswith("3 problems:")


def test_formats_have_their_own_checks() -> None:
    columns = {"context": "c", "choices": ["x", "y"], "label": "l"}
    choice = {"format": "multiple_choice", "sources": [source(columns=columns)]}
    assert "has none" in problems_of(**choice)  # labels are those of ENTRY
    choice["labels"] = []
    assert "whole number >= 2" in problems_of(**choice, options={"num_choices": 1})
    assert "a table of words" in problems_of(**choice, options={"questions": "why"})
    columns = {"source": "s", "target": "t"}
    retrieval = {"format": "sentence_retrieval", "labels": [], "sources": [source(columns=columns)]}
    assert "text in quotes" in problems_of(**retrieval, options={"prefix": 3})


def test_an_entry_that_is_no_table() -> None:
    with pytest.raises(UserError, match="is not a table"):
        catalog.load({"mine": "mnli"})
    with pytest.raises(UserError, match="the name is not allowed"):
        catalog.load({"my task": ENTRY})


def test_unknown_format_by_name() -> None:
    with pytest.raises(UserError, match="did you mean 'multiple_choice'"):
        formats.get("multiple_choices")

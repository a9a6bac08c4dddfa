"""Every study of studies/ can be read, in each variant, names only what the catalogue has, and fits the real slice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from real_data import SLICE, on_real_data

from xtrain.config import read_toml
from xtrain.data import prepare
from xtrain.graph import Graph, expand
from xtrain.model.bases import KNOWN_BASES
from xtrain.study import Study, load
from xtrain.study_rows import NO_INTERMEDIATE
from xtrain.tasks import TaskSpec, catalog, formats
from xtrain.tasks.sampling import Sample

FOLDER = Path(__file__).parents[1] / "studies"
STUDIES = sorted(path.stem for path in FOLDER.glob("*.toml"))
QUESTIONS = ("logic_to_xcopa", "morphology", "scaling", "complementarity", "multimodal", "phang2020")
LARGE = "FacebookAI/xlm-roberta-large"


def variants() -> list[tuple[str, str]]:
    found = []
    for name in STUDIES:
        found += [(name, variant) for variant in ("", *read_toml(FOLDER / f"{name}.toml").get("variants", {}))]
    return found


@pytest.fixture(scope="module")
def known() -> Mapping[str, TaskSpec]:
    return catalog.load()


def opened(name: str, variant: str, known: Mapping[str, TaskSpec]) -> tuple[Study, Mapping[str, TaskSpec]]:
    path = FOLDER / f"{name}.toml"
    study = load(path, variant=variant, known_tasks=tuple(known))
    return study, catalog.load(study.task, where=str(path)) if study.task else known


def wrong_languages(spec: TaskSpec, languages: Sequence[str]) -> Iterator[str]:
    if spec.languages != ("*",):
        yield from (f"{spec.name}: {language}" for language in languages if language not in spec.languages)


@pytest.mark.parametrize(("name", "variant"), variants())
def test_a_study_names_only_what_there_is(name: str, variant: str, known: Mapping[str, TaskSpec]) -> None:
    study, specs = opened(name, variant, known)
    wrong: list[str] = []
    for row in study.intermediate:
        for task in (task for step in row.phases for task in step):
            assert formats.get(specs[task].format).trained, task
            assert {"train", "dev"} <= {split for member in specs[task].members for split in specs[member].splits}, task
        for task, languages in row.languages.items():
            wrong += wrong_languages(specs[task], languages)
    for column in study.target:
        spec = specs[column.task]
        assert {"test", "dev"} & set(spec.splits), column.task
        wrong += wrong_languages(spec, column.languages)
        for task in spec.training_tasks():
            wrong += wrong_languages(specs[task], column.train_languages)
    assert not wrong


def test_the_questions_start_from_xlm_r_large_with_three_seeds(known: Mapping[str, TaskSpec]) -> None:
    for name in QUESTIONS:
        study, _ = opened(name, "", known)
        assert study.base == ("BAAI/AltCLIP" if name == "multimodal" else LARGE)
        assert len(study.seeds) == 3
        assert study.intermediate[0].name == NO_INTERMEDIATE
        small, _ = opened(name, "slice", known)
        assert small.base == "starter"
        assert small.intermediate[0].name == NO_INTERMEDIATE


def test_bases_that_are_compared_have_one_dropout(known: Mapping[str, TaskSpec]) -> None:
    """By default it is the base's own, and AltCLIP's has none in attention."""
    for variant in ("", "text", "mclip"):
        study, specs = opened("multimodal", variant, known)
        tasks = {task for row in study.intermediate for step in row.phases for task in step}
        recipes = [study.recipe_for("intermediate", task, specs[task].recipe) for task in tasks]
        recipes += [study.recipe_for("target", column.task, specs[column.task].recipe) for column in study.target]
        assert {recipe.dropout for recipe in recipes} == {0.1}, variant
        assert study.base in KNOWN_BASES


def test_the_grid_of_phang_2020(known: Mapping[str, TaskSpec]) -> None:
    study, specs = opened("phang2020", "", known)
    tasks = {row.name: row.phases for row in study.intermediate}
    assert len(tasks) == 11
    assert len(tasks["all nine"][0]) == 9
    assert {task for name, steps in tasks.items() if name != "all nine" for task in sum(steps, ())} == {
        *tasks["all nine"][0]
    }
    assert [column.task for column in study.target] == [
        "xnli", "pawsx", "udpos", "panx", "xquad", "mlqa", "tydiqa", "bucc2018", "tatoeba",
    ]  # fmt: skip
    recipes = {task: study.recipe_for("intermediate", task, specs[task].recipe) for task in tasks["all nine"][0]}
    assert {task: (recipe.batch_size, recipe.epochs) for task, recipe in recipes.items()} == {
        "anli_plus": (24, 2), "mnli": (24, 2), "qqp": (24, 3), "squad_v2": (8, 3), "squad": (8, 3),
        "hellaswag": (24, 7), "ccg": (24, 15), "cosmosqa": (4, 15), "commonsense_qa": (4, 10),
    }  # fmt: skip
    assert {recipe.learning_rate for recipe in recipes.values()} == {1e-5}
    with_mlm, _ = opened("phang2020", "mlm", known)
    assert with_mlm.recipe_for("intermediate", "", {}).learning_rate == 5e-6
    assert all("mlm" in row.phases[0] for row in with_mlm.intermediate[1:])
    translated, _ = opened("phang2020", "translated", known)
    assert all(specs[task].translated_from == "en" for row in translated.intermediate[1:] for task in row.tasks)


def test_xcopa_comes_after_social_iqa_and_copa(known: Mapping[str, TaskSpec]) -> None:
    study, specs = opened("logic_to_xcopa", "", known)
    assert [specs[column.task].training_tasks() for column in study.target] == [("socialiqa", "copa"), ("copa",)]
    assert specs["xcopa"].languages == specs["xcopa_after_copa"].languages
    assert specs["xcopa"].options == specs["xcopa_after_copa"].options
    assert max(len(row.phases) for row in study.intermediate) == 3


def test_the_mixtures_of_scaling_are_of_1_2_3_5_and_9(known: Mapping[str, TaskSpec]) -> None:
    for variant in ("", "slice"):
        study, specs = opened("scaling", variant, known)
        assert {len(row.tasks) for row in study.intermediate} == {0, 1, 2, 3, 5, 9}
        assert {specs[column.task].metric for column in study.target} == {"f1"}


def test_complementarity_has_every_pair_and_its_parts(known: Mapping[str, TaskSpec]) -> None:
    for variant in ("", "slice"):
        study, _ = opened("complementarity", variant, known)
        alone = {row.tasks[0] for row in study.intermediate if len(row.tasks) == 1}
        pairs = {frozenset(row.tasks) for row in study.intermediate if len(row.tasks) == 2}
        assert len(alone) == 5
        assert pairs == {frozenset((one, other)) for one in alone for other in alone if one != other}


@on_real_data
@pytest.mark.parametrize("name", QUESTIONS)
def test_a_question_expands_on_the_slice(name: str, known: Mapping[str, TaskSpec], tiny_model: Path) -> None:
    study, specs = opened(name, "slice", known)
    graph: Graph = expand(study, specs, dict.fromkeys(study.bases, tiny_model), SLICE)
    assert not graph.missing
    assert len(graph.cells) == len(study.intermediate) * len(study.target) * len(study.seeds)
    assert all(graph.phases[cell.evaluation].languages for cell in graph.cells)
    columns = {(cell.evaluation, cell.row, cell.target) for cell in graph.cells}
    assert len(columns) == len({evaluation for evaluation, _, _ in columns}), "two rows are the same"
    shared = len(graph.cells) - len(columns)  # without any training the seed makes no difference
    untrained = [
        column.task
        for column in study.target
        if not formats.get(specs[column.task].format).trained
        and not specs[column.task].training_tasks(study.evaluation.benchmark)
    ]
    assert shared == 2 * len(untrained)


@on_real_data
@pytest.mark.parametrize("name", QUESTIONS)
def test_what_stands_in_for_something_can_be_read(
    name: str, known: Mapping[str, TaskSpec], tiny_model: Path, tmp_path: Path
) -> None:
    study, specs = opened(name, "slice", known)
    graph = expand(study, specs, dict.fromkeys(study.bases, tiny_model), SLICE)
    assert not graph.missing
    own = {
        (reading.member, reading.split): reading.language
        for phase in graph.phases.values()
        for reading in phase.readings
        if reading.member in study.task
    }
    for (task, split), language in own.items():
        shard = prepare(graph.specs[task], split, language, tiny_model, 96, SLICE, tmp_path, sample=Sample(12))
        assert len(shard) == 12

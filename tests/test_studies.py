"""Every study of studies/ can be read, in each variant, names only what the catalogue has, and fits the real slice."""

from __future__ import annotations

from collections import Counter
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
        assert study.bases[0].name == LARGE
        assert len(study.bases) == (5 if name == "multimodal" else 1)
        assert {base.name for base in study.bases} <= set(KNOWN_BASES)
        assert len(study.runs) == 3
        assert study.intermediate[0].name == NO_INTERMEDIATE
        assert study.question
        small, _ = opened(name, "slice", known)
        assert [base.name for base in small.bases] == ["starter"]
        assert small.intermediate[0].name == NO_INTERMEDIATE
        assert small.question


def test_bases_are_compared_at_one_dropout(known: Mapping[str, TaskSpec]) -> None:
    """Their configurations differ in it (AltCLIP has none in attention)."""
    for variant in ("", "base_size"):
        study, specs = opened("multimodal", variant, known)
        tasks = [task for row in study.intermediate for step in row.phases for task in step]
        recipes = [study.recipe_for("intermediate", task, specs[task].recipe) for task in tasks]
        recipes += [study.recipe_for("target", column.task, specs[column.task].recipe) for column in study.target]
        assert {recipe.dropout for recipe in recipes} == {0.1}, variant
        kinds = {factors["tower"]: factors["images"] for factors in study.factors.values()}
        assert kinds == {"text": "no", "aligned text": "no", "images": "yes"}


def test_the_grid_of_phang_2020(known: Mapping[str, TaskSpec]) -> None:
    study, specs = opened("phang2020", "table", known)
    tasks = {row.name: row.phases for row in study.intermediate}
    assert len(tasks) == 11
    assert len(tasks["all nine"][0]) == 9
    assert {task for name, steps in tasks.items() if name != "all nine" for task in sum(steps, ())} == {
        *tasks["all nine"][0]
    }
    assert [column.task for column in study.target] == [
        "xnli", "pawsx", "udpos", "panx", "xquad", "mlqa", "tydiqa", "bucc2018", "tatoeba",
    ]  # fmt: skip
    whole, _ = opened("phang2020", "", known)
    rows = {row.name: row for row in whole.intermediate}
    assert list(rows)[:11] == list(tasks)
    recipes = {
        task: whole.recipe_for("intermediate", task, specs[task].recipe, rows[task]) for task in tasks["all nine"][0]
    }
    assert {task: (recipe.batch_size, recipe.epochs) for task, recipe in recipes.items()} == {
        "anli_plus": (24, 2), "mnli": (24, 2), "qqp": (24, 3), "squad_v2": (8, 3), "squad": (8, 3),
        "hellaswag": (24, 7), "ccg": (24, 15), "cosmosqa": (4, 15), "commonsense_qa": (4, 10),
    }  # fmt: skip
    assert {recipe.learning_rate for recipe in recipes.values()} == {1e-5}
    with_mlm = [row for row in whole.intermediate if "mlm" in row.name]
    assert len(with_mlm) == 11
    assert all("mlm" in row.tasks for row in with_mlm)
    assert {whole.recipe_for("intermediate", "", {}, row).learning_rate for row in with_mlm} == {5e-6}
    translated = [row for row in whole.intermediate if "in de" in row.name]
    assert len(translated) == 3
    assert all(specs[task].translated_from == "en" for row in translated for task in row.tasks)
    assert all(languages == ("de", "ru", "sw") for row in translated for languages in row.languages.values())


def test_xcopa_comes_after_social_iqa_and_copa(known: Mapping[str, TaskSpec]) -> None:
    study, specs = opened("logic_to_xcopa", "", known)
    trained = [specs[column.task].training_tasks() for column in study.target]
    assert trained == [("socialiqa", "copa"), ("copa",), ()]
    assert specs["xcopa"].languages == specs["xcopa_after_copa"].languages
    assert specs["xcopa"].options == specs["xcopa_after_copa"].options
    assert len([row for row in study.intermediate if len(row.phases) == 3]) == 6, "every order of three"
    steps = {row.name: len(row.phases) * study.recipe_for("intermediate", "", {}, row).max_steps
             for row in study.intermediate if row.phases}  # fmt: skip
    assert max(steps.values()) - min(steps.values()) <= 1, "matched in steps"


def test_the_mixtures_of_scaling_are_balanced(known: Mapping[str, TaskSpec]) -> None:
    study, specs = opened("scaling", "", known)
    by_size: dict[int, list[tuple[str, ...]]] = {}
    for row in study.intermediate:
        by_size.setdefault(len(row.tasks), []).append(row.tasks)
    assert {size: len(some) for size, some in by_size.items()} == {0: 1, 1: 9, 2: 9, 3: 9, 5: 9, 9: 1}
    for size, some in by_size.items():
        taken = Counter(task for tasks in some for task in tasks)
        assert set(taken.values()) <= {size if size < 9 else 1}, "every task equally often"
    assert [(column.task, specs[column.task].metric) for column in study.target] == [
        ("xnli", "f1"), ("xcopa", "accuracy"),
    ]  # fmt: skip


def test_complementarity_has_every_pair_and_its_parts(known: Mapping[str, TaskSpec]) -> None:
    for variant, count in (("", 5), ("slice", 3)):
        study, _ = opened("complementarity", variant, known)
        alone = {row.tasks[0] for row in study.intermediate if len(row.tasks) == 1}
        pairs = {frozenset(row.tasks) for row in study.intermediate if len(row.tasks) == 2}
        assert len(alone) == count
        assert pairs == {frozenset((one, other)) for one in alone for other in alone if one != other}


@on_real_data
@pytest.mark.parametrize("name", QUESTIONS)
def test_a_question_expands_on_the_slice(name: str, known: Mapping[str, TaskSpec], tiny_model: Path) -> None:
    study, specs = opened(name, "slice", known)
    graph: Graph = expand(study, specs, dict.fromkeys(study.bases, tiny_model), SLICE)
    assert not graph.missing
    assert len(graph.cells) == len(study.intermediate) * len(study.target) * len(study.runs)
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

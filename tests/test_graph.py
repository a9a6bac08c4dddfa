"""A study as a graph: what each phase reads, what goes on from what, and what changes a phase's hash."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from toy import TASKS as TOY_TASKS
from toy import study, write_study
from toy_formats import TASKS, make_formats

from xtrain.data.checking import raise_problems
from xtrain.dispatch.job_graph import JobGraph, JobNode
from xtrain.errors import UserError
from xtrain.graph import Graph, Phase, expand
from xtrain.report.training_data import trained_on
from xtrain.study import load
from xtrain.tasks import catalog
from xtrain.tasks.sampling import Sample

ALL = {
    **TOY_TASKS,
    **TASKS,
    "other": {**TOY_TASKS["toy"], "translated_from": "en"},
    "both": {**{k: v for k, v in TOY_TASKS["toy"].items() if k != "sources"}, "joined": ["toy", "other"]},
    "in_turn": {**TOY_TASKS["toy"], "train_on": ["choose", "other", "toy"]},
    "looked_up": {**TOY_TASKS["mine"], "train_on_in": {"xtreme-r": "qa"}},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, toy_data: Path) -> Path:
    return make_formats(Path(shutil.copytree(toy_data, tmp_path_factory.mktemp("graph") / "data")))


@pytest.fixture
def graph_of(tmp_path: Path, tiny_model: Path, data: Path) -> Any:
    def build(**changes: Any) -> Graph:
        shutil.copytree(data / "toy", tmp_path / "toy", dirs_exist_ok=True)
        path = write_study(tmp_path / "study.toml", study(tiny_model, **{"task": ALL, **changes}))
        read = load(path, known_tasks=tuple(catalog.load()))
        graph = expand(read, catalog.load(read.task), dict.fromkeys(read.bases, tiny_model), data)
        raise_problems(graph.missing)
        return graph

    return build


def only(graph: Graph, kind: str) -> list[Phase]:
    return [phase for phase in graph.phases.values() if phase.kind == kind]


def rows(*entries: dict[str, Any]) -> dict[str, Any]:
    return {"intermediate": list(entries), "target": [{"task": "mine"}]}


def test_a_mixture_reads_every_task_at_its_own_length(graph_of: Any) -> None:
    recipe = {"intermediate": {"eval_examples": 10, "qa": {"max_length": 64}, "tags": {"max_length": 32}}}
    row = {"name": "mix", "tasks": ["tags", "qa", "text"], "languages": {"text": ["ru", "zh"]}}
    (mix,) = only(graph_of(**rows(row), recipe=recipe), "intermediate")
    read = {(r.task, r.split, r.language, r.max_length, r.sample and r.sample.examples) for r in mix.readings}
    assert read == {
        ("tags", "train", "en", 32, None), ("tags", "dev", "en", 32, 10),
        ("qa", "train", "en", 64, None), ("qa", "dev", "en", 64, 10),
        ("text", "train", "ru", 256, None), ("text", "train", "zh", 256, None),
        ("text", "dev", "ru", 256, 5), ("text", "dev", "zh", 256, 5),
    }  # fmt: skip


def test_a_phase_of_another_study_is_found_by_its_hash(graph_of: Any, tmp_path: Path) -> None:
    """Its row may have another name there: on the disk, or in a queue, where no run directory is made yet."""
    graph, out = graph_of(intermediate=[{"name": "mine", "tasks": ["qa"]}], target=[{"task": "toy"}]), tmp_path / "out"
    trained, target, evaluation = (only(graph, kind)[0] for kind in ("intermediate", "target", "evaluate"))
    (out / f"intermediate/theirs-s0-{trained.hash}").mkdir(parents=True)
    (out / f"target/theirs-toy-s0-{'0' * 12}").mkdir(parents=True)
    node = JobNode(target.hash, "target", "theirs/toy-s0", "other/theirs/toy", f"target/theirs-toy-s0-{target.hash}")
    JobGraph("other", (node,)).write(out)
    graph.find_places(out)
    found = {phase.hash: phase.folder for phase in graph.phases.values()}
    assert found[trained.hash] == f"intermediate/theirs-s0-{trained.hash}"
    assert found[target.hash] == f"target/theirs-toy-s0-{target.hash}"
    assert found[evaluation.hash] == f"evaluate/mine-toy-s0-{evaluation.hash}"
    (out / found[evaluation.hash].replace("mine-toy", "else")).mkdir(parents=True)
    (out / found[evaluation.hash]).mkdir()
    graph.find_places(out)
    assert graph.phases[evaluation.hash].folder == found[evaluation.hash], "its own name comes first"


def test_joined_tasks_are_read_under_one_head(graph_of: Any) -> None:
    graph = graph_of(**rows({"name": "both", "tasks": ["both"]}), recipe={"intermediate": {"train_examples": 9}})
    (phase,) = only(graph, "intermediate")
    assert phase.tasks == ("both",)
    assert [(r.task, r.member, r.sample) for r in phase.readings if r.role == "train"] == [
        ("both", "toy", Sample(4)), ("both", "other", Sample(4)),
    ]  # fmt: skip
    assert trained_on(graph) == {"both": "both (machine-translated from en; toy + other as one)"}


def test_a_target_trains_on_tasks_in_turn_and_its_head_goes_on(graph_of: Any) -> None:
    graph = graph_of(intermediate=[{"name": "none"}], target=[{"task": "in_turn"}])
    phases = only(graph, "target")
    assert [phase.tasks for phase in phases] == [("choose",), ("other",), ("toy",)]
    assert [phase.head_from for phase in phases] == [None, None, "other"], "only between tasks with the same labels"
    assert [phase.parent for phase in phases] == [None, phases[0].hash, phases[1].hash]
    (final,) = only(graph, "evaluate")
    assert (final.parent, final.trained_task) == (phases[2].hash, "toy")


def test_the_benchmark_says_what_is_trained_before(graph_of: Any) -> None:
    column = {"intermediate": [{"name": "none"}], "target": [{"task": "looked_up"}]}
    assert not only(graph_of(**column), "target")
    graph = graph_of(**column, evaluation={"benchmark": "xtreme-r"})
    (trained,) = only(graph, "target")
    (final,) = only(graph, "evaluate")
    assert trained.tasks == ("qa",)
    assert (final.parent, final.trained_task) == (trained.hash, None)


def test_companions_are_read_beside(graph_of: Any) -> None:
    (final,) = only(graph_of(intermediate=[{"name": "none"}], target=[{"task": "bitext"}]), "evaluate")
    assert [(r.role, r.split, r.language) for r in final.readings] == [
        ("evaluate", "test", "ru"),
        ("tune", "dev", "ru"),
    ]
    assert final.languages == ("ru",)


def test_what_changes_a_result_changes_the_hash(graph_of: Any) -> None:
    def hash_of(**changes: Any) -> str:
        row = {"name": "row", "tasks": ["toy", "text"], **changes.pop("row", {})}
        recipe = {"intermediate": {"max_length": 64, **changes.pop("recipe", {})}}
        return str(only(graph_of(**rows(row), recipe=recipe, **changes), "intermediate")[0].hash)

    base = hash_of()
    assert hash_of() == base
    assert hash_of(engine={"tokens_per_micro_batch": 64}) == base
    exponent = {**ALL, "text": {**TASKS["text"], "language_exponent": 0.9}}
    for change in (
        {"row": {"languages": {"text": ["ru"]}}},
        {"recipe": {"temperature": 2.0}},
        {"recipe": {"text": {"max_length": 32}}},
        {"recipe": {"train_examples": 50}},
        {"task": exponent},
        {"sample_seed": 1},  # its dev set is a sample
    ):
        assert hash_of(**change) != base, change


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"tasks": ["toy"], "languages": {"qa": ["en"]}}, "'qa' is no task of this row"),
        ({"tasks": ["toy"], "languages": {"toy": []}}, "names no language"),
        ({"tasks": ["toy"], "languages": {"toy": ["xx"]}}, "train-xx.jsonl: no such file"),
        ({"tasks": ["bitext"]}, "has no training"),
    ],
)
def test_wrong_rows(graph_of: Any, row: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        graph_of(**rows({"name": "row", **row}))


def test_a_joined_task_is_no_target(graph_of: Any) -> None:
    with pytest.raises(UserError, match="nothing of its own to evaluate on"):
        graph_of(intermediate=[{"name": "none"}], target=[{"task": "both"}])

"""A study as jobs: found by any of their names, with what cannot run without them; kept in a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from xtrain.dispatch.job_graph import JobGraph, JobNode, graph_file, graphs
from xtrain.errors import UserError

PREPARE = JobNode("aa0000", "prepare", "prepare", "toy/prepare", "prepare/toy-aa0000")
MNLI = JobNode("bb1111", "intermediate", "mnli-s0", "toy/mnli-s0", "intermediate/mnli-bb1111", ("aa0000",))
XNLI = JobNode("cc2222", "target", "mnli/xnli-s0", "toy/mnli-s0/xnli", "target/xnli-cc2222", ("bb1111",))
SCORED = JobNode("dd3333", "evaluate", "mnli/xnli-s0", "toy/mnli-s0/xnli/evaluate", "evaluate/xnli-dd3333", ("cc2222",))
NONE = JobNode("cc2299", "target", "none/xnli-s0", "toy/none-s0/xnli", "target/xnli-cc2299", ("aa0000",))
PHASES = (PREPARE, MNLI, XNLI, SCORED, NONE)
REPORT = JobNode("report-aa0000", "report", "report", "toy/report", "report/toy", tuple(node.hash for node in PHASES))
GRAPH = JobGraph("toy", (*PHASES, REPORT), {"name": "lab", "job": {"nodes": 2}}, "/data")


def test_written_and_read(tmp_path: Path) -> None:
    path = GRAPH.write(tmp_path)
    assert path == graph_file(tmp_path, "toy") == tmp_path / "jobs" / "toy.json"
    assert JobGraph.read(path) == GRAPH
    other = JobGraph("another", (PREPARE,))
    other.write(tmp_path)
    assert list(graphs(tmp_path)) == [other, GRAPH]


def test_of_another_format(tmp_path: Path) -> None:
    path = GRAPH.write(tmp_path)
    path.write_text(path.read_text("utf-8").replace('"format": 1', '"format": 0'), "utf-8")
    with pytest.raises(UserError, match="no job graph of format 1"):
        JobGraph.read(path)


def test_descendants() -> None:
    assert GRAPH.descendants(PREPARE) == [MNLI, XNLI, SCORED, NONE]
    assert GRAPH.descendants(MNLI) == [XNLI, SCORED]
    assert GRAPH.descendants(SCORED) == []
    assert GRAPH.descendants(REPORT) == []


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("toy/mnli-s0/xnli", XNLI),
        ("evaluate/xnli-dd3333", SCORED),
        ("dd3333", SCORED),
        ("mnli-s0", MNLI),
        ("none/xnli-s0", NONE),
        ("prepare", PREPARE),
        ("report-a", REPORT),
    ],
)
def test_found_by_any_name(name: str, found: JobNode) -> None:
    assert GRAPH.find(name) is found


def test_names_of_several_and_of_none() -> None:
    with pytest.raises(UserError, match=r"several phases\n.*toy/mnli-s0/xnli, toy/mnli-s0/xnli/evaluate"):
        GRAPH.find("mnli/xnli-s0")
    with pytest.raises(UserError, match="did you mean 'toy/none-s0/xnli'"):
        GRAPH.find("toy/none-s0/xnl")
    with pytest.raises(UserError, match="no phase of toy"):
        GRAPH.find("cc22")  # too short for a hash


def test_the_run_directory() -> None:
    assert XNLI.run(Path("/out")).path == Path("/out/target/xnli-cc2222")

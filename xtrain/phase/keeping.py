"""Which encoders of target phases stay once all that starts from them is done (``engine.keep_encoders``)."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from xtrain.dispatch.job_graph import REPORT, TARGET, graphs
from xtrain.errors import Problem, UserError
from xtrain.files import read_json
from xtrain.model.export import ENCODER_FILES
from xtrain.run_directory import RunDirectory

ALL, SELECTED, NONE = "all", "selected", "none"
_DROPPED = ".dropped"


def drop_evaluated(out: Path, keep: str) -> list[RunDirectory]:
    """Delete, below ``out``, what ``keep`` does not want of the encoders that nothing is left to start from.

    Those of target phases whose evaluations, and whatever else starts from them in any study of the folder, are done.
    Returns the run directories that have lost one.
    """
    nodes = {}
    with contextlib.suppress(UserError):  # a graph of another version: nobody knows what it needs
        nodes = {node.hash: node for graph in graphs(out) for node in graph.nodes}
    lost = []
    for node in nodes.values() if keep != ALL else ():
        children = [other for other in nodes.values() if node.hash in other.parents and other.kind != REPORT]
        run = node.run(out)
        if node.kind != TARGET or not run.done or not children or not all(child.run(out).done for child in children):
            continue
        for folder in (run.encoder_last, *([run.encoder] if keep == NONE else [])):
            shutil.rmtree(
                folder.with_name(folder.name + _DROPPED), ignore_errors=True
            )  # of one that was killed in here
            with contextlib.suppress(OSError):  # it is gone already
                os.rename(folder, folder.with_name(folder.name + _DROPPED))
                lost.append(run)
                shutil.rmtree(folder.with_name(folder.name + _DROPPED), ignore_errors=True)
    return list(dict.fromkeys(lost))


def missing_file(run: RunDirectory) -> Path | None:
    """What is gone of the encoder of a finished phase: ``encoder/``, or a file of it: sites purge single ones."""
    if not run.done:
        return None
    if not run.encoder.is_dir():
        return run.encoder
    return next((path for name in ENCODER_FILES if not (path := run.encoder / name).is_file()), None)


def lost_encoder(parent: RunDirectory, name: str) -> Problem | None:
    """What to say where ``parent`` is done but has no whole encoder any more, which phase ``name`` starts from."""
    gone = missing_file(parent)
    if gone is None:
        return None
    return Problem(
        str(gone),
        f"is not there: phase {name} starts from it. The site has purged it, or it was deleted when all that had "
        "started from it was done (engine.keep_encoders)",
        remedy="give xtrain run or slurm/submit.py again, which train that phase again; under a launcher of your own, "
        "xtrain plan --write, then that phase first",
    )


def lost_last(parent: RunDirectory) -> bool:
    """Whether the last step's weights were other than the selected ones, and are not there any more."""
    summary = read_json(parent.done_marker) if parent.done else {}
    selected, last = summary.get("selected_step"), summary.get("steps")
    return selected is not None and selected != last and not parent.encoder_last.is_dir()

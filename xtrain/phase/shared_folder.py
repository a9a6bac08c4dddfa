"""Whether all ranks mean the same folder by the run directory: found at the start, not at the first checkpoint."""

from __future__ import annotations

import contextlib
import os
import platform
import secrets
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xtrain.dispatch.rendezvous import Ranks
from xtrain.errors import Problem, UserError, listed
from xtrain.files import sees_token, write_token
from xtrain.run_directory import RunDirectory

PATIENCE_SECONDS = 30.0  # a file that another node wrote may show up late: network file systems cache folders
_PAUSE_SECONDS = 0.05  # between looks; grows
_PREFIX = ".meeting-"  # of the files that are written here, and removed
_ALLOWED = "one folder that every node of the job can read and write, under the same path"
_REMEDY = "choose a folder on a file system that the nodes share with --out (not /tmp or a node's own disk)"

Gather = Callable[[Any], list[Any]]
"""Gives every rank's value, by rank; collective."""


@dataclass(frozen=True)
class _Report:
    """What one rank found."""

    host: str
    not_written: str = ""
    """Why it could not write its file."""
    not_seen: tuple[int, ...] = ()
    """Ranks whose files it looked for and did not find."""


def check_present(run: RunDirectory, ranks: Ranks) -> None:
    """Raise a :class:`UserError` if this is one rank of several and the run directory has no ``phase.toml`` here.

    Before the ranks can talk to each other: whoever lacks the file would leave without a word to the others.
    """
    if ranks.world_size > 1 and not run.phase_file.is_file():
        raise UserError(
            Problem(
                str(run.path.absolute()),
                f"has no phase.toml on {platform.node()} (rank {ranks.rank} of {ranks.world_size})",
                _ALLOWED,
                f"if other nodes have it, {_REMEDY}; else make it with python -m xtrain run STUDY",
            )
        )


def check_shared(run: RunDirectory, ranks: Ranks, gather: Gather, patience_seconds: float = PATIENCE_SECONDS) -> None:
    """Raise the same :class:`UserError` on all ranks unless all write into the same run directory; collective.

    Every rank writes a file under a name that only this start knows. Rank 0 has to see those of all others, and all
    others that of rank 0: then whatever two ranks write, both see. Nothing is left behind. Costs a few small files
    where all is well, and up to ``patience_seconds`` where it is not. Several ranks of one machine are checked like
    any others, for they can be in containers with folders of their own.
    """
    if ranks.world_size == 1:
        return
    if ranks.is_first:
        _remove(run.path.glob(f"{_PREFIX}*"))  # of a start that was killed
    token = gather(secrets.token_hex(8))[0]  # all know now that rank 0 has cleared away what was there
    own = _file(run, token, ranks.rank)
    try:
        not_written = write_token(own, token)
        written = [not reason for reason in gather(not_written)]
        others = range(1, ranks.world_size) if ranks.is_first else [0]
        wanted = [rank for rank in others if written[rank]]
        not_seen = _missing(run, token, wanted, patience_seconds)
        reports = gather(_Report(platform.node(), not_written, tuple(not_seen)))
    finally:
        _remove([own])
    problem = _verdict(run, reports)
    if problem is not None:
        raise UserError(problem)


def _file(run: RunDirectory, token: str, rank: int) -> Path:
    return run.path / f"{_PREFIX}{token}-{rank}"


def _missing(run: RunDirectory, token: str, wanted: Sequence[int], patience_seconds: float) -> list[int]:
    """Those of the ranks ``wanted`` whose file has not shown up, with what they wrote, in time."""
    missing, pause = list(wanted), _PAUSE_SECONDS
    deadline = time.monotonic() + patience_seconds
    while True:
        with contextlib.suppress(OSError):
            os.listdir(run.path)  # makes NFS ask its server again; a look at the file alone would not
        missing = [rank for rank in missing if not sees_token(_file(run, token, rank), token)]
        if not missing or time.monotonic() > deadline:
            return missing
        time.sleep(pause)
        pause = min(1.0, 1.5 * pause)


def _remove(paths: Iterable[Path]) -> None:
    with contextlib.suppress(OSError):
        for path in paths:
            path.unlink(missing_ok=True)


def _verdict(run: RunDirectory, reports: Sequence[_Report]) -> Problem | None:
    """What is wrong, from what all ranks found; a function of its arguments, so that all ranks say the same."""
    refusals: dict[str, list[int]] = defaultdict(list)
    for rank, report in enumerate(reports):
        if report.not_written:
            refusals[report.not_written].append(rank)
    unseen = set(reports[0].not_seen)
    unseen |= {rank for rank, report in enumerate(reports) if rank and 0 in report.not_seen}
    said = [f"cannot be written on {_hosts(reports, ranks)}: {reason}" for reason, ranks in refusals.items()]
    if unseen:
        # a rank that could not write either shares the folder of rank 0 or is among the unseen
        with_first = [rank for rank in range(len(reports)) if rank not in unseen]
        said.append(
            f"is not the same folder everywhere: {_hosts(reports, with_first)} and {_hosts(reports, sorted(unseen))} "
            "do not see each other's files"
        )
    return Problem(str(run.path.absolute()), "; ".join(said), _ALLOWED, _REMEDY) if said else None


def _hosts(reports: Sequence[_Report], ranks: Sequence[int]) -> str:
    """``node1 (ranks 0, 1), node2 (rank 2)``."""
    by_host: Mapping[str, list[int]] = defaultdict(list)
    for rank in ranks:
        by_host[reports[rank].host].append(rank)
    return listed(
        f"{host} (rank{'s' if len(on_it) > 1 else ''} {listed(on_it, 16)})" for host, on_it in by_host.items()
    )

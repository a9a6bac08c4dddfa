"""In which order pytest's workers get the tests.

One of them has all tests of SLURM, one after the other: they wait for most of their time, and share a cluster. The
others begin with the quick ones, while DeepSpeed's op is compiled, and go on with the longest.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import pytest
from op import compiled
from xdist.scheduler import LoadScopeScheduling

# As measured (pytest --durations), longest first: the last ones are short, and the workers end at the same time.
LONGEST = (
    "test_torture",
    "test_all_stages_give_the_same_numbers_in_fp32[1-1]",
    "test_every_format_runs",
    "test_what_the_shell_has_inherited",
    "test_real_training_on_two_ranks",
    "test_a_killed_and_resumed_phase",
    "test_every_launcher",
    "test_three_phases_then",
    "test_ranks_see_the_same",
    "test_zero_stages_on_two_ranks",
    "test_stages_agree",
    "test_first_use_and_second_use",
    "test_one_rank_compiles",
    "test_the_stall_limit",
    "test_the_command",
    "test_killed_at_every_instant_of_a_save",
    "test_mixtures_and_sequences",
)
SLURM_QUICK = ("test_clients", "test_cluster.py", "test_profiles", "test_queries")  # they train nothing: SLURM's first
SLURM_SLOW = (
    "test_doctor",
    "test_whole_studies",
    "test_life",
    "test_requeueing",
)
SLOW = (
    "test_run_formats",
    "test_exact",
    "test_wandb_online",
    "test_mlm_head",
    "test_zero_heads",
    "test_ranks",
    "test_fence",
    "test_hangs",
    "test_preempt",
    "test_buckets",
    "test_kills",
    "test_killed_savers",
    "test_disk",
    "test_damage",
    "test_copies",
    "test_run.py",
    "test_phase_online",
    "test_hub_clients",
    "test_ops",
    "test_wandb_offline",
    "test_feeding",
    "test_ahead",
    "test_collapse",
    "test_exporting",
    "test_runner",
    "test_starting",
    "test_watchdog",
    "test_local",
    "test_checkpoint_command",
    "test_numbered",
    "test_bad_input",
    "test_joining",
    "test_engine",  # all but one of these two files wait for that one
)  # files of tests that start processes


class Scheduler(LoadScopeScheduling):  # type: ignore[misc]
    """Gives out test by test, but all of SLURM at once."""

    def _split_scope(self, nodeid: str) -> str:
        return "slurm" if "/slurm/" in nodeid.partition("::")[0] else nodeid


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduler:
    return Scheduler(config, log)


def pytest_sessionstart(session: pytest.Session) -> None:
    """Compile the op beside the first tests, which need none, where several workers run."""
    if getattr(session.config.option, "numprocesses", None):
        threading.Thread(target=compiled, daemon=True).start()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_place)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Nearly all of the slow ones train: with the op, as everybody does who has a compiler."""
    if item.path.name.startswith((*SLURM_SLOW, *SLOW)):
        compiled()


def _place(item: pytest.Item) -> tuple[int, int]:
    file = item.path.name
    if item.path.parent.name == "slurm":
        return 0, _first((*SLURM_QUICK, *SLURM_SLOW), file)
    if file.startswith(SLOW):
        return 2, _first((*LONGEST, *SLOW), item.name, file)
    return 1, 0


def _first(beginnings: Sequence[str], *names: str) -> int:
    """The place of the first that one of the names begins with; behind all where there is none."""
    found = (n for n, beginning in enumerate(beginnings) if any(name.startswith(beginning) for name in names))
    return next(found, len(beginnings))

"""In which order pytest's workers get the tests: the quick ones, while DeepSpeed's op is compiled, then the longest."""

from __future__ import annotations

import threading

import pytest
from op import compiled

# As measured (pytest --durations), longest first: the last ones are short, and both workers end at the same time.
LONGEST = (
    "test_torture",
    "test_a_study_gives_what_a_local_run_gives",
    "test_a_signal_to_another_rank_than_the_first_and_a_requeue_by_hand",
    "test_all_stages_give_the_same_numbers_in_fp32[1-1]",
    "test_slurmd_killed",
    "test_power_off",
    "test_every_format_runs",
    "test_preempted_by_a_higher_partition",
    "test_what_the_shell_has_inherited",
    "test_two_jobs_on_one_node",
    "test_real_training_on_two_ranks",
    "test_a_killed_and_resumed_phase",
    "test_the_users_mistake_ends_a_phase_once",
    "test_every_launcher",
    "test_many_phases",
    "test_more_phases_than_may_be_queued",
    "test_three_phases_then",
    "test_a_killed_run_resumes",
    "test_ranks_see_the_same",
    "test_zero_stages_on_two_ranks",
    "test_stages_agree",
    "test_first_use_and_second_use",
    "test_given_up",
    "test_faults_of",
    "test_a_node_that_nobody_reaches",
    "test_while_the_controller_is_away",
    "test_one_rank_compiles",
    "test_the_stall_limit",
    "test_the_command",
    "test_killed_at_every_instant_of_a_save",
    "test_mixtures_and_sequences",
)
SLOW = (
    "test_run_formats",
    "test_exact",
    "test_life",
    "test_whole_studies",
    "test_requeueing",
    "test_doctor",
    "test_wandb_online",
    "test_mlm_head",
    "test_zero_heads",
    "test_ranks",
    "test_fence",
    "test_hangs",
    "test_preempt",
    "test_kills",
    "test_killed_savers",
    "test_disk",
    "test_damage",
    "test_copies",
    "test_run.py",
    "test_phase_online",
    "test_hub_clients",
    "test_queries",
    "test_profiles",
    "test_cluster.py",
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


def pytest_sessionstart(session: pytest.Session) -> None:
    """Compile the op beside the first tests, which need none, where several workers run."""
    if getattr(session.config.option, "numprocesses", None):
        threading.Thread(target=compiled, daemon=True).start()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_place)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Nearly all of the slow ones train: with the op, as everybody who has a compiler does."""
    if item.path.name.startswith(SLOW):
        compiled()


def _place(item: pytest.Item) -> int:
    for place, name in enumerate((*LONGEST, *SLOW), start=1):
        if (item.name if place <= len(LONGEST) else item.path.name).startswith(name):
            return place
    return 0

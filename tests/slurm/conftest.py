"""Clusters for the tests: one of four nodes for the session, others as a test wants them. They need root and SLURM."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator, Iterator

import pytest
from cluster import Cluster, missing

RUNNING: list[Cluster] = []  # of this process; the report on a failed test shows the ends of their logs
FAILED = pytest.StashKey[bool]()


@pytest.fixture(scope="session")
def slurm_installed() -> None:
    """Skip where this machine cannot have a cluster; with XTRAIN_REQUIRE_SLURM=1, fail there."""
    if reason := missing():
        if os.environ.get("XTRAIN_REQUIRE_SLURM") == "1":
            pytest.fail(reason)
        pytest.skip(reason)


@contextlib.contextmanager
def running(cluster: Cluster) -> Iterator[Cluster]:
    with cluster:
        RUNNING.append(cluster)
        yield cluster
        RUNNING.remove(cluster)


@pytest.fixture(scope="session")
def session_cluster(slurm_installed: None) -> Iterator[Cluster]:
    with running(Cluster(nodes=4)) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def cluster(session_cluster: Cluster) -> Iterator[Cluster]:
    """Four nodes of four CPUs with accounting, the same for the session: idle and whole when a file of tests begins.

    A test that breaks something repairs it; after a test that failed, and after the file, that is done for it.
    """
    yield session_cluster
    session_cluster.reset()


@pytest.fixture(autouse=True)
def _repaired(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if request.node.stash.get(FAILED, False) and "cluster" in request.fixturenames:
        request.getfixturevalue("cluster").reset()


@pytest.fixture
def make_cluster(slurm_installed: None) -> Iterator[Callable[..., Cluster]]:
    """Start a cluster of the test's own, by the names in slurm_files.Knobs; it ends with the test."""
    with contextlib.ExitStack() as stack:
        yield lambda **knobs: stack.enter_context(running(Cluster(**knobs)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add what the daemons of the running clusters logged to the report on a failed test."""
    report = yield
    if report.failed:
        item.stash[FAILED] = True
        report.sections += [(f"logs of the cluster in {one.folder}", one.log_tails()) for one in RUNNING]
    return report

"""Newer releases of SLURM take every command line that the product makes, as far as a client can tell by itself.

No daemon runs: a client that has read all its options goes on to say that nobody answers; one that refuses an option
says so before. What a controller would say of them is not seen here.
"""

from __future__ import annotations

import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from clients import HOW, SUITES, SYSTEM, Clients, installed
from command_lines import Line, Recorder, every_line, live, made, made_in_source

RELEASES = (SYSTEM, *SUITES)
OF_PYXIS = ("--container-image=", "--container-mounts=", "--container-env=")  # the plug-in's options, not SLURM's


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[Line]:
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("SLURM", "SBATCH_", "SALLOC_", "SRUN_"))]:
            patch.delenv(name)
        return every_line(tmp_path_factory.mktemp("lines"), patch)


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Clients]:
    return {clients.name: clients for clients in installed(tmp_path_factory.mktemp("clients"))}


@pytest.fixture(params=RELEASES)
def clients(request: pytest.FixtureRequest, releases: dict[str, Clients]) -> Clients:
    if request.param not in releases:
        pytest.skip("no SLURM here" if request.param == SYSTEM else f"no clients of {request.param}: {HOW}")
    return releases[request.param]


def test_all_that_the_source_makes_is_among_the_lines(lines: list[Line]) -> None:
    said = ["\0".join(line.words) + "\0" for line in lines]
    sources = list(made_in_source())
    assert len(sources) > 15
    assert [where for where, pattern in sources if not any(map(pattern.match, said))] == []


def test_every_line_is_taken(clients: Clients, lines: list[Line], capsys: pytest.CaptureFixture[str]) -> None:
    def refusal(line: Line) -> str:
        words = [word for word in line.words if not word.startswith((*OF_PYXIS, "--clusters="))]
        return clients.refusal(words, line.environment, line.script.replace("#SBATCH --clusters=other\n", ""))

    with ThreadPoolExecutor(8) as pool:
        said = list(pool.map(refusal, lines))
    refused = {f"{line}\n{line.script}": words for line, words in zip(lines, said, strict=True) if words}
    taken = Counter(line.words[0] for line, words in zip(lines, said, strict=True) if not words)
    with capsys.disabled():
        each = ", ".join(f"{count} of {name}" for name, count in sorted(taken.items()))
        print(f"\nSLURM {clients.version} takes {taken.total()} of {len(lines)} command lines: {each}")
    assert refused == {}
    assert taken.total() >= 250, "of the lines that are given to it, few are left"


WRONG = [
    ("sbatch --nonsense --wrap=true", "unrecognized option '--nonsense'"),
    ("sbatch --signal=NOPE@5 --wrap=true", "Invalid --signal specification"),
    ("srun --nonsense true", "unrecognized option '--nonsense'"),
    ("srun --cpu-bind=nonsense true", "unrecognized --cpu-bind argument"),
    ("salloc --nonsense", "unrecognized option '--nonsense'"),
    ("squeue --nonsense", "unrecognized option '--nonsense'"),
    ("sacct --nonsense", "unrecognized option '--nonsense'"),
    ("sinfo --nonsense", "unrecognized option '--nonsense'"),
    ("scancel --nonsense 7", "unrecognized option '--nonsense'"),
    ("scontrol fooo 7", "invalid keyword: fooo"),
    ("scontrol update JobId=7 Nonsense=1", "Update of this parameter is not supported"),
    ("sbatch FILE", "unrecognized option '--nonsense=1'"),
]


def test_another_cluster_is_looked_up(clients: Clients, lines: list[Line]) -> None:
    """A client that is to ask another cluster looks for it first, in a database that is not there; then it ends."""
    told = {line.words[0]: line for line in lines if "--clusters=other" in (*line.words, *line.script.split())}
    assert set(told) >= {"sbatch", "salloc", "srun", "squeue", "sinfo", "scancel", "scontrol"}
    for name, line in told.items():
        said = clients.run(line.words, line.environment, line.script).stderr
        assert "roblem talking to" in said or "accounting storage is disabled" in said, f"{name}: {said}"


def test_a_wrong_line_is_refused(clients: Clients) -> None:
    for line, words in WRONG:
        script = "#!/bin/bash\n#SBATCH --nonsense=1\ntrue\n" if line.endswith("FILE") else ""
        assert words in clients.refusal(line.split(), script=script), line


def test_fields_that_are_asked_for_exist(clients: Clients, lines: list[Line]) -> None:
    """Clients look at them only once a controller has answered; newer ones list those that they know."""
    for program, option in (("squeue", "--helpFormat"), ("sacct", "--helpformat"), ("sinfo", "--helpFormat")):
        listed = clients.run([program, option])
        known = set(listed.stdout.lower().replace(",", " ").split())
        if listed.returncode or not known:
            continue  # an older one, or one that wants accounting for it
        for line in lines:
            asked = [word.split("=", 1)[1] for word in line.words if word.lower().startswith("--format=")]
            if line.words[0] == program and asked and "%" not in asked[0]:
                assert {name.partition(":")[0].lower() for name in asked[0].split(",")} - known == set(), str(line)


def test_what_a_job_starts_by_srun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each line says its CPUs, as srun does not take them from sbatch. SLURM_TRES_PER_TASK, which sbatch of 23.11 and
    newer sets, is gone: where the two differ, srun ends with "fatal"."""
    recorder = Recorder(tmp_path / "bin", monkeypatch)
    scratch = {"scratch": str(tmp_path / "scratch")}
    for number, (check, job) in enumerate([(False, {}), (True, {}), (False, {"cpus_per_task": 2})]):
        profile = made("lab", {"nodes": 2, **job}, preemption={"check_nodes": check}, storage=scratch)
        live(profile, tmp_path / f"out-{number}", monkeypatch)
    steps = [line for line in recorder.lines() if line.words[0] == "srun"]
    helpers = [line for line in steps if "--overlap" in line.words]
    ranks = [line for line in steps if line not in helpers]
    assert {word for line in helpers for word in line.words} >= {"xtrain.dispatch.node_check", "rm"}
    assert len(ranks) == 2
    for line in steps:
        assert "SLURM_JOB_ID" in line.environment
        assert "SLURM_TRES_PER_TASK" not in line.environment
        assert [word for word in line.words if word.startswith("--cpus-per-task=")], str(line)
        assert {"--mpi=none", "--input=none", "--export=ALL"} <= set(line.words), str(line)
    assert [word for line in ranks for word in line.words if "cpus-per-task" in word] == [
        "--cpus-per-task=8", "--cpus-per-task=2",
    ]  # fmt: skip

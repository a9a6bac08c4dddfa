"""DeepSpeed's ops: compiled once for all nodes of a type, copied to each, compiled again where that does not serve."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from ops_worker import SOURCE

from xtrain.dispatch.rendezvous import free_port
from xtrain.training.ops import Op, Store, missing_build_tools, node_type, provide

WORKER = Path(__file__).with_name("ops_worker.py")
PATH = os.environ["PATH"]
# Counts the files that are compiled, and lets none begin before as many others have begun as MEETING says.
COMPILER = """\
#!/bin/bash
case " $* " in
  *" -c "*)
    echo x >> "$COMPILER_LOG"
    for _ in $(seq 300); do [ "$(wc -l < "$COMPILER_LOG")" -ge "${MEETING:-1}" ] && break; sleep 0.1; done ;;
esac
exec c++ "$@"
"""


class Lab:
    """A few ranks on made-up nodes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "tiny.cpp").write_text(SOURCE)
        compiler = folder / "compiler"
        compiler.write_text(COMPILER)
        compiler.chmod(0o755)
        self.started: list[tuple[subprocess.Popen[bytes], Path]] = []

    def start(self, rounds: dict[str, Any], nodes: Sequence[str], job: str = "job", **variables: str) -> None:
        """Start a job with a rank on each of ``nodes``; a node that is named twice has two."""
        (self.folder / f"{job}.json").write_text(json.dumps(rounds))
        port = str(free_port())
        for rank, node in enumerate(nodes):
            out = self.folder / f"{job}-{rank}.json"
            environment = {
                **os.environ, "RANK": str(rank), "WORLD_SIZE": str(len(nodes)), "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port, "SLURMD_NODENAME": node, "CXX": str(self.folder / "compiler"),
                "COMPILER_LOG": str(self.folder / "log"), "TINY_SOURCE": str(self.folder / "tiny.cpp"),
                "OMP_NUM_THREADS": "1", "PYTHONPATH": str(WORKER.parents[2]), **variables,
            }  # fmt: skip
            environment.pop("XTRAIN_NO_OPS", None)
            with open(self.folder / f"{job}-{rank}.log", "wb") as log:
                command = [sys.executable, str(WORKER), str(self.folder / f"{job}.json"), str(out)]
                self.started.append((subprocess.Popen(command, env=environment, stdout=log, stderr=log), out))

    def results(self) -> list[dict[str, Any]]:
        """What each rank found, by rank and job."""
        found = []
        for process, out in self.started:
            assert process.wait(200) == 0, out.with_suffix(".log").read_text()
            found.append(json.loads(out.read_text()))
        return found


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    missing = missing_build_tools()
    if missing and "XTRAIN_NO_OPS" not in missing:
        pytest.skip(missing)
    return Lab(tmp_path_factory.mktemp("ops"))


def test_one_rank_compiles_and_all_load(lab: Lab) -> None:
    cache, scratch = f"{lab.folder}/cache", f"{lab.folder}/scratch"
    a_file = lab.folder / "file"
    a_file.touch()
    lab.start(
        {
            "first": {"XTRAIN_CACHE": cache, "XTRAIN_SCRATCH": f"{scratch}-NODE", "PATH": PATH},
            "second": {"XTRAIN_CACHE": cache, "XTRAIN_SCRATCH": f"{scratch}-NODE", "PATH": "/nothing"},
            "new nodes": {"XTRAIN_CACHE": cache, "XTRAIN_SCRATCH": f"{scratch}-2-NODE", "PATH": "/nothing"},
            "no scratch": {"XTRAIN_CACHE": cache, "PATH": "/nothing"},
            "damaged": {"XTRAIN_CACHE": cache, "XTRAIN_SCRATCH": f"{scratch}-3-NODE", "PATH": PATH, "spoil": "cut"},
            "foreign": {"XTRAIN_CACHE": cache, "XTRAIN_SCRATCH": f"{scratch}-3-NODE", "PATH": PATH, "spoil": "foreign"},
            "not shared": {"XTRAIN_CACHE": f"{cache}-NODE", "PATH": PATH},
            "no tools": {"XTRAIN_CACHE": f"{cache}-2", "PATH": "/nothing"},
            "no folder": {"XTRAIN_CACHE": str(a_file), "PATH": PATH},
        },
        ["n1", "n1", "n2"],
    )
    ranks = lab.results()
    compiled = {name: found["compiled"] for name, found in ranks[0].items()}
    assert compiled == {
        "first": 1, "second": 0, "new nodes": 0, "no scratch": 0, "damaged": 1, "foreign": 1, "not shared": 2,
        "no tools": 0, "no folder": 0,
    }  # fmt: skip
    for rank in ranks:
        for name in ("first", "second", "new nodes", "no scratch", "damaged", "foreign", "not shared"):
            assert rank[name].get("answer") == 42, (name, rank[name])
    for rank, node in ((1, "n1"), (2, "n2")):
        for name, folder in (("first", "scratch"), ("second", "scratch"), ("new nodes", "scratch-2")):
            assert ranks[rank][name]["file"].startswith(f"{lab.folder}/{folder}-{node}/ops/"), "from its own disk"
        assert ranks[rank]["no scratch"]["file"].startswith(f"{cache}/ops/{node_type()}/tiny/")
    assert {rank["no tools"]["trouble"] for rank in ranks} == {"FileNotFoundError: ninja and c++ not found on PATH"}
    (said,) = {rank["no folder"]["trouble"] for rank in ranks}
    assert said.startswith("NotADirectoryError: ")
    assert os.listdir(f"{cache}/ops/{node_type()}") == ["tiny"], "nothing else is left"


def test_two_jobs_at_once(lab: Lab, tmp_path: Path) -> None:
    """Each is made to begin compiling before the other has ended."""
    jobs = Lab(tmp_path)
    rounds = {"only": {"XTRAIN_CACHE": f"{tmp_path}/cache", "PATH": PATH}}
    for job in ("a", "b"):
        jobs.start(rounds, ["n1"], job, MEETING="2")
    for rank in jobs.results():
        assert rank["only"]["answer"] == 42
    assert len((tmp_path / "log").read_text().splitlines()) == 2
    (library,) = tmp_path.glob("cache/ops/*/*")
    assert sorted(os.listdir(library)) == ["op.json", "tiny.so"]


@pytest.mark.timeout(900)  # the compiler alone may take minutes on a machine that is busy
def test_the_real_one_is_the_same_adam(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Compiles DeepSpeed's FusedAdam (a minute) where no training on this machine has done so before."""
    monkeypatch.delenv("XTRAIN_NO_OPS", raising=False)
    if missing_build_tools():
        pytest.skip(missing_build_tools())
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    monkeypatch.setenv("XTRAIN_SCRATCH", str(tmp_path))
    op = Op.adam(offloaded=False)
    assert provide(op) == ""
    from deepspeed.ops.adam import FusedAdam

    weights = [torch.linspace(-1.0, 1.0, 64).requires_grad_() for _ in range(2)]
    adams = [
        FusedAdam([weights[0]], lr=1e-2, weight_decay=0.1, adam_w_mode=True),
        torch.optim.AdamW([weights[1]], lr=1e-2, weight_decay=0.1),
    ]
    for weight, adam in zip(weights, adams, strict=True):
        for _ in range(5):
            weight.grad = weight.detach() ** 3 - 0.5
            adam.step()
    torch.testing.assert_close(*weights)
    shutil.rmtree(tmp_path / "ops")
    op.builder()._loaded_ops.clear()
    monkeypatch.setenv("PATH", "/nothing")
    assert provide(op) == "", "another start needs no compiler"
    assert Store.here().library(op).is_file()

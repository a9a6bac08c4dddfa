"""DeepSpeed's ops: compiled once for all nodes of a type, copied to each, compiled again where that does not serve."""

from __future__ import annotations

import copy
import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cpuinfo
import pytest
import torch
from long import ALL_FAULTS
from op import compiled
from ops_worker import SOURCE
from torch import Tensor

from xtrain.dispatch.rendezvous import LocalRanks
from xtrain.training.ops import Op, Store, missing_build_tools, node_type, op_is_built, provide
from xtrain.training.optimizer import lead_to
from xtrain.training.pieces import MOMENTS

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
        with LocalRanks(len(nodes)) as place:
            for rank, node in enumerate(nodes):
                out = self.folder / f"{job}-{rank}.json"
                environment = {
                    **place.environment(rank), "SLURMD_NODENAME": node, "CXX": str(self.folder / "compiler"),
                    "COMPILER_LOG": str(self.folder / "log"), "TINY_SOURCE": str(self.folder / "tiny.cpp"),
                    "OMP_NUM_THREADS": "1", "PYTHONPATH": str(WORKER.parents[2]), **variables,
                }  # fmt: skip
                command = [sys.executable, str(WORKER), str(self.folder / f"{job}.json"), str(out)]
                with open(self.folder / f"{job}-{rank}.log", "wb") as log:
                    options: dict[str, Any] = {"stdout": log, "stderr": log, "pass_fds": place.inherited(rank)}
                    self.started.append((subprocess.Popen(command, env=environment, **options), out))

    def results(self) -> list[dict[str, Any]]:
        """What each rank found, by rank and job."""
        found = []
        for process, out in self.started:
            assert process.wait(200) == 0, out.with_suffix(".log").read_text()
            found.append(json.loads(out.read_text()))
        return found


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    if missing_build_tools():
        pytest.skip(missing_build_tools())
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


@pytest.fixture(params=[False, True], ids=["on the device", "offloaded"])
def op(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Op:
    """DeepSpeed's Adam, loaded by this process; the offloaded one is compiled (a minute) with XTRAIN_ALL_FAULTS=1."""
    offloaded: bool = request.param
    if missing_build_tools():
        pytest.skip(missing_build_tools())
    if offloaded and not ALL_FAULTS and not op_is_built(offloaded):
        pytest.skip("DeepSpeedCPUAdam is compiled with XTRAIN_ALL_FAULTS=1 only")
    compiled(offloaded)
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    monkeypatch.setenv("XTRAIN_SCRATCH", str(tmp_path))
    monkeypatch.setattr(cpuinfo, "get_cpu_info", functools.cache(cpuinfo.get_cpu_info))  # a second, for each optimizer
    assert provide(Op.adam(offloaded)) == ""
    return Op.adam(offloaded)


def make_adam(op: Op, weight: Tensor, *betas: float) -> torch.optim.Optimizer:
    from deepspeed.ops.adam import DeepSpeedCPUAdam, FusedAdam

    kind = FusedAdam if op == Op.adam(offloaded=False) else DeepSpeedCPUAdam
    adam: torch.optim.Optimizer = kind([weight], lr=1e-2, betas=betas or (0.9, 0.999), weight_decay=0.1)
    return adam


def train(adam: torch.optim.Optimizer, steps: range) -> None:
    ((weight,),) = [group["params"] for group in adam.param_groups]
    for step in steps:
        weight.grad = torch.sin(weight.detach() * (step % 97)) + 0.1
        adam.step()


def test_the_real_one_is_the_same_adam(op: Op, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    weights = [torch.linspace(-1.0, 1.0, 64).requires_grad_() for _ in range(2)]
    train(make_adam(op, weights[0]), range(5))
    train(torch.optim.AdamW([weights[1]], lr=1e-2, weight_decay=0.1), range(5))
    torch.testing.assert_close(*weights)
    shutil.rmtree(tmp_path / "ops")
    op.builder()._loaded_ops.clear()
    monkeypatch.setenv("PATH", "/nothing")
    assert provide(op) == "", "another start needs no compiler"
    assert Store.here().library(op).is_file()


def test_what_the_op_keeps_outside_of_tensors_goes_on_bit_for_bit(op: Op) -> None:
    """After any number of updates, whatever the process did before: other betas, or another training of the same."""
    cuts, more = [1, 2, 15, 100, 331, 999, 20_000], 20
    calm = make_adam(op, torch.linspace(-1.0, 1.0, 203).requires_grad_())
    seen, at = {}, 0
    for end in sorted({*cuts, *(cut + more for cut in cuts)}):
        train(calm, range(at, end))
        seen[end], at = state_of(calm), end
    for cut in cuts:
        for before, steps in (((0.5, 0.5), 1), ((0.9, 0.999), 7)):
            train(make_adam(op, torch.ones(3).requires_grad_(), *before), range(steps))
            weight, kept = seen[cut]
            resumed = make_adam(op, weight.clone().requires_grad_())
            resumed.state[resumed.param_groups[0]["params"][0]] = copy.deepcopy(kept)
            lead_to(resumed, cut)
            train(resumed, range(cut, cut + more))
            (one, moments), (other, expected) = state_of(resumed), seen[cut + more]
            assert torch.equal(one, other), cut
            assert all(torch.equal(moments[name], expected[name]) for name in MOMENTS), cut


def state_of(adam: torch.optim.Optimizer) -> tuple[Tensor, dict[str, Any]]:
    """Copies of the weight and of what the optimizer has for it."""
    ((weight, state),) = adam.state.items()
    return weight.detach().clone(), copy.deepcopy(dict(state))

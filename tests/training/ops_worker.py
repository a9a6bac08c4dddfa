"""On each rank of test_ops.py: round by round, have a small op provided, and write down what came of it."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

os.environ["DS_ACCELERATOR"] = "cpu"

import torch.distributed as dist
from deepspeed.ops.op_builder.cpu.builder import CPUOpBuilder

from xtrain.dispatch.joining import join
from xtrain.dispatch.rank_process import run_rank
from xtrain.dispatch.rendezvous import from_environment
from xtrain.files import sha256
from xtrain.training.agreement import Agreement
from xtrain.training.ops import Op, Store, provide

SOURCE = """
#include <Python.h>
static PyObject* answer(PyObject*, PyObject*) { return PyLong_FromLong(42); }
static PyMethodDef methods[] = {{"answer", answer, METH_NOARGS, nullptr}, {nullptr, nullptr, 0, nullptr}};
static PyModuleDef_Slot slots[] = {{0, nullptr}};
static PyModuleDef module = {PyModuleDef_HEAD_INIT, "tiny", nullptr, 0, methods, slots};
PyMODINIT_FUNC PyInit_tiny(void) { return PyModuleDef_Init(&module); }
"""


class TinyBuilder(CPUOpBuilder):
    """DeepSpeed's builder, of something that compiles at once."""

    def __init__(self) -> None:
        super().__init__(name="tiny")

    def absolute_name(self) -> str:
        return "deepspeed.ops.tiny_op"

    def sources(self) -> list[str]:
        return [os.environ["TINY_SOURCE"]]


def spoil(how: str, store: Store) -> None:
    """What may have happened to the store since the last job."""
    library = store.shared / "tiny" / "tiny.so"
    if how == "cut":
        os.truncate(library, library.stat().st_size // 2)
    elif how == "foreign":  # whole, but it cannot be loaded
        library.unlink()
        library.write_bytes(b"of another machine")
        (library.parent / "op.json").write_text(json.dumps({"sha256": sha256(library)}))
    elif how == "gone":
        shutil.rmtree(library.parent)


def one_round(spec: dict[str, Any], op: Op) -> dict[str, Any]:
    node = os.environ["SLURMD_NODENAME"]
    for name in ("XTRAIN_CACHE", "XTRAIN_SCRATCH", "PATH"):
        os.environ.pop(name, None)
        if spec.get(name):
            os.environ[name] = spec[name].replace("NODE", node)
    op.builder()._loaded_ops.clear()
    if dist.get_rank() == 0:
        spoil(spec.get("spoil", ""), Store.here())
    Agreement().barrier()
    trouble = provide(op)
    if trouble:
        return {"trouble": trouble}
    module = op.builder().load()
    return {"trouble": "", "answer": module.answer(), "file": module.__file__}


def main() -> None:
    rounds, out = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    join(from_environment())
    op = Op("tiny", TinyBuilder)
    log = Path(os.environ["COMPILER_LOG"])
    found = {}
    for name, spec in rounds.items():
        before = len(log.read_text().splitlines()) if log.exists() else 0
        Agreement().barrier()
        found[name] = one_round(spec, op)
        Agreement().barrier()
        found[name]["compiled"] = (len(log.read_text().splitlines()) if log.exists() else 0) - before
    out.write_text(json.dumps(found))


if __name__ == "__main__":
    run_rank(main)

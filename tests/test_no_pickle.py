"""Nothing is unpickled: whoever can put a file into a run directory must not be able to run code with it.

Weights of a base may be a pickle where there are no others; one module opens such files, and has torch make nothing
but tensors of them.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import xtrain

PACKAGE = Path(xtrain.__file__).parent
PROJECT = PACKAGE.parent
MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
UNPICKLING = {"torch.load", "numpy.load", "pandas.read_pickle"}  # unless told not to
SAFE = {
    "torch.load": ("weights_only", True),
    "numpy.load": ("allow_pickle", False),
    "from_pretrained": ("trust_remote_code", False),
}
LOOSENED = {"add_safe_globals", "safe_globals", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"}
OF_WEIGHTS = "xtrain/model/pickled_weights.py"  # the one file that calls torch.load
READERS = {
    "load_checkpoint",
    "pickle_load",
    "DelayedSubmission",
}  # DeepSpeed's engine and submitit read their own pickles
REMOTE = {"from_pretrained"}  # runs code that lies beside a model, if somebody at the terminal says y
OF_OBJECTS = {"submit", "map_array", "submit_array"}  # submitit's: a job that begins unpickles its work from the folder
IN_MEMORY = {"training/ahead.py"}  # pickles for a process that it started itself: `loads` of memory, never of a file


def unsafe(source: str, *, in_memory: bool = False) -> Iterator[tuple[int, str]]:
    """Line and text of whatever in ``source`` could unpickle a file; ``in_memory`` lets pass what cannot read one."""
    tree = ast.parse(source)
    names: dict[str, str] = {}  # a name of this module -> what it is
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname or alias.name: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            allowed = in_memory and isinstance(node, ast.Import) and modules == ["pickle"]
            if not allowed and any(module.partition(".")[0] in MODULES for module in modules):
                yield node.lineno, ast.unparse(node)
        elif isinstance(node, ast.Call):
            function = ast.unparse(node.func)
            first, dot, rest = function.partition(".")
            called = names.get(first, first) + dot + rest
            if (
                (READERS | LOOSENED) & set(called.split("."))
                or called in ("pickle.load", "pickle.Unpickler")
                or (called in UNPICKLING and not is_safe(node, called))
                or (called.rpartition(".")[2] in OF_OBJECTS and called.partition(".")[0] == "executor")
                or (called.rpartition(".")[2] in REMOTE and not is_safe(node, "from_pretrained"))
            ):
                yield node.lineno, ast.unparse(node)


def loads(source: str) -> list[int]:
    """The lines of ``source`` that name torch's reader of pickles, safe or not, or what loosens it."""
    names = {"load", *LOOSENED}
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and (ast.unparse(node) == "torch.load" or node.attr in LOOSENED):
            found.append(node.lineno)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "torch":
            found += [node.lineno for alias in node.names if alias.name in names]
        elif isinstance(node, ast.Constant) and node.value in LOOSENED:
            found.append(node.lineno)
    return found


def is_safe(call: ast.Call, called: str) -> bool:
    """Whether the call says that nothing may be unpickled."""
    keyword, value = SAFE.get(called, ("", None))
    return any(
        given.arg == keyword and isinstance(given.value, ast.Constant) and given.value.value is value
        for given in call.keywords
    )


def every_file() -> list[Path]:
    files = [*PACKAGE.rglob("*.py"), PROJECT / "train.py", *(PROJECT / "slurm").glob("*.py")]
    assert len(files) > 60
    return files


def test_one_module_opens_pickled_weights() -> None:
    """And calls torch.load once; that it says ``weights_only=True`` is what the next test is about."""
    found = {path.relative_to(PROJECT).as_posix(): loads(path.read_text("utf-8")) for path in every_file()}
    assert {name: len(lines) for name, lines in found.items() if lines} == {OF_WEIGHTS: 1}


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.load(path, weights_only=True)",
        "read = torch.load",
        "from torch import load as read",
        "from torch.serialization import safe_globals",
        "with torch.serialization.safe_globals([A]):\n    pass",
        "os.environ['TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'] = '1'",
    ],
)
def test_another_one_would_be_found(source: str) -> None:
    assert loads(source)


def test_nothing_is_unpickled() -> None:
    files = every_file()
    found = [
        f"{path.relative_to(PROJECT)}:{line}: {text}"
        for path in files
        for line, text in unsafe(path.read_text("utf-8"), in_memory=path.as_posix().endswith(tuple(IN_MEMORY)))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "def f():\n    from joblib import load",
        "import torch\ntorch.load(path)",
        "import torch\ntorch.load(path, weights_only=False)",
        "import torch\ntorch.load(path, weights_only=choice)",
        "import torch\ntorch.load(path, mmap=True)",
        "import torch\ntorch.serialization.add_safe_globals([A])",
        "from torch.serialization import safe_globals\nwith safe_globals([A]):\n    pass",
        "from torch import load as read\nread(path)",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
        "import numpy as np\nnp.load(path)",
        "engine.load_checkpoint(folder)",
        "import submitit\nexecutor.submit(work)",
        "from submitit.core.utils import DelayedSubmission as D\nD.load(path)",
        "from transformers import AutoTokenizer\nAutoTokenizer.from_pretrained(folder)",
        "AutoModel.from_pretrained(folder, trust_remote_code=True)",
    ],
)
def test_it_would_be_found(source: str) -> None:
    assert list(unsafe(source))


@pytest.mark.parametrize("call", ["pickle.load(open(path, 'rb'))", "pickle.Unpickler(handle).load()"])
def test_not_even_where_memory_may_be(call: str) -> None:
    assert list(unsafe(f"import pickle\n{call}", in_memory=True))
    assert not list(unsafe("import pickle\npickle.loads(memory)", in_memory=True))


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.load(path, weights_only=True)",
        "import numpy as np\nnp.load(path, mmap_mode='r', allow_pickle=False)",
        "import json\njson.load(handle)",
        "executor._submit_command(text)",
        "AutoTokenizer.from_pretrained(folder, trust_remote_code=False)",
    ],
)
def test_what_is_harmless_is_not(source: str) -> None:
    assert not list(unsafe(source))

"""Which code this is: the commit that is checked out, and a hash of the modules, which tells of changes to it."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from xtrain.errors import Problem, UserError
from xtrain.files import make_folder, writing
from xtrain.starting import PROJECT

_COMMIT = "COMMIT"  # of a snapshot, which has no .git
_FOLDERS = ("xtrain", "ds_configs", "slurm")
_FILES = ("train.py", "pyproject.toml")


def source_version(project: Path = PROJECT) -> dict[str, str]:
    """``commit`` (none where the project is no git checkout) and ``source``, a hash over all of its modules."""
    commit = checked_out(project / ".git") or _noted(project / _COMMIT)
    modules = _hash(project, [project / "train.py", *(project / "xtrain").rglob("*.py")])
    return {**({"commit": commit} if commit else {}), "source": modules}


def _hash(project: Path, paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(f"{path.relative_to(project)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def snapshot(out: Path, project: Path = PROJECT) -> Path:
    """A copy of the code in ``OUT/code/HASH``, made once for each state of it: what jobs run from, whatever is edited.

    Raises a :class:`~xtrain.errors.UserError` where it cannot be written, or an earlier copy was changed.
    """
    files = _copied(project)
    folder = out.absolute() / "code" / _hash(project, files)  # tables of tasks and of DeepSpeed too
    if folder.is_dir():
        if _hash(folder, _copied(folder)) != folder.name:
            raise UserError(Problem(str(folder), "is not what was copied there", remedy="remove it: it is made anew"))
        return folder
    make_folder(folder.parent)
    with writing(folder), tempfile.TemporaryDirectory(prefix=".", dir=folder.parent) as temporary:
        copy = Path(temporary) / folder.name
        for path in files:
            make_folder((copy / path.relative_to(project)).parent)
            shutil.copyfile(path, copy / path.relative_to(project))
        (copy / _COMMIT).write_text(source_version(project).get("commit", ""), "utf-8")
        with contextlib.suppress(OSError):  # another submission was as quick
            copy.rename(folder)
    return folder


def _copied(project: Path) -> list[Path]:
    tables = [path for name in _FOLDERS for path in (project / name).rglob("*.*") if path.suffix != ".pyc"]
    return [path for path in (*tables, *(project / name for name in _FILES)) if path.is_file()]


def _noted(path: Path) -> str:
    """The commit that a snapshot was made of."""
    return path.read_text("utf-8").strip() if path.is_file() else ""


def checked_out(git: Path) -> str:
    """The commit of a ``.git`` folder (or of the file that stands for it in a worktree), or an empty string.

    Its files are read: nodes often have no git, which also refuses a checkout that somebody else owns.
    """
    try:
        if git.is_file():
            git = (git.parent / git.read_text("utf-8").strip().removeprefix("gitdir: ")).resolve()
        head = (git / "HEAD").read_text("utf-8").strip()
        name = head.removeprefix("ref: ")
        if name == head:
            return head
        common = git / (git / "commondir").read_text("utf-8").strip() if (git / "commondir").is_file() else git
        for folder in (git, common):
            if (folder / name).is_file():
                return (folder / name).read_text("utf-8").strip()
        packed = (common / "packed-refs").read_text("utf-8").splitlines()
        return next((line.split()[0] for line in packed if line.endswith(f" {name}")), "")
    except (OSError, UnicodeDecodeError):
        return ""

"""Which code this is: the commit that is checked out, and a hash of the modules, which tells of changes to it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from xtrain.starting import PROJECT


def source_version(project: Path = PROJECT) -> dict[str, str]:
    """``commit`` (none where the project is no git checkout) and ``source``, a hash over all of its modules."""
    commit = checked_out(project / ".git")
    digest = hashlib.sha256()
    for path in sorted([project / "train.py", *(project / "xtrain").rglob("*.py")]):
        digest.update(f"{path.relative_to(project)}\0".encode() + path.read_bytes() + b"\0")
    return {**({"commit": commit} if commit else {}), "source": digest.hexdigest()[:12]}


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

"""The folder ``checkpoints/`` of a run: what is in it, what is set aside, what may be deleted."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Collection, Container
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from xtrain.checkpoints.commit import damage, free_path, move_aside, publish, sync_folder
from xtrain.checkpoints.manifest import (
    MANIFEST,
    REASON,
    UNFINISHED,
    Manifest,
    Series,
    commit_name,
    parse_name,
    parse_other_name,
    read_manifest,
)
from xtrain.files import Staging, through, writing

WORK = ".work-"  # an attempt's staging folder in here: this and the name of its claim
TRAINER = "trainer.json"  # the state of the loop; its "selection" names the best step
State = Literal["finished", "damaged", "unfinished", "set aside"]


@dataclass(frozen=True)
class Commit:
    """A finished checkpoint: its manifest is sound, and its files have the sizes that it says."""

    path: Path
    manifest: Manifest

    @property
    def name(self) -> str:
        """``step-N`` or ``best-step-N``."""
        return self.manifest.name

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return self.manifest.step


@dataclass(frozen=True)
class Entry:
    """A folder that belongs to checkpoints, whatever its state."""

    path: Path
    state: State
    series: Series
    step: int
    manifest: Manifest | None = None
    """Of a finished one."""
    damage: tuple[str, ...] = ()
    """What is wrong with a damaged one, as far as names and sizes show it, or why it was set aside."""

    @property
    def commit(self) -> Commit | None:
        """The commit that it is, if it is finished."""
        return Commit(self.path, self.manifest) if self.manifest is not None else None


@dataclass
class CheckpointFolder:
    """The checkpoints of one run."""

    path: Path
    staging: Staging | None = None
    """Where commits are put together, and what is deleted loses its name; None: in :attr:`path` itself."""
    _verified: set[str] = field(default_factory=set)
    """Names of the commits whose bytes this process has hashed, as it wrote them or later."""

    @property
    def _workplace(self) -> Path:
        return self.staging.path if self.staging else self.path

    @property
    def taken(self) -> bool:
        """Whether a newer attempt has taken :attr:`staging` away, so that nothing can be changed in here any more."""
        return self.staging is not None and self.staging.taken

    def entries(self) -> list[Entry]:
        """Every checkpoint folder, in the order of steps; cheap: reads manifests and sizes alone.

        Those that attempts have begun and not finished are among them, but for other attempts' where this folder is
        an attempt's own.
        """
        names = _names(self.path)
        found = [entry for name in names if (entry := self._entry(name)) is not None]
        own = [name for name in names if name.startswith(WORK)] if self.staging is None else [self.staging.path.name]
        found += [entry for work in own for name in _names(self.path / work) if (entry := self._unfinished(work, name))]
        return sorted(found, key=lambda entry: (entry.step, entry.series != "best", entry.path.name))

    def commits(self, series: Series = "step") -> list[Commit]:
        """The finished commits of a series, oldest first. A file too many does no harm to one."""
        return [commit for entry in self.entries() if entry.series == series and (commit := entry.commit)]

    def find(self, name: str) -> Commit | None:
        """The finished commit of that name, or None if there is none."""
        entry = self._entry(name)
        return entry.commit if entry else None

    def damaged(self) -> list[Entry]:
        """Folders with a commit's name that are none, oldest first, as far as names and sizes show it."""
        return [entry for entry in self.entries() if entry.state == "damaged"]

    def temporary(self, name: str) -> Path:
        """Where the commit ``name`` is put together."""
        return self._workplace / f"{name}{UNFINISHED}"

    def make_temporary(self, name: str) -> Path:
        """The folder :meth:`temporary`, made if it is not there. A staging folder itself is never made again."""
        path = self.temporary(name)
        path.mkdir(parents=self.staging is None, exist_ok=True)
        return path

    def publish(self, manifest: Manifest) -> bool:
        """Make the commit of ``manifest`` from its temporary folder; see :func:`xtrain.checkpoints.publish`."""
        published = publish(self.temporary(manifest.name), self.path / manifest.name, manifest, self.staging)
        self.vouch(manifest.name)
        return published

    def verify(
        self, commit: Commit, names: Collection[str] | None = None, on_bytes: Callable[[int], None] | None = None
    ) -> list[str]:
        """Hash the commit's files (or those in ``names``) and return what is wrong, as :func:`damage` does."""
        found = damage(commit.path, deep=True, names=names, on_bytes=on_bytes)
        if found:
            self._verified.discard(commit.name)
        elif names is None:
            self.vouch(commit.name)
        return found

    def vouch(self, name: str) -> None:
        """Take note that the bytes of the commit ``name`` are right: ranks have shared the hashing, say."""
        self._verified.add(name)

    def last_verified(self, on_bytes: Callable[[int], None] | None = None) -> Commit | None:
        """The newest full commit whose bytes are known to be right; hashes until one is found."""
        for commit in reversed(self.commits()):
            if commit.name in self._verified or not self.verify(commit, on_bytes=on_bytes):
                return commit
        return None

    def set_aside(self, commit: Commit | str, reason: str) -> Path:
        """Rename a broken commit to ``NAME.broken``, where it is never read again and can be examined."""
        name = commit if isinstance(commit, str) else commit.name
        self._verified.discard(name)
        return move_aside(self.path / name, reason, self.staging)

    def retain(self, keep: int, *, best_step: int = -1, protect: Container[str] = ()) -> list[str]:
        """Delete all but the newest ``keep`` full commits; returns the names that are gone.

        Never goes: the newest one that is known to verify (nothing at all if none does), what ``protect`` names, and
        the best weights that ``best_step`` (the selection of now) or a full commit that stays refers to.
        """
        doomed = self.superfluous(keep, best_step=best_step, protect=protect)
        for path in doomed:
            self.delete(path)
        return [path.name for path in doomed]

    def superfluous(
        self, keep: int, *, best_step: int = -1, protect: Container[str] = (), without: Container[str] = ()
    ) -> list[Path]:
        """What :meth:`retain` would delete; ``without`` names commits that are not to be counted."""
        commits = [commit for commit in self.commits() if commit.name not in without]
        stay = {commit.name for commit in commits[max(0, len(commits) - max(1, keep)) :]}
        if len(stay) < len(commits):  # hashing is only worth its time if something is to go
            last = self.last_verified()
            stay |= {last.name} if last else {commit.name for commit in commits}
        stay |= {commit.name for commit in commits if commit.name in protect}
        doomed = [commit.path for commit in commits if commit.name not in stay]
        referred = [_best_step(commit) for commit in commits if commit.name in stay]
        if None not in referred:  # where one cannot be read, the weights that it means are not known
            best = {commit_name("best", step) for step in (best_step, *referred) if step is not None}
            weights = [commit for commit in self.commits("best") if commit.name not in best]
            doomed += [commit.path for commit in weights if commit.name not in protect]
        return doomed

    def delete(self, path: Path) -> None:
        """Delete a folder in here: first its name, so that a crash in the middle leaves nothing that looks whole."""
        assert path.parent == self.path or path.parent.name.startswith(WORK), path
        self._verified.discard(path.name)
        if path.suffix != UNFINISHED:
            with through(self.staging), writing(path):
                unnamed = free_path(self._workplace / path.name, UNFINISHED)
                os.rename(path, unnamed)
                sync_folder(self.path)
            path = unnamed
        if path.is_symlink() or not path.is_dir():
            path.unlink(missing_ok=True)
        else:
            shutil.rmtree(path, ignore_errors=True)  # what another process holds open goes with the next clean()

    def clean(self) -> list[str]:
        """Delete what saves and deletions left that did not end; returns the names. For the start of a run."""
        stale = [entry.path for entry in self.entries() if entry.state == "unfinished"]
        for path in stale:
            self.delete(path)
        return [path.name for path in stale]

    def clear(self) -> None:
        """Delete every checkpoint, oldest first: for training that begins anew."""
        for entry in self.entries():
            self.delete(entry.path)

    def _unfinished(self, work: str, name: str) -> Entry | None:
        """What lies in a folder of an attempt's."""
        other = parse_other_name(name)
        return None if other is None else Entry(self.path / work / name, "unfinished", *other[:2])

    def _entry(self, name: str) -> Entry | None:
        """What the folder ``name`` is, or None if it is nothing of ours."""
        path, named = self.path / name, parse_name(name)
        if named is None:
            other = parse_other_name(name)
            if other is None:
                return None
            series, step, ending = other
            if ending == UNFINISHED:
                return Entry(path, "unfinished", series, step)
            return Entry(path, "set aside", series, step, damage=_reason(path))
        try:
            manifest = read_manifest(path)
        except ValueError as error:
            return Entry(path, "damaged", *named, damage=(f"{MANIFEST}: {error}",))
        wrong = damage(path, deep=False)
        return (
            Entry(path, "damaged", *named, damage=tuple(wrong)) if wrong else Entry(path, "finished", *named, manifest)
        )


def _names(folder: Path) -> list[str]:
    """The names in a folder that may not be there, or no longer."""
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _best_step(commit: Commit) -> int | None:
    """The step whose weights were the best when the commit was made (-1: none yet); None if that is not to be read."""
    try:
        step = json.loads((commit.path / TRAINER).read_bytes())["selection"]["best_step"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return step if type(step) is int else None


def _reason(folder: Path) -> tuple[str, ...]:
    """Why a folder was set aside, as far as it is written there."""
    try:
        return tuple((folder / REASON).read_text("utf-8", errors="replace").splitlines())
    except OSError:
        return ()

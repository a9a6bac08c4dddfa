"""A repository of the Hugging Face hub: the commit it stands at, its files, and the local cache they are in."""

from __future__ import annotations

import contextlib
import difflib
import glob
import json
import os
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from xtrain.errors import Problem, UserError, listed, nearest
from xtrain.files import write_json, write_text

COMMIT = re.compile(r"[0-9a-f]{40}")
_CLIENTS = ("huggingface_hub", "httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3", "filelock")
_NOUNS = {"dataset": "data set", "model": "model"}


@dataclass(frozen=True)
class Repository:
    """A repository at one commit: what was found out about it with one request, or in the local cache."""

    id: str
    kind: str
    """``dataset`` or ``model``."""
    revision: str
    """The branch, tag or commit that was asked for."""
    commit: str
    """What it stands for."""
    files: tuple[str, ...]
    """Every file of the commit; if the hub was never asked, those in the local cache."""
    reached: bool
    """Whether the hub answered; if not, nothing can be fetched."""

    def fetch(self, names: Sequence[str]) -> Path:
        """The folder of the commit in the local cache, with the files ``names`` in it.

        What is there is not asked for again, and needs no network. Raises :class:`UserError` if one is neither
        there nor can be fetched.
        """
        folder = _storage(self.id, self.kind) / "snapshots" / self.commit
        missing = [name for name in names if not (folder / name).is_file()]
        if not missing:
            return folder
        if not self.reached:
            raise UserError(_missing(self, missing))
        from huggingface_hub import snapshot_download

        try:
            # the commit, not the branch: it may have moved since
            patterns = [glob.escape(name) for name in missing]
            return Path(snapshot_download(self.id, repo_type=self.kind, revision=self.commit, allow_patterns=patterns))
        except Exception as error:
            if not _of_the_client(error):
                raise
            raise UserError(_interrupted(self, error)) from None


def locate(repository: str, kind: str, revision: str, known: tuple[str, ...] = ()) -> Repository:
    """The commit that ``revision`` of a repository stands for now, and its files. Asked once a process.

    Where the hub cannot be reached, or HF_HUB_OFFLINE is set, it is what the local cache last saw there; unless
    the latter was wished for, a line says so. ``known`` are ids to propose for a wrong one. Raises
    :class:`UserError` if there is no such repository or revision, if it may not be read, or if the hub cannot be
    reached and the cache does not know it.
    """
    found = answer(repository, kind, revision, known)
    if isinstance(found, Problem):
        raise UserError(found)
    return found


@cache
def answer(repository: str, kind: str, revision: str, known: tuple[str, ...]) -> Repository | Problem:
    """What :func:`locate` returns, or is to raise where the hub was not reached. That is remembered as well: a grid of
    phases reads one data set ten thousand times, and each question without a network takes tens of milliseconds."""
    from huggingface_hub.errors import HFValidationError, RevisionNotFoundError

    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", repository):  # not left to the client: offline, it is not asked
        return _problem(repository, kind, revision, HFValidationError("not an id"), known)
    if offline():
        found = _cached(repository, kind, revision)
        return found or _unreachable(repository, kind, revision, "HF_HUB_OFFLINE is set")
    from huggingface_hub import HfApi, constants

    try:
        info = HfApi().repo_info(
            repository, repo_type=kind, revision=revision, timeout=constants.HF_HUB_ETAG_TIMEOUT, files_metadata=False
        )
    except Exception as error:
        if not _of_the_client(error):
            raise
        found = None if isinstance(error, RevisionNotFoundError) else _cached(repository, kind, revision)
        if found is None:
            problem = _problem(repository, kind, revision, error, known)
            if getattr(error, "response", None) is not None:  # an answer: with another token it may be another one
                raise UserError(problem) from None
            return problem
        line = f"hub: {repository} cannot be asked ({type(error).__name__})"
        line += f"; commit {found.commit[:12]} of {revision} is in the local cache and is used"
        print(line, file=sys.stderr, flush=True)
        return found
    assert info.sha is not None, "the hub names the commit"
    siblings = getattr(info, "siblings", None) or ()
    names = tuple(sorted(sibling.rfilename for sibling in siblings))
    found = Repository(repository, kind, revision, info.sha, names, reached=True)
    _remember(found)
    return found


def offline() -> bool:
    """Whether the user forbids the network. Looked up now: the libraries look once, when they are imported."""
    names = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")
    return any(os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE") for name in names)


def scrubbed(text: str) -> str:
    """``text`` on one line, without anything that is or looks like the user's token."""
    from huggingface_hub import get_token

    token = get_token()
    text = " ".join(text.split())
    if token:
        text = text.replace(token, "hf_***")
    return re.sub(r"hf_[A-Za-z0-9]{8,}", "hf_***", text)


def _storage(repository: str, kind: str) -> Path:
    """The repository's folder in the hub's cache: refs/REVISION, snapshots/COMMIT/FILE, blobs."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repository, repo_type=kind)


def _remember(found: Repository) -> None:
    """Leave the commit of a branch and its list of files in the cache, for when there is no network.

    The client writes the first only when it fetches a whole branch; without the second, a download that was
    interrupted looks complete. A cache that may not be written is no error: it may be shared.
    """
    folder = _storage(found.id, found.kind)
    with contextlib.suppress(OSError, UserError):
        if found.revision != found.commit:
            ref = folder / "refs" / found.revision
            if not ref.is_file() or ref.read_text("utf-8") != found.commit:
                ref.parent.mkdir(parents=True, exist_ok=True)
                write_text(ref, found.commit)
        names = folder / "xtrain" / f"{found.commit}.json"
        if not names.is_file():
            names.parent.mkdir(parents=True, exist_ok=True)
            write_json(names, list(found.files))


def _cached(repository: str, kind: str, revision: str) -> Repository | None:
    """What the local cache knows; None if it does not know which commit ``revision`` is."""
    folder = _storage(repository, kind)
    commit = revision
    if not COMMIT.fullmatch(revision):
        try:
            commit = (folder / "refs" / revision).read_text("utf-8").strip()
        except OSError:
            return None
    snapshot = folder / "snapshots" / commit
    try:
        files = tuple(json.loads((folder / "xtrain" / f"{commit}.json").read_text("utf-8")))
    except (OSError, ValueError):  # filled by another program: what is there must do
        files = tuple(sorted(path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*") if path.is_file()))
    return Repository(repository, kind, revision, commit, files, reached=False) if files else None


def _of_the_client(error: Exception) -> bool:
    """Whether the hub, the network or the disk is to blame. The client's HTTP library differs by version."""
    return isinstance(error, OSError) or type(error).__module__.partition(".")[0] in _CLIENTS


def _problem(repository: str, kind: str, revision: str, error: Exception, known: Iterable[str]) -> Problem:
    from huggingface_hub import get_token
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    # what does not exist and what may not be seen are one to the hub where there is no token
    unseen = isinstance(error, (HFValidationError, RepositoryNotFoundError)) or (status == 401 and not get_token())
    unseen = unseen or status == 404
    noun = _NOUNS[kind]
    if isinstance(error, GatedRepoError):  # before RepositoryNotFoundError, its parent
        remedy = f"ask for access on its page, then {_log_in()}"
        return Problem(repository, f"the {noun} is on the hub, but access to it must be granted", remedy=remedy)
    if isinstance(error, RevisionNotFoundError):
        names = _revisions(repository, kind)
        return Problem(
            repository,
            f"has no revision {revision!r}",
            allowed=listed(names) if names else "a branch, tag or commit of the repository",
            remedy=nearest(revision, names),
        )
    if unseen:
        remedy = f"{_nearest_id(repository, known)} check the id; if it is private, {_log_in()}".strip()
        return Problem(repository, f"neither a directory here nor a {noun} on the hub", _allowed(kind), remedy)
    if status in (401, 403):
        what = f"the hub refuses to show this {noun} ({status})"
        return Problem(repository, what, remedy=_log_in())
    return _unreachable(repository, kind, revision, f"{type(error).__name__}: {scrubbed(str(error))[:200]}")


def _log_in() -> str:
    from huggingface_hub import get_token

    now = "the one that is set may not read it" if get_token() else "none is set"
    return f"give a token that may read it in the environment variable HF_TOKEN, or `hf auth login` ({now})"


def _allowed(kind: str) -> str:
    if kind == "model":
        return 'a model directory, a hub id such as "FacebookAI/xlm-roberta-large", or "starter"'
    return 'a folder, or a hub id such as "nyu-mll/glue"'


def _nearest_id(repository: str, known: Iterable[str]) -> str:
    """The known id nearest to ``repository``, compared as a whole, then by what follows the slash."""
    ids = [name for name in known if name != repository]
    hint = nearest(repository, ids)
    if hint:
        return hint
    names = {name.rpartition("/")[2].lower(): name for name in ids}
    close = difflib.get_close_matches(repository.rpartition("/")[2].lower(), list(names), n=1, cutoff=0.6)
    return f"did you mean {names[close[0]]!r}?" if close else ""


def _revisions(repository: str, kind: str) -> list[str]:
    from huggingface_hub import HfApi

    try:
        refs = HfApi().list_repo_refs(repository, repo_type=kind)
    except Exception:  # a help in a message that is raised anyway
        return []
    return [ref.name for ref in [*refs.branches, *refs.tags]] + [ref.ref for ref in refs.converts]


def _unreachable(repository: str, kind: str, revision: str, why: str) -> Problem:
    return Problem(
        f"{repository} ({revision})",
        f"not in the local hub cache ({_storage(repository, kind).parent}), and the hub cannot be reached ({why})",
        allowed=_allowed(kind),
        remedy="check the network or the proxy, or run the same command once where there is one, with the same "
        "HF_HOME"
        + ("; or name the folder that it was copied to" if kind == "model" else "; or name files with --data"),
    )


def _missing(found: Repository, missing: Sequence[str]) -> Problem:
    return Problem(
        f"{found.id} ({found.revision}, commit {found.commit[:12]})",
        f"{listed(missing, most=5)}: not in the local hub cache, and the hub cannot be reached",
        remedy="run the same command once where there is a network, with the same HF_HOME",
    )


def _interrupted(found: Repository, error: Exception) -> Problem:
    return Problem(
        f"{found.id} ({found.revision}, commit {found.commit[:12]})",
        f"could not be fetched whole ({type(error).__name__}: {scrubbed(str(error))[:300]})",
        remedy="run the same command again: the files that are complete are kept",
    )

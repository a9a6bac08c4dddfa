"""The image that ranks run in: what of the machine it is shown, and which variables it may not replace by its own."""

from __future__ import annotations

import contextlib
import functools
import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

from xtrain.dispatch.cluster import Profile
from xtrain.dispatch.job_graph import study_file
from xtrain.dispatch.slurm import asked
from xtrain.run_directory import RunDirectory

_OTHER_CACHES = ("HF_HUB_CACHE", "HF_DATASETS_CACHE")  # of Hugging Face's, for those who keep them apart


def hub_home(profile: Profile, environment: Mapping[str, str]) -> Path:
    """The hub's cache of the user who submits (``HF_HOME``); in the image, ``~`` may be another folder."""
    default = Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "huggingface"
    chosen = profile.environment.variables.get("HF_HOME") or environment.get("HF_HOME") or default
    return Path(str(chosen)).expanduser()


def base_folders(run: RunDirectory) -> list[Path]:
    """The folder of the base model that a phase starts from, or those that its study names; empty for none."""
    for path, key in ((run.phase_file, "base_folder"), (study_file(run), "base")):
        with contextlib.suppress(OSError, ValueError):
            read = tomllib.loads(path.read_text("utf-8"))
            rows = [row for row in read.get("intermediate", ()) if isinstance(row, dict)]
            several = [row["model"] for row in read[key] if "model" in row] if isinstance(read.get(key), list) else []
            named = [*several, *(str(of.get(key, "")) for of in (read, *rows))]
            folders = [Path(name).expanduser() for name in dict.fromkeys(filter(None, named))]
            found = [folder for folder in folders if folder.is_absolute() and folder.is_dir()]
            if found:
                return found
    return []


def mounts_of(profile: Profile, folders: Sequence[Path], environment: Mapping[str, str] | None = None) -> list[str]:
    """``SOURCE:TARGET`` for each of ``folders``, the hub's caches and what the profile names, as both runtimes have it.

    Folders of Hugging Face's that are not there are left out: a runtime refuses to mount them.
    """
    env = os.environ if environment is None else environment
    hub = [hub_home(profile, env), *(Path(env[name]) for name in _OTHER_CACHES if env.get(name))]
    wanted = [str(path.absolute()) for path in folders] + [str(path.absolute()) for path in hub if path.is_dir()]
    every = dict.fromkeys([*wanted, *profile.container.mounts])
    return [mount if ":" in mount else f"{mount}:{mount}" for mount in every]


def pyxis_options(profile: Profile, mounts: Sequence[str], exported: Sequence[str]) -> list[str]:
    """srun's options. Where an image has a variable of the same name, Pyxis would keep the image's, unless it is named
    in ``--container-env``; versions before that option know no remedy."""
    image, names = profile.container.image, ",".join(dict.fromkeys(exported))
    keep = [f"--container-env={names}"] if names and _srun_knows("--container-env") else []
    return [f"--container-image={image}", f"--container-mounts={','.join(mounts)}", *keep]


@functools.cache
def _srun_knows(option: str) -> bool:
    reply, out = asked(["srun", "--help"])
    return reply.ok and option in out

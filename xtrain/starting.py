"""What comes before everything else in a process: Python, packages, text that any terminal takes, a home.

Only the standard library is imported here, so that a missing package can be said.
"""

from __future__ import annotations

import importlib
import os
import pwd
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from xtrain.errors import EXIT_USER

PROJECT = Path(__file__).resolve().parent.parent  # where the package, train.py and ds_configs/ stand
_OLDEST = (3, 11)
_FORGIVING = ("replace", "backslashreplace", "xmlcharrefreplace", "namereplace", "ignore")
_SETTING = re.compile(r"[\w.\"'-]+=")


def entry(module: str, arguments: Sequence[str] | None = None) -> int:
    """Run ``main(arguments)`` of ``module`` (by default those of the command line); returns the exit code.

    A package that is not installed is the user's mistake like any other: one message, exit code 2.
    """
    prepare()
    if sys.version_info < _OLDEST:
        return _refuse(f"Python {sys.version.split()[0]} is too old", "Python 3.11 or newer")
    try:
        main = importlib.import_module(module).main
        return int(main(sys.argv[1:] if arguments is None else arguments) or 0)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "xtrain"):
            raise
        return _refuse(f"the package {package!r} is not installed", "what requirements.txt lists")


def _refuse(what: str, allowed: str) -> int:
    own = PROJECT / ".venv" / "bin" / "python"
    done = own.exists() and Path(sys.prefix).resolve() != (PROJECT / ".venv").resolve()
    remedy = f"run it with {own}" if done else f"make install in {PROJECT}, then run it with {own}"
    print(f"error: {sys.executable}: {what}\n  allowed: {allowed}\n  to do:   {remedy}", file=sys.stderr)
    return EXIT_USER


def prepare() -> None:
    """Make this process, and those that it starts, take any text and find a home. May begin the process anew.

    Names of files and the texts in them are UTF-8, whatever the terminal is: where Python thinks otherwise
    (``LC_ALL=C`` without its UTF-8 mode, a locale of ISO-8859-1), it is started again in that mode. What the terminal
    cannot show is printed as a question mark.
    """
    _find_home()
    if sys.getfilesystemencoding().lower().replace("-", "") != "utf8" and sys.executable and not sys.flags.utf8_mode:
        os.environ["PYTHONUTF8"] = "1"
        os.environ.setdefault("PYTHONIOENCODING", f"{sys.stdout.encoding if sys.stdout else 'utf-8'}:replace")
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure") and stream.errors not in _FORGIVING:
            stream.reconfigure(errors="replace")
            encoding = stream.encoding.lower().replace("-", "")
            if encoding != "utf8":
                os.environ["PYTHONIOENCODING"] = f"{stream.encoding}:replace"


def _find_home() -> None:
    """Libraries ask for the home and the name of the user; a container without a passwd entry has neither."""
    try:
        name, home = pwd.getpwuid(os.getuid())[0], os.path.expanduser("~")
    except KeyError:
        name, home = f"uid-{os.getuid()}", os.environ.get("HOME", "")
    if not any(os.environ.get(key) for key in ("LOGNAME", "USER", "LNAME", "USERNAME")):
        os.environ["USER"] = name
    if not home or home == "~":
        os.environ["HOME"] = home = _folder_of_this_user()
        print(f"note: HOME is not set, and the user has no entry in passwd: {home} is used", file=sys.stderr)


def _folder_of_this_user() -> str:
    path = Path(tempfile.gettempdir()) / f"xtrain-home-{os.getuid()}"
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        status = path.lstat()
        if path.is_symlink() or status.st_uid != os.getuid() or status.st_mode & 0o022:
            raise PermissionError(path)
        return str(path)
    except OSError:  # somebody else's: then one that nobody knew of
        return tempfile.mkdtemp(prefix="xtrain-home-")


def plain_arguments(arguments: Sequence[str]) -> list[str]:
    """The command line with homes put in (``--out=~/x``, which a shell leaves alone), and each ``--set`` its own.

    ``--set A=1 B=2 STUDY`` becomes ``--set A=1 --set B=2 STUDY``: what is no KEY=VALUE is another argument.
    """
    plain: list[str] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        option, equals, value = word.partition("=")
        if word == "--set" or option == "--set":
            values = [value] if equals else rest[:1]
            rest = rest if equals else rest[1:]
            while rest and _SETTING.match(rest[0]) and not rest[0].startswith("-") and not os.path.exists(rest[0]):
                values.append(rest.pop(0))
            plain += [part for one in values for part in ("--set", one)] or [word]
        elif option.startswith("--") and value.startswith("~"):
            plain.append(f"{option}={os.path.expanduser(value)}")
        else:
            plain.append(os.path.expanduser(word) if word.startswith("~") else word)
    return plain

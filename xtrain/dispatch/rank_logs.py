"""What the ranks of one attempt printed, and which of them to blame where they failed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from xtrain.dispatch.outcome import RankLog

_NAME = re.compile(r"rank-(\d+)\.log")
_NUMBERED = re.compile(r"\d+\. ")  # of several mistakes at once
_MOST_LINES = 12


@dataclass(frozen=True)
class Failure:
    """What a rank said of its end."""

    rank: int
    words: str
    """The exception's last lines, the user's mistake, or the last line of all."""
    users: bool = False
    """Whether it is the user's mistake."""
    alone: bool = False
    """Whether no other rank says so of itself: then its node may be the reason."""


@dataclass(frozen=True)
class RankLogs:
    """The logs of ``logs/`` from where this attempt began to write."""

    folder: Path
    starts: Mapping[str, int]
    """File name -> its size then, in bytes."""

    @classmethod
    def now(cls, folder: Path) -> RankLogs:
        """To be taken before the ranks start."""
        return cls(folder, {path.name: path.stat().st_size for path in folder.glob("rank-*.log")})

    def logs(self) -> dict[int, RankLog]:
        """The log of each rank that has printed something since."""
        found = {}
        for path in self.folder.glob("rank-*.log"):
            match, start = _NAME.fullmatch(path.name), self.starts.get(path.name, 0)
            if match and path.stat().st_size > start:
                found[int(match[1])] = RankLog(path, start)
        return dict(sorted(found.items()))

    def failure(self) -> Failure | None:
        """The rank that says why it failed: not one that only lost the others."""
        said = {rank: log for rank, log in self.logs().items() if log.text().strip()}
        own = {rank: log for rank, log in said.items() if not log.lost_connection()}
        for words_of in (user_error, exception, _last_line):
            # The user's mistake may be that something cannot be reached: its words are then those of lost peers.
            for rank, log in (said if words_of is user_error else own or said).items():
                words = words_of(log.text())
                if words:
                    return Failure(rank, words, words_of is user_error, alone=len(own) == 1 < len(said))
        return None


def user_error(text: str) -> str:
    """The last block that begins with ``error:``, as the command line prints the user's mistakes; empty for none."""
    lines = text.splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith("error: ")]
    if not starts:
        return ""
    block = [lines[starts[-1]].removeprefix("error: ")]
    for line in lines[starts[-1] + 1 :]:
        if not line.startswith(" ") and not _NUMBERED.match(line):
            break
        block.append(line)
    return "\n".join(block)


def exception(text: str) -> str:
    """What follows the indented stack of the last traceback; empty for none."""
    lines = [re.sub(r"^\[rank\d+\]: ?", "", line) for line in text.splitlines()]  # PyTorch's excepthook
    heads = [number for number, line in enumerate(lines) if line.startswith("Traceback (most recent call last)")]
    if not heads:
        return ""
    after = [line for line in lines[heads[-1] + 1 :] if line and not line.startswith((" ", "["))]
    return "\n".join(after[:_MOST_LINES])


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")

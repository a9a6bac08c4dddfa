"""What the ranks said: in this attempt alone, and the rank with the cause before those it left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from xtrain.dispatch.rank_logs import RankLogs

TRACEBACK = """Traceback (most recent call last):
  File "train.py", line 12, in <module>
    sys.exit(main(sys.argv[1:]))
{error}
"""
LOST = TRACEBACK.format(error="RuntimeError: [../gloo/transport/tcp/pair.cc:525] Read error [10.0.0.2]: closed by peer")
USERS = """step 5
error: data/toy/train-en.jsonl:4: label 'class9' is none of the task's
  allowed: class0, class1
  to do:   correct it
[W1121 ProcessGroupGloo] something of native code
"""
SEVERAL = """error: 2 problems:
1. a.toml: nodez: unknown key
     allowed: nodes
2. b.toml: no such file
Exception ignored in: <function f>
"""


def write(folder: Path, **ranks: str) -> None:
    for name, text in ranks.items():
        with open(folder / f"{name.replace('rank', 'rank-')}.log", "a", encoding="utf-8") as handle:
            handle.write(text)


def test_only_what_was_written_since(tmp_path: Path) -> None:
    write(tmp_path, rank0=TRACEBACK.format(error="ValueError: long ago"), rank1="loss 2.5\n")
    logs = RankLogs.now(tmp_path)
    assert logs.logs() == {}
    assert logs.failure() is None
    write(tmp_path, rank1="the disk is gone\n", rank12="loss 2.0\n")
    assert list(logs.logs()) == [1, 12]
    assert logs.logs()[1].text() == "the disk is gone\n"
    failure = logs.failure()
    assert failure is not None
    assert (failure.rank, failure.words) == (1, "the disk is gone")


def test_other_files_are_no_ranks(tmp_path: Path) -> None:
    logs = RankLogs.now(tmp_path)
    write(tmp_path, rankx="Traceback (most recent call last):\nValueError: of nobody\n")
    assert logs.failure() is None


def test_no_folder_yet(tmp_path: Path) -> None:
    assert RankLogs.now(tmp_path / "logs").failure() is None


def test_the_users_words(tmp_path: Path) -> None:
    logs = RankLogs.now(tmp_path)
    write(tmp_path, rank0=LOST, rank1=TRACEBACK.format(error="ValueError: something"), rank2=USERS)
    failure = logs.failure()
    assert failure is not None
    assert failure.users
    assert failure.rank == 2
    assert failure.words.splitlines() == [
        "data/toy/train-en.jsonl:4: label 'class9' is none of the task's",
        "  allowed: class0, class1",
        "  to do:   correct it",
    ]


def test_several_mistakes_at_once(tmp_path: Path) -> None:
    logs = RankLogs.now(tmp_path)
    write(tmp_path, rank0=SEVERAL)
    failure = logs.failure()
    assert failure is not None
    assert failure.words.splitlines()[0] == "2 problems:"
    assert failure.words.splitlines()[-1] == "2. b.toml: no such file"


def test_a_mistake_that_sounds_like_a_lost_peer(tmp_path: Path) -> None:
    logs = RankLogs.now(tmp_path)
    write(tmp_path, rank0="error: https://hub: connection refused\n  to do:   set HF_HUB_OFFLINE=1\n", rank1="loss 2\n")
    failure = logs.failure()
    assert failure is not None
    assert (failure.rank, failure.users) == (0, True)


@pytest.mark.parametrize("guilty", [0, 1, 2])
def test_the_cause_before_those_left_behind(tmp_path: Path, guilty: int) -> None:
    logs = RankLogs.now(tmp_path)
    texts = {f"rank{rank}": LOST for rank in range(3)}
    texts[f"rank{guilty}"] = TRACEBACK.format(
        error="torch.OutOfMemoryError: CUDA out of memory\nTried to allocate 2 GiB"
    )
    write(tmp_path, **texts)
    failure = logs.failure()
    assert failure is not None
    assert failure.rank == guilty
    assert failure.words == "torch.OutOfMemoryError: CUDA out of memory\nTried to allocate 2 GiB"
    assert failure.alone
    assert not failure.users


def test_all_ranks_say_the_same(tmp_path: Path) -> None:
    logs = RankLogs.now(tmp_path)
    write(tmp_path, **{f"rank{rank}": TRACEBACK.format(error="ValueError: wrong shape") for rank in range(3)})
    failure = logs.failure()
    assert failure is not None
    assert failure.words == "ValueError: wrong shape"
    assert not failure.alone


def test_one_rank_alone_says_nothing_of_its_node(tmp_path: Path) -> None:
    """Of a job of one rank, or where the others had not begun: there is nothing to compare with."""
    logs = RankLogs.now(tmp_path)
    write(tmp_path, rank0=TRACEBACK.format(error="ValueError: wrong shape"))
    failure = logs.failure()
    assert failure is not None
    assert not failure.alone


def test_all_lost_each_other(tmp_path: Path) -> None:
    """The one that died said nothing: what is left are the words of the others, of which none is to blame."""
    logs = RankLogs.now(tmp_path)
    write(tmp_path, rank0=LOST, rank1=LOST)
    failure = logs.failure()
    assert failure is not None
    assert "closed by peer" in failure.words
    assert not failure.alone


def test_a_rank_that_was_killed_in_mid_sentence(tmp_path: Path) -> None:
    logs = RankLogs.now(tmp_path)
    write(tmp_path, rank0=LOST, rank1="step 7 loss 2.0\nstep 8 lo", rank2=LOST)
    failure = logs.failure()
    assert failure is not None
    assert (failure.rank, failure.words, failure.alone) == (1, "step 8 lo", True)

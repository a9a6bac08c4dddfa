"""Shards: what is written is what is read, whole or not at all; damage is found."""

from __future__ import annotations

import threading
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from shards_for_tests import make_shard

from xtrain.data import Shard
from xtrain.data import shards as module
from xtrain.errors import UserError


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    shard, tokens = make_shard(tmp_path / "s", [[3, 2], [5], [1, 1, 4]])
    assert len(shard) == 3
    assert shard.lengths.tolist() == [5, 5, 6]
    assert shard.num_tokens == 16
    assert shard.tokens.tolist() == [t for example in tokens for sequence in example for t in sequence]
    assert shard.tokens.dtype == np.uint32
    assert isinstance(shard.tokens, np.memmap)
    assert shard.sequence_offsets.tolist() == [0, 3, 5, 10, 11, 12, 16]
    assert shard.example_offsets.tolist() == [0, 2, 3, 6]
    assert shard.fields["label"].tolist() == [0, 1, 2]
    assert shard.ids([2, 0]) == ["id2", "id0"]
    assert shard.ids(np.array([1])) == ["id1"]
    assert shard.vocabulary().tolist() == sorted(set(shard.tokens.tolist()))
    shard.verify()


def test_equal_content_has_equal_fingerprints(tmp_path: Path) -> None:
    first, _ = make_shard(tmp_path / "a", [[3], [4]])
    second, _ = make_shard(tmp_path / "b", [[3], [4]])
    other, _ = make_shard(tmp_path / "c", [[3], [4]], seed=1)
    assert first.fingerprint == second.fingerprint == Shard.open(tmp_path / "a").fingerprint
    assert other.fingerprint != first.fingerprint


def test_a_missing_and_a_damaged_shard(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no manifest"):
        Shard.open(tmp_path / "none")
    shard, _ = make_shard(tmp_path / "s", [[3], [4]])
    tokens = tmp_path / "s" / "tokens.npy"
    data = bytearray(tokens.read_bytes())
    data[-1] ^= 1
    tokens.write_bytes(data)
    with pytest.raises(UserError, match=r"tokens\.npy: its content is not"):
        shard.verify()
    tokens.write_bytes(data[:-4])
    with pytest.raises(UserError, match=r"tokens\.npy: is missing or has another size"):
        Shard.open(tmp_path / "s")


def test_a_damaged_shard_is_replaced_and_a_whole_one_kept(tmp_path: Path) -> None:
    make_shard(tmp_path / "s", [[3], [4]])
    (tmp_path / "s" / "ids.json").unlink()
    shard, _ = make_shard(tmp_path / "s", [[3], [4]])
    shard.verify()
    again, _ = make_shard(tmp_path / "s", [[9]], seed=5)
    assert again.fingerprint == shard.fingerprint  # names are content hashes: what is there is right
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s"]


def test_nothing_is_left_of_a_shard_that_could_not_be_finished(tmp_path: Path) -> None:
    full = OSError(28, "No space left on device")
    with (
        mock.patch.object(module, "write_json", side_effect=full),
        pytest.raises(UserError, match="disk is full"),
    ):
        make_shard(tmp_path / "s", [[3]])
    assert list(tmp_path.iterdir()) == []


def test_two_writers_at_once(tmp_path: Path) -> None:
    # both publish at the same moment; each has its own working folder, as two processes have
    barrier = threading.Barrier(2)
    found: list[str] = []
    publish = module._publish

    def together(work: Path, path: Path) -> None:
        barrier.wait(timeout=30)
        publish(work, path)

    with (
        mock.patch.object(module, "_publish", together),
        mock.patch.object(module.os, "getpid", side_effect=threading.get_ident),
    ):
        threads = [threading.Thread(target=write_one, args=(tmp_path, found)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(found) == 2
    assert found[0] == found[1]
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def write_one(folder: Path, found: list[str]) -> None:
    shard, _ = make_shard(folder / "s", [[3], [4]])
    found.append(shard.fingerprint)

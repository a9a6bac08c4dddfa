"""Attempts: one number each, one at most that holds, and nothing that an older one can still bring about."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commits import killed_at, make_best, make_commit, manifest_of, write_files

from xtrain.checkpoints import CheckpointFolder
from xtrain.dispatch import attempts as words
from xtrain.dispatch.attempts import Attempts, Fence
from xtrain.errors import Fenced, UserError
from xtrain.files import Staging, take_away
from xtrain.run_directory import RunDirectory
from xtrain.tracking import Recorder, read_events, read_metrics


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    run = RunDirectory(tmp_path / "run").create()
    run.phase_file.write_text("")
    return run


def claim(run: RunDirectory, **more: Any) -> Fence:
    fence = Attempts(run).claim(**more)
    fence.check()
    return fence


def folder(fence: Fence) -> CheckpointFolder:
    run = fence.directory
    return CheckpointFolder(run.checkpoints, run.checkpoint_staging)


def content(run: RunDirectory) -> dict[str, bytes | None]:
    paths = [path for path in run.path.rglob("*") if path.relative_to(run.path).parts[0] != "job"]
    return {str(path.relative_to(run.path)): path.read_bytes() if path.is_file() else None for path in paths}


def test_attempts_are_numbered_and_on_record(run: RunDirectory) -> None:
    attempts = Attempts(run)
    assert (attempts.newest(), attempts.numbers()) == (0, [])
    assert claim(run, job="17", restart=2, nodes=("n1", "n2")).number == 1
    make_commit(folder(attempts.fence(1)), 6)
    assert claim(run).number == 2
    assert attempts.numbers() == [1, 2]
    first, second = attempts.read(1), attempts.read(2)
    assert first is not None
    assert second is not None
    assert (first.number, first.job, first.restart, first.nodes, first.from_step) == (1, "17", 2, ("n1", "n2"), 0)
    assert (second.number, second.from_step) == (2, 6)
    assert first.claim != second.claim
    attempts.end(1, words.PREEMPTED, 75, "SIGUSR2: saved at step 6", node="n1")
    end = attempts.read_end(1)
    assert end is not None
    assert (end.how, end.code, end.step, end.node) == (words.PREEMPTED, 75, 6, "n1")
    assert attempts.read_end(2) is None
    assert attempts.read(3) is None


def test_the_launcher_s_number(run: RunDirectory) -> None:
    attempts = Attempts(run)
    assert attempts.launched({}) is None
    fence = claim(run)
    assert attempts.launched({words.VARIABLE: "1"}) == fence
    for wrong in ("2", "0", "-1", "one", "²"):
        with pytest.raises(UserError, match=f"{words.VARIABLE}={wrong}: is no attempt"):
            attempts.launched({words.VARIABLE: wrong})


def test_an_older_one_is_fenced_off(run: RunDirectory) -> None:
    first = claim(run)
    first.directory.write_json(run.environment, {"of": 1})
    assert not first.lost
    second = claim(run)
    assert not first.holds()
    assert first.lost
    assert second.holds()
    with pytest.raises(Fenced, match=r"attempt 2 at this phase has begun on .*: attempt 1 ends here"):
        first.check()
    before = content(run)
    writes: list[Callable[[], object]] = [
        lambda: first.directory.mark_done({}),
        lambda: first.directory.mark_failed("why", 3),
        lambda: first.directory.write_json(run.environment, {"of": 1, "again": True}),
        lambda: first.directory.write_text(run.scores, "{}"),
    ]
    for write in writes:
        with pytest.raises(Fenced):
            write()
    assert content(run) == before
    second.directory.mark_done({})
    assert run.done


def test_what_is_under_way_cannot_be_committed(run: RunDirectory) -> None:
    """Begun and written before the fence, renamed after it; and no folder comes back that was taken away."""
    first = claim(run)
    own = folder(first)
    make_commit(own, 3)
    make_best(own, 3)
    make_commit(own, 6)
    manifest = manifest_of("step-9", write_files(own.temporary("step-9"), 9))
    (first.work / ".DONE.1.tmp").write_text("{}")
    assert [entry.path.name for entry in own.entries()] == ["best-step-3", "step-3", "step-6", "step-9.tmp"]
    claim(run)
    before = content(run)
    doings: list[Callable[[], object]] = [
        lambda: own.publish(manifest),
        lambda: own.retain(1),
        lambda: own.set_aside("step-6", "it cannot be read from here"),
        lambda: own.delete(own.path / "step-6"),
        lambda: own.clear(),
    ]
    for do in doings:
        with pytest.raises(Fenced):
            do()
        assert content(run) == before
    with pytest.raises(FileNotFoundError):
        os.rename(first.work / ".DONE.1.tmp", run.done_marker)
    with pytest.raises(FileNotFoundError):
        own.make_temporary("step-9")
    assert own.taken
    assert not own.temporary("step-9").parent.exists()
    assert content(run) == before


def test_the_handle_of_a_folder_is_of_no_use_either(run: RunDirectory) -> None:
    """As an NFS client has it: it goes on by what it has open, whatever the folder is called by now."""
    first = claim(run)
    (first.work / ".DONE.1.tmp").write_text("{}")
    handle = os.open(first.work, os.O_RDONLY | os.O_DIRECTORY)
    claim(run)
    for source in (".DONE.1.tmp", "work.dropped/.DONE.1.tmp"):
        with pytest.raises(FileNotFoundError):
            os.rename(source, run.done_marker, src_dir_fd=handle)
    with pytest.raises(FileNotFoundError):
        os.open("new", os.O_WRONLY | os.O_CREAT, dir_fd=handle)
    os.close(handle)
    assert not run.done


def test_the_same_where_checkpoints_lie_elsewhere(run: RunDirectory, tmp_path: Path) -> None:
    """Linked to another file system, where /dev/shm is one: nothing is renamed from one to the other."""
    shm = Path("/dev/shm")
    scratch = (shm if os.access(shm, os.W_OK) else tmp_path) / f"xtrain-test-{os.getpid()}"
    scratch.mkdir()
    try:
        run.checkpoints.symlink_to(scratch)
        first = claim(run)
        own = folder(first)
        make_commit(own, 3)
        own.set_aside("step-3", "why")
        make_commit(own, 3)
        manifest = manifest_of("step-6", write_files(own.temporary("step-6"), 6))
        second = claim(run)
        with pytest.raises(Fenced):
            own.publish(manifest)
        make_commit(folder(second), 6)
        assert folder(second).retain(1) == ["step-3"]
        Attempts(run).sweep()
        names = sorted(path.name for path in run.checkpoints.iterdir() if not path.name.startswith("."))
        assert names == ["step-3.broken", "step-6"]
    finally:
        shutil.rmtree(scratch)


def test_what_was_taken_away_is_listed_and_swept(run: RunDirectory) -> None:
    first = claim(run)
    write_files(folder(first).temporary("step-9"), 9)
    (first.work / ".encoder.1.tmp").mkdir()
    second = claim(run)
    seen = [(entry.path.name, entry.state) for entry in CheckpointFolder(run.checkpoints).entries()]
    assert seen == [("step-9.tmp", "unfinished")]
    assert folder(second).entries() == [], "none of the newer one's business"
    Attempts(run).sweep()
    assert CheckpointFolder(run.checkpoints).entries() == []
    assert sorted(path.name for path in Attempts(run).path(1).iterdir()) == ["attempt.json"]
    write_files(folder(second).temporary("step-3"), 3)
    (unfinished,) = CheckpointFolder(run.checkpoints).entries()
    CheckpointFolder(run.checkpoints).delete(unfinished.path)
    assert second.holds()
    assert not second.lost
    make_commit(folder(second), 3)


def test_a_damaged_one_on_its_way_aside_is_not_lost(run: RunDirectory) -> None:
    """Stopped between the two renames of setting aside: it may be whole, and not readable from that node alone."""
    first = claim(run)
    own = folder(first)
    commit = make_commit(own, 3)
    os.rename(commit, own.temporary("step-3").with_name("step-3.broken"))
    claim(run)
    Attempts(run).sweep()
    assert [(entry.path.name, entry.state) for entry in CheckpointFolder(run.checkpoints).entries()] == [
        ("step-3.broken", "set aside")
    ]


def test_nothing_of_an_older_one_gets_into_the_record(run: RunDirectory) -> None:
    first = claim(run)
    old = Recorder(first.directory)
    for step in (1, 2):
        old.metrics(step, {"loss": 1.0})
        old.batch_ids(step - 1, "toy", ["a"])
    old.event("start")
    second = claim(run)
    before = content(run)
    old.metrics(3, {"loss": 9.0})
    old.batch_ids(2, "toy", ["z"])
    old.event("save", step=3)
    assert content(run) == before
    old.close()
    old.metrics(4, {"loss": 9.0})  # opens the file again
    old.event("done")
    assert content(run) == before
    with pytest.raises(Fenced):
        old.resume_at(1)
    assert content(run) == before
    with Recorder(second.directory) as new:
        assert new.resume_at(1) == 1
        new.metrics(2, {"loss": 0.5})
        new.event("resume", step=1)
        old.event("failed")
    assert [(line["step"], line["loss"]) for line in read_metrics(run.metrics)] == [(1, 1.0), (2, 0.5)]
    assert [line["step"] for line in read_metrics(run.batches)] == [0]
    assert [line["event"] for line in read_events(run.events)] == ["start", "steps_lost", "resume"]


def test_no_file_is_made_for_an_older_one(run: RunDirectory) -> None:
    first = claim(run)
    old = Recorder(first.directory)
    claim(run)
    old.event("start")
    old.metrics(1, {})
    old.close()
    assert not run.events.exists()
    assert not run.metrics.exists()


def race(path: str, start: Any, found: Any) -> None:
    """Of a process of its own: claim when all are there, then try to commit, again and again."""
    run = RunDirectory(Path(path))
    start.wait()
    fence = Attempts(run).claim()
    start.wait()  # all have claimed
    try:
        fence.directory.write_json(run.path / f"by-{fence.number}", fence.number)
        committed = True
    except Fenced:
        committed = False
    found.put((fence.number, fence.holds(), not fence.lost, committed))


def test_of_many_at_once_one_holds(run: RunDirectory) -> None:
    context, count = multiprocessing.get_context("fork"), 6
    for _ in range(5):
        already = Attempts(run).newest()
        start, found = context.Barrier(count), context.Queue()
        racers = [context.Process(target=race, args=(str(run.path), start, found)) for _ in range(count)]
        for racer in racers:
            racer.start()
        results = sorted(found.get(timeout=60) for _ in racers)
        for racer in racers:
            racer.join()
        numbers = [number for number, *_ in results]
        assert numbers == list(range(already + 1, already + count + 1))
        assert [number for number, *holds in results if any(holds)] == numbers[-1:]
        assert results[-1] == (numbers[-1], True, True, True)
        for number in numbers[:-1]:
            (run.path / f"by-{number}").unlink(missing_ok=True)
            assert sorted(path.name for path in Attempts(run).path(number).iterdir()) == ["attempt.json"]


def test_killed_at_every_instant_of_a_claim(run: RunDirectory, tmp_path: Path) -> None:
    """The next one fences off whatever is there."""
    first = claim(run)
    make_commit(folder(first), 3)
    write_files(folder(first).temporary("step-6"), 6)
    Recorder(first.directory).event("start")
    template, call, done = run.path.rename(tmp_path / "template"), 0, False
    while not done:
        call += 1
        shutil.copytree(template, run.path)
        done = not killed_at(call, lambda: Attempts(run).claim())
        numbers = Attempts(run).numbers()
        newest = claim(run)
        assert newest.number == numbers[-1] + 1
        for number in numbers:
            assert Attempts(run).fence(number).lost
            assert Attempts(run).read(number) is not None
        make_commit(folder(newest), 6)
        assert [commit.step for commit in CheckpointFolder(run.checkpoints).commits()] == [3, 6]
        assert [line["event"] for line in read_events(run.events)] == ["start"]
        newest.directory.mark_done({})
        shutil.rmtree(run.path)
    assert call > 20


def test_a_folder_is_taken_away_again_after_that_was_cut_off(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "a").write_text("old")
    take_away(folder)
    take_away(folder)
    assert Staging(folder).taken
    folder.mkdir()
    (folder / "a").write_text("new")
    take_away(folder)
    assert sorted(path.read_text() for path in (tmp_path / "work.dropped").iterdir()) == ["new", "old"]
    assert sorted(os.listdir(tmp_path)) == ["work.dropped"]


def test_somebody_s_deletion_is_no_newer_attempt(run: RunDirectory) -> None:
    fence = claim(run)
    shutil.rmtree(run.checkpoints)
    assert fence.holds()
    assert fence.lost


def test_a_phase_without_checkpoints_has_no_folder_for_them(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "prepare").create()
    first = claim(run)
    assert first.claim == ""
    assert not run.checkpoints.exists()
    claim(run)
    with pytest.raises(Fenced):
        first.directory.mark_done({})


def test_a_folder_that_cannot_be_written_is_the_user_s_to_mend(run: RunDirectory) -> None:
    (run.path / "job").write_text("not a folder")
    with pytest.raises(UserError, match="cannot be written"):
        Attempts(run).claim()


def test_attempt_json_is_plain(run: RunDirectory) -> None:
    fence = claim(run, job="17")
    value = json.loads((Attempts(run).path(1) / "attempt.json").read_bytes())
    assert (value["number"], value["job"], value["claim"]) == (1, "17", fence.claim)

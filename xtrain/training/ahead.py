"""A process of its own that computes f(n) ahead of the one that asks for it, and that signals cannot kill."""

from __future__ import annotations

import contextlib
import errno
import faulthandler
import io
import mmap
import os
import pickle
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xtrain.dispatch.signals import blocked, ignore_in_worker
from xtrain.errors import UserError

# Why this is not torch's DataLoader:
#   - What a worker sends there goes through a pipe whose writing end the reader holds open too. A worker killed with
#     half a message in the pipe (and a full pipe is where it waits) leaves the reader waiting for the other half for
#     ever. DataLoader gets out of it by a handler of SIGCHLD that raises in the main thread wherever that is at the
#     moment; raised in the middle of a collective, on one rank alone, it ends the run.
#   - Each tensor is a file descriptor and a connection of its own: a step of 64 micro-batches has several hundred.
# Here a reply is one packet with one descriptor, of memory that holds all arrays of a step: a packet is whole or not
# there, the end of the process is the end of the socket, seen at once, and nothing is raised but in answer().
#
# Why a new Python and not fork: a forked worker would keep a copy of every page of weights and optimizer state that
# the rank has changed since, would inherit locks that Gloo's, W&B's or the writer's threads hold, and the GPU's
# context. A new Python costs two seconds, once.

FUNCTION, VALUE, ERROR = b"F", b"V", b"E"
ALWAYS_IGNORED = ("SIGTERM", "SIGUSR1", "SIGUSR2")
WATCH_SECONDS = 2.0  # a worker without work looks this often whether its parent is still there
END_SECONDS = 10.0  # for a process whose socket is closed to be gone as well
ALIGNED = 64  # bytes, as torch's own memory

PROGRAM = "import sys; from xtrain.training.ahead import serve; serve(*map(int, sys.argv[1:3]), sys.argv[3:])"


class WorkerDied(Exception):
    """The worker was gone before it answered; ``end`` is the signal's name, or its exit status."""

    def __init__(self, pid: int, end: str) -> None:
        self.pid, self.end = pid, end
        super().__init__(f"the data worker {pid} ended before it answered ({end})")


class AheadProcess:
    """Computes ``function(n)`` for each n it is asked for, in this order, in a process of its own.

    ``function`` is pickled. Signals in ``signals``, SIGTERM, SIGUSR1, SIGUSR2 and Ctrl-C do nothing to the process;
    it ends when this object is closed or this process ends in whatever way.
    """

    def __init__(self, function: Callable[[int], Any], signals: Sequence[str] = ()) -> None:
        names = sorted({*signals, *ALWAYS_IGNORED})
        # of packets: each arrives as a whole or not at all
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-P", "-c", PROGRAM, str(theirs.fileno()), str(os.getpid()), *names]
        with theirs, blocked(names):
            self._process = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, env=_environment()
            )
        self._send(FUNCTION, packed(function))

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def ask(self, number: int) -> None:
        """Have ``function(number)`` computed; returns at once."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it is dead: answer() will say so
            self._socket.send(number.to_bytes(8, "little"))

    def answer(self) -> Any:
        """Wait for the answer to the first question that has none yet.

        Raises :class:`WorkerDied`, or what ``function`` raised, with the worker's traceback as a note.
        """
        try:
            kind, memory = self._received()
        except ConnectionResetError:  # it died with questions unread: told once, and before what it had answered
            kind, memory = self._received()
        if not kind:
            raise WorkerDied(self.pid, self._end())
        if not memory:  # the kernel drops a descriptor for which there is no room
            raise OSError(errno.EMFILE, "too many open files: raise the limit (ulimit -n)")
        value = unpacked(memory[0])
        if kind == ERROR:
            error, text = value
            error.add_note(f"in the data worker {self.pid}:\n{text.rstrip()}")
            raise error
        return value

    def _received(self) -> tuple[bytes, list[int]]:
        """The next packet with its descriptors; an empty one where there will be none."""
        kind, memory, _, _ = socket.recv_fds(self._socket, 1, 1, socket.MSG_CMSG_CLOEXEC)
        return kind, memory

    def close(self) -> None:
        """End the process, whatever it is doing: there is nothing that it could leave half done."""
        self._socket.close()
        self._process.kill()
        self._process.wait()

    def _send(self, kind: bytes, memory: int) -> None:
        try:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                socket.send_fds(self._socket, [kind], [memory])
        finally:
            os.close(memory)

    def _end(self) -> str:
        """How the process ended, in a word."""
        try:
            status = self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.close()
            return "its connection was closed"
        self._socket.close()
        return signal.Signals(-status).name if status < 0 else f"exit status {status}"


def _environment() -> dict[str, str]:
    """The worker's: it finds modules where this process does, has one thread, and sees no GPU."""
    path = os.pathsep.join(dict.fromkeys(folder or os.getcwd() for folder in sys.path))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def serve(descriptor: int, parent: int, signals: Sequence[str]) -> None:
    """The worker's side of :class:`AheadProcess`: answer until the parent has closed the socket or is gone.

    Until this is reached signals are blocked, as they were in the parent while it started the process.
    """
    ignore_in_worker(signals)
    faulthandler.enable()  # a worker that the kernel ends says where: a file that was cut short, for example
    torch.set_num_threads(1)
    function: Callable[[int], Any] = abs  # never used: the real one comes first
    with socket.socket(fileno=descriptor) as line:
        # Another process may hold the parent's end open: then its death does not end the line.
        line.settimeout(WATCH_SECONDS)
        while os.getppid() == parent:
            try:
                message, memory, _, _ = socket.recv_fds(line, 8, 1, socket.MSG_CMSG_CLOEXEC)
            except TimeoutError:
                continue
            except ConnectionResetError:
                return
            if not message:
                return
            if message == FUNCTION:
                function = _loaded(memory[0])
                continue
            kind, reply = _outcome(function, int.from_bytes(message, "little"))
            try:
                socket.send_fds(line, [kind], [reply])
            except (BrokenPipeError, ConnectionResetError):
                return
            finally:
                os.close(reply)


def _loaded(memory: int) -> Callable[[int], Any]:
    """The function that was sent; if it cannot be unpickled here, one that says so when it is called."""
    try:
        function: Callable[[int], Any] = unpacked(memory)
    except Exception as error:
        failure = error

        def function(number: int) -> Any:
            raise failure

    return function


def _outcome(function: Callable[[int], Any], number: int) -> tuple[bytes, int]:
    """The value, or what was raised and where, in memory to be passed on."""
    try:
        return VALUE, packed(function(number))
    except Exception as error:
        text = "".join(traceback.format_exception(error))
        try:
            memory = packed((error, text))
            unpacked(os.dup(memory))
        except Exception:  # some errors cannot be pickled, or not be made again from what was pickled
            memory = packed((RuntimeError(f"{type(error).__name__}: {error}"), text))
        return ERROR, memory


class _Pickler(pickle.Pickler):
    """Tensors as NumPy arrays, whose content it leaves to ``buffer_callback``."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return torch.from_numpy, (value.numpy(),)
        if type(value) is UserError:
            return UserError, value.problems
        return NotImplemented


def packed(value: Any) -> int:
    """A file descriptor of memory without a name that holds ``value``: tensors are on the CPU.

    Freed when the last process that has it open or mapped is gone: nothing is left behind by a process that is
    killed, and no limit of ``/dev/shm`` applies.
    """
    stream = io.BytesIO()
    buffers: list[pickle.PickleBuffer] = []
    _Pickler(stream, protocol=5, buffer_callback=buffers.append).dump(value)
    parts = [stream.getbuffer(), *(buffer.raw() for buffer in buffers)]
    head = np.array([len(parts), *(part.nbytes for part in parts)], dtype=np.int64)
    offsets = _offsets(head)
    descriptor = os.memfd_create("xtrain-ahead")
    try:
        os.ftruncate(descriptor, offsets[-1])
        with mmap.mmap(descriptor, offsets[-1]) as memory:
            memory[: head.nbytes] = head.tobytes()
            for offset, part in zip(offsets, parts, strict=False):
                memory[offset : offset + part.nbytes] = part
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def unpacked(descriptor: int) -> Any:
    """What :func:`packed` put there; arrays and tensors lie in the mapped memory. Closes the descriptor."""
    try:
        memory = memoryview(mmap.mmap(descriptor, 0))
    finally:
        os.close(descriptor)
    count = int.from_bytes(memory[:8], "little")
    head = np.frombuffer(memory, np.int64, count + 1)
    offsets = _offsets(head)
    parts = [memory[offset : offset + size] for offset, size in zip(offsets, head[1:].tolist(), strict=False)]
    return pickle.loads(parts[0], buffers=parts[1:])


def _offsets(head: np.ndarray) -> list[int]:
    """Where each part begins, and where the last one ends; ``head`` is the number of parts and their sizes."""
    sizes = np.concatenate([[head.nbytes], head[1:]])
    padded = -(-sizes // ALIGNED) * ALIGNED
    offsets: list[int] = np.cumsum(padded).tolist()
    return offsets

"""The process that `tests/prepared.py` forks from: it imports, and then forks for each script that it is told of.

``python prepared_server.py SOCKET MODULES``. A request is JSON: ``wait`` with the flags of `os.waitpid`, or a command
to start, which comes with its three streams. The answer is the process, and after ``wait`` its status as well.
"""

import atexit
import builtins
import gc
import io
import json
import multiprocessing.process
import os
import runpy
import signal
import socket
import sys
import threading
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn


def serve(asked: socket.socket) -> Callable[[], object]:
    """Answer requests; in a fork, return the script to run."""
    while True:
        message, streams, _, _ = socket.recv_fds(asked, 2**20, 3)
        if not message:
            os._exit(0)
        task = json.loads(message)
        answer: object
        if "wait" in task:
            answer = os.waitpid(task["wait"], task["flags"])
        else:
            answer = os.fork()
            if answer == 0:
                asked.close()
                return _become(task, streams)
            for stream in streams:
                os.close(stream)
        asked.send(json.dumps(answer).encode())


def _become(task: dict[str, Any], streams: Sequence[int]) -> Callable[[], object]:
    if task["session"]:
        os.setsid()
    _take(streams)
    folder = task["folder"]
    os.chdir(folder)
    multiprocessing.process.ORIGINAL_DIR = folder  # type: ignore[attr-defined]
    os.environ.clear()
    os.environ.update(task["environment"])
    main = types.ModuleType("__main__")
    main.__dict__["__builtins__"] = builtins
    sys.modules["__main__"] = main
    first, *rest = task["command"]
    if first == "-m":
        sys.argv[:], sys.path[0] = rest, folder
        return lambda: runpy._run_module_as_main(rest[0])  # type: ignore[attr-defined]
    if first == "-c":
        code, name, sys.path[0] = rest.pop(0).encode(), "<string>", ""
    else:
        path = Path(first).absolute()
        name = main.__file__ = str(path)
        code, sys.path[0] = path.read_bytes(), str(path.resolve().parent)
    sys.argv[:] = [first, *rest]
    return lambda: exec(compile(code, name, "exec", dont_inherit=True), main.__dict__)


def _take(streams: Sequence[int]) -> None:
    """Make these the standard streams. New objects: the old ones know what could be done with the old streams."""
    for number, (stream, name) in enumerate(zip(streams, ("stdin", "stdout", "stderr"), strict=True)):
        os.dup2(stream, number)
        os.close(stream)
        old = getattr(sys, name)
        raw = io.FileIO(number, "w" if number else "r", closefd=False)
        raw.name = f"<{name}>"
        buffer: Any = raw  # python -u writes at once
        if not number:
            buffer = io.BufferedReader(raw)
        elif not old.write_through:
            buffer = io.BufferedWriter(raw)
        as_before = {name: getattr(old, name) for name in ("encoding", "errors", "line_buffering", "write_through")}
        new = io.TextIOWrapper(buffer, **as_before)
        setattr(sys, name, new)
        setattr(sys, f"__{name}__", new)


def run(script: Callable[[], object]) -> NoReturn:
    """Run the script and end the process as Python would, but for taking every module apart: that takes a second.

    Threads are waited for, functions of `atexit` are called and streams are flushed.
    """
    code, interrupted = 0, False
    try:
        script()
    except SystemExit as end:
        code = _exit_code(end.code)
    except BaseException as error:
        traceback = error.__traceback__
        while traceback is not None and traceback.tb_frame.f_code.co_filename == __file__:
            traceback = traceback.tb_next  # it begins in the script
        sys.last_type, sys.last_value, sys.last_traceback = type(error), error.with_traceback(traceback), traceback
        vars(sys)["last_exc"] = error  # of Python 3.12 and newer
        sys.excepthook(type(error), error, traceback)
        code, interrupted = 1, isinstance(error, KeyboardInterrupt)
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    if interrupted:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(code & 0xFF)


def _exit_code(given: object) -> int:
    if given is None or isinstance(given, int):
        return given or 0
    print(given, file=sys.stderr)
    return 1


if __name__ == "__main__":
    del sys.path[0]
    for module in sys.argv[2:]:
        __import__(module)
    sys.path.insert(0, "")
    gc.collect()
    gc.freeze()  # collections in the forks pass over what is imported: its memory stays shared
    run(serve(socket.socket(fileno=int(sys.argv[1]))))

"""``kdtune WORDS`` in a process that is forked from one which has imported torch, Ray and kdtune: five seconds less.

The command itself is real, and so are its Ray, its workers and its exit status. It differs from a new process in what
Python does when it starts and ends; ``launching.start`` and ``launching.kdtune`` with variables are new processes.
"""

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

PRELOADED = ["tests.support.preloaded"]
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(PRELOADED)


def run(words: list[str], environment: dict[str, str], seconds: float) -> subprocess.CompletedProcess[str]:
    """The command to its end, with what it wrote.

    Raises:
        subprocess.TimeoutExpired: it did not end in time, and was killed.
    """
    with TemporaryDirectory(prefix="kdtune-test-") as folder:
        output, errors = Path(folder, "stdout"), Path(folder, "stderr")
        process = _context.Process(target=_command, args=(words, environment, os.getcwd(), output, errors))
        process.start()
        process.join(seconds)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(words, seconds, output.read_text(), errors.read_text())
        return subprocess.CompletedProcess(words, process.exitcode, output.read_text(), errors.read_text())


def _command(words: list[str], environment: dict[str, str], folder: str, output: Path, errors: Path) -> None:
    from kdtune.cli import main
    from kdtune.cluster.environment import TUNE_ENVIRONMENT

    os.chdir(folder)
    os.environ.clear()
    os.environ.update(TUNE_ENVIRONMENT | environment)
    for number, path, flags in (
        (0, "/dev/null", os.O_RDONLY),
        (1, output, os.O_WRONLY | os.O_CREAT),
        (2, errors, os.O_WRONLY | os.O_CREAT),
    ):
        opened = os.open(path, flags)
        os.dup2(opened, number)
        os.close(opened)
    sys.argv = ["kdtune", *words]
    main(words, prog_name="kdtune")

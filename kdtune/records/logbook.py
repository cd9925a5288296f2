"""What a launch leaves on storage for whoever watches it from elsewhere: who it is, what it says; and a request to end.

``launch.json``: who runs the study, where, since when. ``launch.log``: the lines of its reporter, each with its time.
``stop.json``: somebody asks it to end in order. None is needed to continue a study, and no storage failure in here
ends a launch.
"""

import contextlib
import json
import platform
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from rich.console import Console

from kdtune.base import RunError, UserError
from kdtune.filesystem.folder import Folder
from kdtune.filesystem.lock import Held
from kdtune.records.launched import Launched, asked, now, write_launch
from kdtune.records.progress import Lines, Reporter, Several
from kdtune.study.spec import StudySpec
from kdtune.text import without_credentials

LOG, STOP = "launch.log", "stop.json"
LOG_EVERY = 5.0  # seconds between writings of the log: an object store cannot append
LOG_LINES = 5_000  # that are kept
STOP_EVERY = 2.0  # seconds between looks for a request to end
PUBLISH_EVERY = 5.0  # seconds between updates of the job's metadata

Publish = Callable[[Mapping[str, str]], None]


def read_log(folder: Folder) -> list[str]:
    """The kept lines of the launches of a study, oldest first."""
    return (folder.read(LOG) or b"").decode(errors="replace").splitlines()


# the launch's side


class _Kept:
    """A text file for a console: whole lines, each with the time at which it was complete."""

    def __init__(self, before: Sequence[str]) -> None:
        self._lock = threading.Lock()
        self._lines = deque(before, LOG_LINES)
        self._rest = ""
        self._changed = False

    def write(self, text: str) -> int:
        with self._lock:
            *whole, self._rest = (self._rest + text).split("\n")
            self._lines.extend(f"{now()} {line}" for line in whole)
            self._changed = self._changed or bool(whole)
        return len(text)

    def flush(self) -> None:
        """Nothing: ``taken`` asks for what there is."""

    def isatty(self) -> bool:
        return False

    def taken(self) -> bytes | None:
        """The whole log, if it has changed since it was last taken."""
        with self._lock:
            changed, self._changed = self._changed, False
            return "".join(f"{line}\n" for line in self._lines).encode() if changed else None

    def untaken(self) -> None:
        """What was taken could not be written."""
        with self._lock:
            self._changed = True


class Logbook(Lines):
    """The reporter that keeps ``launch.log`` and ``launch.json``."""

    def __init__(self, folder: Folder, launched: Launched, held: Held) -> None:
        before: list[str] = []
        with contextlib.suppress(OSError):
            before = read_log(folder)
        self._kept = _Kept(before)
        super().__init__(Console(file=self._kept, force_terminal=False, highlight=False, soft_wrap=True))  # type: ignore[arg-type]
        self._folder, self._launched, self._held = folder, launched, held

    def ray_started(self, study: StudySpec, dashboard: str | None, gpu: bool) -> None:
        """The dashboard's address is known now."""
        super().ray_started(study, dashboard, gpu)
        if dashboard:
            self.record(dashboard=f"http://{dashboard}")

    def record(self, **changes: str) -> None:
        """Changes ``launch.json``, unless another launch has taken the study over: it is that one's then."""
        self._launched = replace(self._launched, **changes)  # type: ignore[arg-type]
        if not self._held.lost.is_set():
            with contextlib.suppress(OSError):
                write_launch(self._folder, self._launched)

    def flush(self) -> None:
        """Puts new lines on storage."""
        content = None if self._held.lost.is_set() else self._kept.taken()
        if content is not None:
            try:
                self._folder.write(LOG, content)
            except OSError:
                self._kept.untaken()  # with the next lines


@contextlib.contextmanager
def logbook(
    folder: Folder, launched: Launched, held: Held, shown: Reporter, publish: Publish | None = None
) -> Iterator[Reporter]:
    """Keeps the log of a launch for as long as the block runs; gives the reporter that tells both it and ``shown``.

    ``publish`` is told stage and progress from time to time.
    """
    launched = asked(folder, launched)
    _clear_stop(folder, launched.submission_id)
    book = Logbook(folder, launched, held)
    book.record()
    book.note(f"launch by process {launched.pid} on {launched.host}, kdtune {launched.kdtune_version}")
    outcome = "finished"
    try:
        with _every(LOG_EVERY, book.flush), _every(PUBLISH_EVERY, _publishing(book, publish)):
            yield Several(shown, book)
    except BaseException as error:
        outcome = str(error) if isinstance(error, UserError | RunError) else f"{type(error).__name__}: {error}"
        raise
    finally:
        book.note(f"ended: {outcome}")
        book.flush()
        if publish is not None:
            publish({"progress": without_credentials(outcome)})
        book.record(ended_at=now(), outcome=outcome)
        if not held.lost.is_set():
            with contextlib.suppress(OSError):
                folder.remove(STOP)


def _publishing(book: Logbook, publish: Publish | None) -> Callable[[], None]:
    told: dict[str, str] = {}

    def action() -> None:
        facts = {"stage": book.stage, "progress": book.progress()}
        if publish is not None and book.stage and facts != told:
            publish(facts)
            told.update(facts)

    return action


@contextlib.contextmanager
def _every(seconds: float, action: Callable[[], None]) -> Iterator[None]:
    """Does something again and again beside the block. It ends with the block, or soon after where it hangs."""
    done = threading.Event()

    def repeat() -> None:
        while not done.wait(seconds):
            action()

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(timeout=10)


# requests to end


def request_stop(folder: Folder, submission_id: str | None) -> None:
    """Asks the launch that runs to end in order; ``submission_id``: the job, which may not have begun yet."""
    request = {"requested_at": now(), "host": platform.node(), "submission_id": submission_id}
    folder.write(STOP, json.dumps(request).encode())


def withdraw_stop(folder: Folder) -> None:
    """Takes the request back."""
    folder.remove(STOP)


def _clear_stop(folder: Folder, submission_id: str | None) -> None:
    """Removes a request that was meant for an earlier launch."""
    with contextlib.suppress(OSError):
        content = folder.read(STOP)
        if content is not None and (submission_id is None or json.loads(content)["submission_id"] != submission_id):
            folder.remove(STOP)


@contextlib.contextmanager
def stop_requests(folder: Folder, ask: Callable[[str], None], every: float = STOP_EVERY) -> Iterator[None]:
    """Looks for a request to end, beside the block; ``ask`` is told why."""

    def look() -> None:
        with contextlib.suppress(OSError):  # storage is away for a moment
            if folder.exists(STOP):
                ask("stopped on request")

    with _every(every, look):
        yield

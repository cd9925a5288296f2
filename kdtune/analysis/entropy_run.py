"""``kdtune teacher entropy``: finds the study's teacher, has it measured here or on a cluster, writes the result."""

import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa

from kdtune.analysis import entropy
from kdtune.analysis.entropy_counts import Asked, count
from kdtune.base import UserError
from kdtune.cluster.auth import use_token
from kdtune.filesystem.folder import Folder, absolute, read_file
from kdtune.loading.pack import data_folder
from kdtune.records.rows import best_config
from kdtune.records.storage import Storage
from kdtune.records.stored_study import storage_root
from kdtune.search.options import Options, adjusted
from kdtune.study.file import load_study
from kdtune.study.spec import StudySpec
from kdtune.study.trial_config import STAGE_REFERENCE, TrialConfig
from kdtune.training.absent_weights import absent
from kdtune.training.site import Site

TOLD_EVERY = 30.0  # seconds

Say = Callable[[str], None]


@dataclass(frozen=True)
class Teacher:
    """A study's teacher: a configuration that uses it, the file of its weights, and what they are known by."""

    config: TrialConfig
    source: str
    identity: str  # trial:ID or sha256:HEX


def measure(
    study: str,
    asked: Asked,
    options: Options,
    *,
    storage: str | None = None,
    data_root: str | None = None,
    address: str | None = None,
    output: str | None = None,
    say: Say = lambda text: None,
) -> pa.Table:
    """The entropy of a study's teacher as a table, which is also written, with its figure.

    Args:
        study: its name or file.
        asked: what is measured.
        options: the teacher's file, and values of the study.
        storage: where the study's results are, for a teacher that one of its stages has trained.
        data_root: parent of the datasets' folders.
        address: of a Ray cluster that shares the images; none: ``RAY_ADDRESS``, or else this process does it all.
        output: a folder, or a path whose last part the files' names begin with; none: the study's folder.
        say: is told how far it is, and what was written where.

    Raises:
        UserError: the study has no teacher, or none yet; data or weights are missing; nothing can be written there.
        RunError: the cluster was lost.
    """
    spec = load_study(study)
    if not any(config.uses_teacher for config in spec.templates().values()):
        raise UserError(f"study '{spec.name}' has no teacher: none of its stages uses one")
    spec = adjusted(spec, options)
    where = Storage(storage_root(storage), spec.name)
    teacher = teacher_of(spec, where)
    if asked.crop is None and not asked.upsampled and teacher.config.recipe.eval_window is not None:
        raise UserError(
            "--whole --no-upsample: recipe.eval_window joins enlarged tiles, so there are no other logits of a whole "
            "image; leave one of the two away"
        )
    folder, name = _place(output, where)
    address = address or os.environ.get("RAY_ADDRESS")
    site = Site(data_folder(data_root), pack="never", own_root=bool(address) and not data_root)  # each is read once
    progress, began = _told(say), time.monotonic()
    if address:
        use_token()
        from kdtune.analysis.entropy_cluster import count_on  # Ray is imported now, when it knows of the token

        counts = count_on(address, spec, teacher.config, teacher.source, asked, site, progress)
    else:
        counts = count(teacher.config, teacher.source, asked, site, progress=progress)
    seconds = time.monotonic() - began
    say(f"{counts.images} images, {counts.pixels:,} pixels in {seconds:.1f} s, reading and the teacher's time included")
    table = entropy.table(counts, asked, teacher.config, spec.name, teacher.identity)
    for note in entropy.notes(table, asked):
        say(f"note: {note}")
    try:
        for each in entropy.write(table, folder, name):
            say(f"written: {(folder / each).uri}")
    except OSError as error:
        raise _unwritable(folder, error) from error
    return table


def teacher_of(spec: StudySpec, where: Storage) -> Teacher:
    """The teacher of the first stage that uses one: from its file, or as the best trial of its stage left it.

    Raises:
        UserError: no such file, or the stage has not been finished in this storage.
    """
    config = next(config for config in spec.templates().values() if config.uses_teacher)
    assert config.teacher is not None
    reference = config.teacher.checkpoint
    if not reference.startswith(STAGE_REFERENCE):
        content = read_file(reference)
        if content is None:
            raise UserError(absent("teacher.checkpoint", reference))
        return Teacher(config, absolute(reference), f"sha256:{hashlib.sha256(content).hexdigest()}")
    stage = spec.stage(reference.removeprefix(STAGE_REFERENCE))
    best = best_config(_rows(where, stage.name), len(stage.seeds))
    if not best:
        raise UserError(
            f"{where.folder.uri}: stage '{stage.name}', which makes the teacher, has no finished trial there: launch "
            "it first, or name the storage with --storage, or give the weights with --teacher FILE"
        )
    trial_id = best[0]["trial_id"]
    source = where.checkpoint_uri(trial_id)
    if read_file(source) is None:
        raise UserError(f"{source}: the weights of the teacher are not there: `kdtune pull --checkpoints` brings them")
    return Teacher(config, source, f"trial:{trial_id}")


def _rows(where: Storage, stage: str) -> list[dict[str, object]]:
    """The stage's trials by the table, which a storage that was pulled has, too."""
    if not where.folder.exists("trials.parquet"):
        return []
    return [row for row in where.table("trials").to_pylist() if row["stage"] == stage]


def _place(output: str | None, where: Storage) -> tuple[Folder, str]:
    """The folder, and what the names of the files begin with; looks whether they can be written.

    Raises:
        UserError: they cannot.
    """
    if output is None:
        where.check_writable()
        return where.folder, entropy.NAME
    folder, name = Folder(absolute(output)), entropy.NAME
    local = folder.local
    if not output.endswith("/") and not (local is not None and local.is_dir()):
        folder, name = folder.split()
    try:
        folder.write(".writable", b"")
        folder.remove(".writable")
    except OSError as error:
        raise _unwritable(folder, error) from error
    return folder, name


def _unwritable(folder: Folder, error: OSError) -> UserError:
    if isinstance(error, UserError):
        return error
    return UserError(f"{folder.uri}: cannot be written: {error.strerror or error}; name another place with -o")


def _told(say: Say) -> Callable[[int, int], None]:
    """Progress, told at intervals."""
    told_at = time.monotonic()

    def progress(done: int, of: int) -> None:
        nonlocal told_at
        if time.monotonic() - told_at >= TOLD_EVERY:
            told_at = time.monotonic()
            say(f"{done} of {of} images")

    return progress

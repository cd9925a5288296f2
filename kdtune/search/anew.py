"""Trials that have ended and run anew: those that a user names, and those whose weights are damaged."""

import fnmatch
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime

from kdtune.base import UserError
from kdtune.filesystem.folder import Folder
from kdtune.records.journal_files import Record
from kdtune.records.launched import read_launch
from kdtune.records.lengths import keep_length
from kdtune.records.progress import Reporter
from kdtune.records.rows import FINISHED, Row
from kdtune.records.storage import Storage
from kdtune.records.trial_record import Planned, new_record
from kdtune.text import did_you_mean
from kdtune.training.numerics import NUMERICS


def named(patterns: Sequence[str], trial_ids: Collection[str]) -> set[str]:
    """The trials of a study that ``--again`` names, by id or by a pattern as a shell has them.

    Raises:
        UserError: there is none for one of the patterns.
    """
    found: set[str] = set()
    for pattern in patterns:
        matching = fnmatch.filter(trial_ids, pattern)
        if not matching:
            raise UserError(
                f"--again {pattern}: no trial of these stages has run under that id"
                f"{did_you_mean(pattern, trial_ids)}; the table `trials` has them all"
            )
        found.update(matching)
    return found


def asked_anew(patterns: Sequence[str], rows: Mapping[str, Row], folder: Folder, reporter: Reporter) -> set[str]:
    """The same of these rows, but for those that have begun since this command was first given, if it is given again.

    A launch that was cut off says to continue with its own command: what it has run anew stands, or goes on. The first
    time nothing is compared, for the clocks of nodes may differ from this machine's.

    Raises:
        UserError: see ``named``.
    """
    found = named(patterns, rows.keys())
    launched = read_launch(folder) if found else None
    if launched is None or launched.repeats is None:
        return found
    since = datetime.fromisoformat(launched.repeats).timestamp()
    begun = {id_ for id_ in found if (rows[id_]["started_at"] or 0.0) >= since}
    if begun:
        reporter.note(f"{len(begun)} of the trials that --again names have begun anew before, and stand or go on")
    return found - begun


def restart(planned: Planned, before: Record, storage: Storage) -> Record:
    """Claims a trial that has ended: its next worker begins from the start, and remembers what it came to before."""
    record = new_record(planned) | {"attempt": before["attempt"], "replaces": before["row"].get("weights_sha256")}
    keep_length(record, before)
    storage.claim(record)
    return record


def told(record: Record) -> str | None:
    """What a user must know of a trial that has run again, if it came to something else."""
    before, now = record.get("replaces"), record["row"].get("weights_sha256")
    if before is None or now is None or before == now:
        return None
    return (
        f"{record['row']['trial_id']}: run again, it came to other weights than before; what other trials made of the "
        "earlier ones stands as it is: name those with --again, too"
    )


def damaged(trial_id: str, row: Row, storage: Storage) -> str | None:
    """What is wrong with the weights that a trial left, or none if they are what it wrote."""
    from kdtune.training.weights import read_noted  # torch is imported for a stage that loads weights, not before

    uri = storage.checkpoint_uri(trial_id)
    try:
        noted = read_noted(uri)
    except UserError as error:
        return str(error)
    if row.get("weights_sha256") not in (None, noted):
        return f"{uri}: not the weights that the trial wrote"
    return None


def refuse_mixing(rows: Iterable[Row], study: str) -> None:
    """Trials of two numerics in one study compare unlike things.

    Raises:
        UserError: there would be.
    """
    ended = [row for row in rows if row["status"] in FINISHED]
    others = [row for row in ended if row.get("numerics") != NUMERICS]
    if others:
        versions = ", ".join(sorted({str(row["kdtune_version"]) for row in others}))
        raise UserError(
            f"{len(others)} of the {len(ended)} trials of study '{study}' that have ended were computed by a kdtune "
            f"({versions}) whose numbers differ from this one's: run them again (--again '*'), launch into another "
            "--storage, or go on with both (--mixed), which the column `numerics` marks"
        )

"""``load_study``, ``launch`` and ``results``: what the command line does, as functions."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from kdtune.answers import tables
from kdtune.answers.query import gathered, study_name
from kdtune.cluster.auth import require_token, use_token
from kdtune.filesystem.lock import locked
from kdtune.loading.pack import data_folder
from kdtune.records.launched import here
from kdtune.records.storage import Storage
from kdtune.records.stored_study import storage_root
from kdtune.search.options import Options, adjusted
from kdtune.study.file import load_study as load_study
from kdtune.study.settings import kept_searches
from kdtune.study.spec import StudySpec
from kdtune.training.site import Site

if TYPE_CHECKING:
    from kdtune.records.logbook import Publish
    from kdtune.records.progress import Reporter
    from kdtune.training.trainer import Trainer


def launch(
    study: StudySpec,
    *,
    storage: str | None = None,
    data_root: str | None = None,
    address: str | None = None,
    options: Options | None = None,
    given: str | None = None,
    reporter: "Reporter | None" = None,
    command: str | None = None,
    trainer: "Trainer | None" = None,
) -> Storage:
    """Runs the study's stages in order; launched again, it goes on where it ended. Returns where the results are.

    ``given``: the study's name or file, for the commands that are told. ``command``: what a user types to launch it
    again, for those who watch it from elsewhere. ``trainer``: runs a configuration in place of
    ``kdtune.training.trial.run``; workers must be able to import it.

    Raises:
        UserError: the study, its data, a checkpoint or the storage needs mending; nothing finished is lost.
        RunError: interrupted, or no trial of a stage came to a result; says how to continue.
    """
    if address:
        use_token()
    else:
        require_token()
    from kdtune.records.logbook import logbook
    from kdtune.records.progress import Reporter
    from kdtune.search.kept_teacher import teacher_store
    from kdtune.search.launch import Launch  # Ray is imported now, not for --help
    from kdtune.training.trainer import train_and_evaluate

    options = options or Options()
    before, study = study, adjusted(study, options)
    kept = [*kept_searches(before, options.changes), *(_networks(before, study) if options.teacher else ())]
    store = teacher_store(options.teacher_store, study)
    me = here(options.stages, address, command, again=bool(options.again))
    where = Storage(storage_root(storage), study.name, None if me.submission_id else given)  # a job's file is Ray's
    where.check_writable()
    with (
        locked(where.folder) as held,
        logbook(where.folder, me, held, reporter or Reporter(), _publisher(me.submission_id)) as told,
    ):
        for line in kept:
            told.note(line)
        site = Site(data_folder(data_root), pack=options.pack, own_root=bool(address) and not data_root, store=store)
        Launch(
            study,
            where,
            told,
            held,
            site,
            address=address,
            only=options.stages,
            trainer=trainer or train_and_evaluate,
            loggers=options.loggers,
            again=options.again,
            mixed=options.mixed,
        ).run()
    return where


def _networks(before: StudySpec, study: StudySpec) -> list[str]:
    """See ``network_words``."""
    from kdtune.training.teachers import network_words  # torch is imported now: there is a file of weights

    return network_words(before, study)


def _publisher(submission_id: str | None) -> "Publish | None":
    if submission_id is None:
        return None
    from kdtune.cluster.jobs import publisher

    return publisher(submission_id)


@dataclass(frozen=True)
class Results:
    """The tables of a study."""

    storage: Storage

    def table(self, name: str) -> pa.Table:
        """A table by its name, as data: one of ``kdtune.answers.tables.NAMES``, ``history`` or ``nodes``.

        Raises:
            UserError: the study has not been launched with this storage, or there is no table of that name.
        """
        if name in ("history", "nodes"):
            return self.storage.table(name)
        return tables.table(name, self.all(), self.storage.study)

    def all(self) -> tables.Tables:
        """All stored tables, and what the study planned."""
        return gathered([self.storage])


def results(name: str, storage: str | None = None) -> Results:
    """The results of a study by its name (or its file)."""
    return Results(Storage(storage_root(storage), study_name(name), name))

"""A study as it lies in storage, for those who only read it: no torch, no Ray, in a fraction of a second."""

import hashlib
import logging
import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import yaml

from kdtune.errors import UserError
from kdtune.filesystem import home, json_text
from kdtune.filesystem.folder import Folder, absolute
from kdtune.records import remembered
from kdtune.records.parquet import parsed
from kdtune.records.schemas import check_table
from kdtune.study.loader import Document
from kdtune.study.names import STUDY_NAME, TRIAL_ID
from kdtune.training.image_counts import ImageCounts, counts_of

IMAGE_COUNTS = "image_counts.parquet"  # beside a trial's weights
DIGESTS = "digests.json"  # table's file -> the SHA-256 of it, and of those that it has just replaced
TABLES = ("trials", "history", "optimal", "final", "emissions", "nodes")
Digests = dict[str, list[str]]
TRIES = 3  # at a table that does not fit its digest, before it is called damaged


def storage_root(given: str | None = None) -> str:
    """The flag, else ``KDTUNE_STORAGE``, else ``~/kdtune``.

    Raises:
        UserError: none of them is given, and there is no home; or it is a file.
    """
    given = given or os.environ.get("KDTUNE_STORAGE")
    if not given and home.is_temporary():
        raise UserError("no home folder here to keep results in: give --storage or KDTUNE_STORAGE, or set HOME")
    root = absolute(given or "~/kdtune")
    if os.path.isfile(root):
        raise UserError(f"{root}: is a file, not a folder")
    return root


@dataclass(frozen=True)
class StoredStudy:
    """The folder of one study.

    Raises:
        UserError: no name of a study.
    """

    root: str  # URI of the storage
    study: str
    given: str | None = field(default=None, compare=False)  # its name or its file, as a user gave it

    def __post_init__(self) -> None:
        if not re.fullmatch(STUDY_NAME, self.study):
            raise UserError(
                f"'{self.study}' is no name of a study: letters, digits, '.', '_' and '-', a letter or digit first"
            )

    @property
    def folder(self) -> Folder:
        """``<storage>/<study>``."""
        return Folder(self.root) / self.study

    @property
    def words(self) -> str:
        """The study as a command names it: with its storage, unless commands look there anyway."""
        usual = absolute(os.environ.get("KDTUNE_STORAGE") or "~/kdtune")
        return shlex.join([self.given or self.study, *(["--storage", self.root] if self.root != usual else [])])

    def table(self, name: str, known: Digests | None = None) -> pa.Table:
        """A table as it was last written. ``known``: ``digests`` as they were read before, for several tables.

        Raises:
            UserError: the study has not been launched with this storage, or the table is damaged.
        """
        found = self.table_if_there(name, known)
        if found is None and name == "nodes" and self.folder.exists("trials.parquet"):
            return pa.schema([]).empty_table()  # of a version that did not meter
        if found is None:
            raise self._without_results()
        return found

    def refuse_without_results(self) -> None:
        """Nothing, if there is a table; asked before what takes longer to import.

        Raises:
            UserError: the study has not been launched with this storage.
        """
        if not self.folder.exists("trials.parquet"):
            raise self._without_results()

    def _without_results(self) -> UserError:
        return UserError(
            f"{self.folder.uri}: no results of study '{self.study}' there; launch it first, or name its storage "
            "with --storage"
        )

    def table_if_there(
        self, name: str, known: Digests | None = None, columns: Sequence[str] | None = None
    ) -> pa.Table | None:
        """The same, or these columns of it; none if there is no such table.

        Raises:
            UserError: it is damaged, or takes more memory than a table of its size.
        """
        content = self._content(name, known)
        try:
            where = f"{self.folder.uri}/{name}.parquet"
            if content is None:
                return None
            return check_table(name, parsed(content, where, columns), columns)
        except pa.ArrowException:
            raise self._damaged(name) from None

    def _content(self, name: str, known: Digests | None) -> bytes | None:
        for i in range(TRIES):  # the table, then its digest: between the two, both may have been written anew
            content = remembered.read(self.folder, f"{name}.parquet", anew=i > 0)
            if content is None:
                return None
            known = self.digests(anew=i > 0) if known is None else known
            expected = known.get(f"{name}.parquet")  # earlier versions noted none
            if not expected or hashlib.sha256(content).hexdigest() in expected:
                return content
            known = None
        raise self._damaged(name)

    def image_counts(self, trial_id: str, digest: str | None) -> ImageCounts:
        """The confusion matrices of a trial's last evaluation, image by image.

        ``digest``: the SHA-256 that the trial noted of them.

        Raises:
            UserError: it left none, they are damaged, or that is no trial's id, which a table of others may hold.
        """
        if not re.fullmatch(TRIAL_ID, trial_id):
            raise UserError(f"'{trial_id}' is no id of a trial")
        folder = self.folder / "checkpoints" / trial_id
        content = folder.read(IMAGE_COUNTS) if digest else None
        again = f"`kdtune launch {self.words} --again {trial_id}` runs it again"
        if content is None:
            raise UserError(f"{trial_id} has no counts per image; {again}")
        try:
            if hashlib.sha256(content).hexdigest() == digest:
                return counts_of(parsed(content, f"{folder.uri}/{IMAGE_COUNTS}"))
        except (pa.ArrowException, ValueError):
            pass
        raise UserError(f"{folder.uri}/{IMAGE_COUNTS}: damaged; {again}")

    def digests(self, *, anew: bool = False) -> Digests:
        """The SHA-256 that each table's file should have; none is known where the file of them is damaged."""
        try:
            found = json_text.parsed(remembered.read(self.folder, DIGESTS, anew=anew) or b"{}")
        except ValueError:
            return {}
        lists = found.items() if isinstance(found, dict) else ()
        return {name: noted for name, noted in lists if isinstance(noted, list)}

    def _damaged(self, name: str) -> UserError:
        return UserError(
            f"{self.folder.uri}/{name}.parquet: damaged; launched again, the study writes it anew from its journal"
        )

    def read_study(self) -> dict[str, Any] | None:
        """The study of the last launch alone; none where it is damaged, for the next writes it anew."""
        return self.read_study_as_run()[0]

    def read_left_out(self) -> list[str]:
        """The stages that the last launch left out, see ``study.condition``."""
        return self.read_study_as_run()[1]

    def read_study_as_run(self) -> tuple[dict[str, Any] | None, list[str]]:
        """Both."""
        data = self._read_study()
        left_out = (data or {}).get("left_out")
        names = [name for name in left_out if isinstance(name, str)] if isinstance(left_out, list) else []
        return data and {key: value for key, value in data.items() if key not in ("versions", "left_out")}, names

    def read_versions(self) -> dict[str, Any] | None:
        """Of what ran the last trials of the study; none where that is not known."""
        versions = (self._read_study() or {}).get("versions")
        return versions if isinstance(versions, dict) else None

    def _read_study(self) -> dict[str, Any] | None:
        content = remembered.read(self.folder, "study.yaml")
        if content is None:
            return None
        try:
            data: Any = Document(content, getattr(yaml, "CSafeLoader", yaml.SafeLoader)).value()
        except yaml.YAMLError:
            data = None
        if not _is_study(data):
            logging.getLogger("kdtune").warning("%s/study.yaml: damaged, and skipped", self.folder.uri)
            return None
        found: dict[str, Any] = data
        return found


def _is_study(data: Any) -> bool:
    """Whether it has the form of one; of which version it is, and whether its values are any, is for who uses them."""
    stages = data.get("stages") if isinstance(data, dict) else None
    return isinstance(stages, list) and all(isinstance(e, dict) and isinstance(e.get("name"), str) for e in stages)

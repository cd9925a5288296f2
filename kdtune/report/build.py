"""``kdtune report``: a study as one HTML page that loads nothing and runs nothing."""

from typing import Any

import yaml
from pydantic import ValidationError

from kdtune.analysis import entropy
from kdtune.answers import tables
from kdtune.base import UserError
from kdtune.filesystem.folder import leads_out
from kdtune.records.parquet import parsed
from kdtune.records.rows import weight_stages
from kdtune.records.storage import Storage
from kdtune.report.answer import lead, opening_sections
from kdtune.report.page import page
from kdtune.report.rest import closing_sections
from kdtune.report.searches import search_sections
from kdtune.report.study import Study
from kdtune.report.svg import drawing
from kdtune.study.file import load_study
from kdtune.study.loader import Document
from kdtune.study.names import TEACHER
from kdtune.study.spec import StudySpec


def report(where: Storage, stored: tables.Tables, data_root: str | None) -> str:
    """The report of a study, running or finished, as HTML.

    Args:
        where: the study on its storage.
        stored: its tables.
        data_root: parent of the datasets' folders, for the validation images.

    Raises:
        UserError: none of the study's trials has finished.
    """
    if not stored.trials.num_rows:
        raise UserError(
            f"{where.folder.uri}: no trial of study '{where.study}' has finished yet; see how far it is with "
            f"`kdtune status {where.words}`"
        )
    study = read(where, stored, data_root)
    with drawing():
        sections = [*opening_sections(study), *search_sections(study), *closing_sections(study)]
    return page(f"kdtune report: {where.study}", lead(study), sections)


def read(where: Storage, stored: tables.Tables, data_root: str | None) -> Study:
    """All that the report shows.

    Raises:
        UserError: the study's file is a link to somewhere else.
    """
    if leads_out(where.folder, "study.yaml") is not None:  # the page shows it, whatever it is
        raise UserError(
            f"{where.folder.uri}/study.yaml: is a link that leads out of the study; put the file itself there"
        )
    text = (where.folder.read("study.yaml") or b"").decode(errors="replace")
    spec, versions = _spec(text)
    nodes = where.folder.read("nodes.parquet")
    return Study(
        where=where,
        data_root=data_root,
        stored=stored,
        text=text,
        spec=spec,
        versions=versions,
        plan=where.plan(),
        made=weight_stages(spec) if spec else {TEACHER},
        nodes=parsed(nodes, f"{where.folder.uri}/nodes.parquet") if nodes else None,
        entropy=_entropy(where),
        builders=_own_builders(where.given),
    )


def _own_builders(given: str | None) -> list[str]:
    """The builders that the study names as the user has it; none where only the storage knows it."""
    try:
        return load_study(given).builders if given else []
    except UserError:  # the study on the storage is shown all the same
        return []


def _spec(text: str) -> tuple[StudySpec | None, dict[str, Any]]:
    """The study as it was launched, none if this version cannot read it; and the versions that ran it."""
    try:
        data = Document(text, yaml.SafeLoader).value()
        versions = data.pop("versions", None) or {}
        return StudySpec.model_validate(data), versions
    except (yaml.YAMLError, AttributeError):
        return None, {}
    except ValidationError:
        return None, versions


def _entropy(where: Storage) -> Any:
    """The figure of the teacher's entropy; none where it has not been measured."""
    found = entropy.stored(where.folder)
    return None if found is None else (found, entropy.figure)

"""The paper's own tables, as data: one JSON file per study, numbers and marks as printed.

Niemann, Vox, Werner: Towards Comparable Knowledge Distillation in Semantic Image Segmentation, 2023, Tables 2
to 8. ``source`` in a file names the tables. What the paper does not print is null: most numbers of runs
(``seeds``), and every deviation of ADE20K, which has one run.
"""

import json
from importlib import resources
from typing import Any

import pyarrow as pa

from kdtune.answers.columns import refuse, typed
from kdtune.answers.planned_grid import PlannedStudy
from kdtune.answers.tables import NAMES, named

STUDIES = (
    "cityscapes-resnet",
    "cityscapes-effnet",
    "voc-resnet",
    "voc-effnet",
    "ade20k-resnet",
    "ade20k-effnet",
)

BACKBONES = {"resnet": "resnet18", "effnet": "efficientnet_b0"}
DESIGNS = {study: PlannedStudy(study, study.split("-")[0], BACKBONES[study.split("-")[1]]) for study in STUDIES}


def published(study: str, table: str) -> pa.Table:
    """A table of the paper for one of its studies, in the columns of the measured table of that name.

    mIoU in percent, energy in kWh, CO2-equivalent in kg. ``best`` is what the paper prints bold,
    ``within_one_std`` what it underlines or prints bold. ``optimal`` joins Tables 2b and 3b with the best of
    Tables 4 and 5, lambda_PI = 1e-1 from section 4, and mIoU from Tables 2a and 3a; where two weights of one
    loss tie for the best, the weight is null. ``initialization`` has two more columns: what Table 7 quotes
    from SKD and CWD.

    Raises:
        UserError: a study that is not the paper's, or a table that it does not print for that study.
    """
    if study not in STUDIES:
        refuse(f"study '{study}' is not the paper's; published studies: {', '.join(STUDIES)}")
    tables = _tables(study)
    if table not in NAMES:
        refuse(f"unknown table '{table}'; there are: {', '.join(NAMES)}")
    if table not in tables:
        refuse(f"the paper prints no table '{table}' for {study}; it prints: {', '.join(tables)}")
    columns: list[str] = tables[table]["columns"]
    return typed([dict(zip(columns, row, strict=True)) for row in tables[table]["rows"]], columns)


def printing(table: str) -> list[str]:
    """The studies for which the paper prints a table."""
    return [study for study in STUDIES if table in _tables(study)]


def published_all(table: str) -> pa.Table:
    """A table of the paper for all of its studies, each line with its study, dataset and student.

    Raises:
        UserError: a table that it does not print.
    """
    if table not in NAMES:
        refuse(f"unknown table '{table}'; there are: {', '.join(NAMES)}")
    if not printing(table):
        refuse(f"the paper prints no table '{table}'; it prints: {', '.join(_tables(STUDIES[0]))}")
    return pa.concat_tables(
        [named(published(study, table), study, DESIGNS[study]) for study in printing(table)], promote_options="default"
    )


def _tables(study: str) -> dict[str, Any]:
    text = resources.files(__name__).joinpath(f"{study}.json").read_text(encoding="utf-8")
    tables: dict[str, Any] = json.loads(text)
    return tables

"""Tables over several studies, a cross of datasets and students as the paper prints them: Tables 2 to 7.

The data are those of ``tables.table(name, tables, None)``: lines with their study, dataset and student in front.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from kdtune.answers.cells import falling, loss_symbol, method_crosses, method_terms, notes, number, scientific, score
from kdtune.answers.columns import loss_columns
from kdtune.answers.final_tables import METHODS
from kdtune.answers.formats import Block, Cell
from kdtune.answers.layouts import LAYOUTS
from kdtune.answers.ranking import Row
from kdtune.answers.search_tables import STAGES, swept_losses
from kdtune.records.further import COLUMN

DATASETS = {"voc": "PascalVOC", "cityscapes": "Cityscapes", "ade20k": "ADE20K"}  # the paper's order
RATE, DECAY = "\N{GREEK SMALL LETTER MU}(0)", "\N{GREEK SMALL LETTER GAMMA}"  # the paper's signs
STUDENTS = {"efficientnet_b0": "EffNet", "resnet18": "ResNet"}


@dataclass(frozen=True)
class _Study:
    """Where a study stands in a cross."""

    name: str
    dataset: str
    student: str


def _studies(rows: Sequence[Row]) -> list[_Study]:
    """The studies, in the order of the paper; of a dataset and student that two of them share, by their names."""
    first = {row["study"]: row for row in reversed(rows)}
    pairs = [(row["dataset"], row["student"]) for row in first.values()]
    found = []
    for name, row in first.items():
        dataset: str = row["dataset"] or "other"
        student: str | None = row["student"] if pairs.count((row["dataset"], row["student"])) == 1 else None
        found.append(_Study(name, DATASETS.get(dataset, dataset), STUDENTS.get(student, student) if student else name))
    orders = ([*DATASETS.values()], [*STUDENTS.values()])
    datasets = list(dict.fromkeys(study.dataset for study in sorted(found, key=lambda study: study.name)))

    def place(study: _Study) -> tuple[int, int, int, str]:
        known, students = orders
        at = known.index(study.dataset) if study.dataset in known else len(known)
        return at, datasets.index(study.dataset), _index(study.student, students), study.student

    return sorted(found, key=place)


def _index(value: str, order: Sequence[str]) -> int:
    return order.index(value) if value in order else len(order)


def _groups(studies: Sequence[_Study], width: int = 1, first: int = 1) -> list[tuple[str, int]]:
    """The datasets over their students' columns."""
    groups = [("", first)]
    for dataset in dict.fromkeys(study.dataset for study in studies):
        groups.append((dataset, width * sum(study.dataset == dataset for study in studies)))
    return groups


def _by(rows: Sequence[Row], column: str, order: Sequence[str] = ()) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row[column], []).append(row)
    return dict(sorted(found.items(), key=lambda item: _index(item[0], order)))


def _optimal(data: pa.Table) -> list[Block]:
    """Tables 2b and 3b: datasets down, students across, learning rate and weight decay of each; then every optimum."""
    rows: list[Row] = data.to_pylist()
    titles = {"student": "student-only training", "distill": "student and teacher training"}
    blocks = []
    for stage, of_stage in _by(rows, "stage", list(titles)).items():
        if stage in titles:
            cells = {row["study"]: [scientific(row["lr"]), scientific(row["weight_decay"])] for row in of_stage}
            blocks.append(_optima(f"optimal hyperparameters of {titles[stage]}", _studies(rows), cells))
    return [*blocks, *LAYOUTS["optimal"](data)]


def _optima(title: str, studies: Sequence[_Study], cells: Mapping[str, list[str]]) -> Block:
    students = list(dict.fromkeys(study.student for study in studies))
    students.sort(key=lambda student: _index(student, [*STUDENTS.values()]))
    lines = []
    for dataset in dict.fromkeys(study.dataset for study in studies):
        at = {study.student: study.name for study in studies if study.dataset == dataset}
        words = [word for student in students for word in cells.get(at.get(student, ""), ["-", "-"])]
        lines.append([Cell(dataset), *map(Cell, words)])
    groups = [("", 1), *((student, 2) for student in students)]
    return Block(title, ["", *[RATE, DECAY] * len(students)], lines, groups=groups)


def _grid(data: pa.Table) -> list[Block]:
    """Tables 2a and 3a: weight decay down; the students of a dataset, each with its learning rates, across."""
    rows: list[Row] = data.to_pylist()
    blocks = []
    for stage, of_stage in _by(rows, "stage", STAGES).items():
        for dataset in dict.fromkeys(study.dataset for study in _studies(of_stage)):
            studies = [study for study in _studies(of_stage) if study.dataset == dataset]
            here = [row for row in of_stage if row["study"] in {study.name for study in studies}]
            blocks += _grid_blocks(f"{stage} on {dataset}", studies, here)
    return blocks


def _grid_blocks(title: str, studies: Sequence[_Study], rows: Sequence[Row]) -> list[Block]:
    by_study = _by(rows, "study")
    further = [COLUMN] if any(row.get(COLUMN) is not None for row in rows) else []
    columns: list[tuple[str, float | None]] = []
    groups = [("", 1)]
    for study in studies:
        rates = falling({row["lr"] for row in by_study[study.name]})
        columns += [(study.name, rate) for rate in rates]
        groups.append((study.student, len(rates)))
    decays = falling({row["weight_decay"] for row in rows})
    cells = {(row["study"], row["lr"], row["weight_decay"]): score(row) for row in rows}
    if len(cells) < len(rows) or len(columns) * len(decays) > 3 * len(rows):  # not a grid: line by line, each study
        own = ["stage", "lr", "weight_decay", *further, "miou", "status", "step", "steps_total", "best"]
        plain = [(s, pa.Table.from_pylist([{k: row[k] for k in own} for row in by_study[s.name]])) for s in studies]
        return [replace(b, title=f"{s.name}, {b.title}") for s, data in plain for b in LAYOUTS["grid"](data)]
    lines = [[Cell(scientific(d)), *(cells.get((*column, d), Cell("-")) for column in columns)] for d in decays]
    header = [DECAY, *(scientific(rate) for _, rate in columns)]
    title = f"{title}, mIoU [%] by weight decay {DECAY} (down) and learning rate {RATE} (across)"
    return [Block(title, header, lines, notes(rows), groups)]


def _crossed(title: str, axis: str, rows: Sequence[Row], key: Callable[[Row], str]) -> Block:
    """A value of a hyperparameter per line, a study per column."""
    studies = _studies(rows)
    cells = {(key(row), row["study"]): score(row) for row in rows}
    values = list(dict.fromkeys(key(row) for row in rows))
    lines = [[Cell(value), *(cells.get((value, study.name), Cell("-")) for study in studies)] for value in values]
    return Block(title, [axis, *(study.student for study in studies)], lines, notes(rows), _groups(studies))


def _line(row: Row, *values: str) -> str:
    """What stands at the beginning of a line: the values, and what else its stage varied."""
    return ", ".join([*values, *filter(None, [row.get(COLUMN)])])


def _temperature(data: pa.Table) -> list[Block]:
    """Table 4: temperature down."""
    rows: list[Row] = sorted(data.to_pylist(), key=lambda row: row["temperature"] or 0.0)
    return [
        _crossed(f"{stage}, mIoU [%] by temperature", "τ", of_stage, lambda row: _line(row, number(row["temperature"])))
        for stage, of_stage in _by(rows, "stage", STAGES).items()
    ]


def _weights(data: pa.Table) -> list[Block]:
    """Table 5: one block per loss, its weight down."""
    blocks = []
    for stage, rows in _by(data.to_pylist(), "stage", STAGES).items():
        swept = swept_losses(stage, rows, loss_columns(data))
        rows.sort(key=lambda row: [row[name] or 0.0 for name in swept])
        axis = ", ".join(f"λ_{loss_symbol(name)}" for name in swept)

        def key(row: Row, swept: Sequence[str] = swept) -> str:
            return _line(row, *(scientific(row[name]) for name in swept))

        blocks.append(_crossed(f"{stage}, mIoU [%] by loss weight", axis, rows, key))
    return blocks


def _final(data: pa.Table) -> list[Block]:
    """Table 6: a cross per loss, one line per method; below it what the seeds of each study tell of its gains."""
    rows: list[Row] = data.to_pylist()
    by_method, studies = _by(rows, "method", METHODS), _studies(rows)
    losses, crosses = method_crosses(list(by_method))
    lines = []
    for method, of_method in by_method.items():
        scores = {row["study"]: score(row) for row in of_method}
        lines.append([*crosses[method], *(scores.get(study.name, Cell("-")) for study in studies)])
    remarks = [
        f"{row['study']}, {method_terms(row['method'])}: {row[name]}"
        for name in data.column_names
        if name.startswith("verdict_")
        for row in rows
        if row[name]
    ]
    header = [*losses, *(study.student for study in studies)]
    groups = _groups(studies, first=len(losses)) if losses else _groups(studies)[1:]
    return [Block("mIoU [%] of each method beside L_CE", header, lines, notes(rows), groups, remarks)]


def _each(name: str) -> Callable[[pa.Table], list[Block]]:
    """Study after study, each as it is alone."""

    def layout(data: pa.Table) -> list[Block]:
        studies = data["study"].to_pylist()
        blocks = []
        for study in dict.fromkeys(studies):
            own = data.filter(pa.array([each == study for each in studies], pa.bool_()))
            blocks += [replace(block, title=f"{study}, {block.title}") for block in LAYOUTS[name](own)]
        return blocks

    return layout


ALL_STUDIES: dict[str, Callable[[pa.Table], list[Block]]] = {
    "optimal": _optimal,
    "grid": _grid,
    "temperature": _temperature,
    "weights": _weights,
    "final": _final,
    **{name: _each(name) for name in ("terms", "initialization", "emissions", "cost")},
    "trials": LAYOUTS["trials"],
}

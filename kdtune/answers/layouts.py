"""The tables of ``kdtune results`` as people read them, each laid out like the paper's."""

from collections.abc import Callable, Sequence

import pyarrow as pa

from kdtune.answers import verdicts
from kdtune.answers.cells import (
    amount,
    falling,
    loss_symbol,
    method_terms,
    notes,
    number,
    scientific,
    score,
    texts,
)
from kdtune.answers.columns import loss_columns
from kdtune.answers.final_layout import final_blocks
from kdtune.answers.formats import Block, Cell
from kdtune.answers.ranking import Row
from kdtune.answers.search_tables import swept_losses
from kdtune.answers.term_facts import facts
from kdtune.answers.terms_layout import terms_blocks
from kdtune.losses.marks import marked
from kdtune.records.further import COLUMN, further_columns, told, varied
from kdtune.study.names import SHARED

Layout = Callable[[pa.Table], list[Block]]

CHOSEN = "mIoU: of last evaluations, the best of so many trials on the images that chose it, and so too high"

_MODELS = {"student": "S", "student+kd": "S + KD", "teacher": "T"}


def _stages(rows: Sequence[Row]) -> dict[str, list[Row]]:
    stages: dict[str, list[Row]] = {}
    for row in rows:
        stages.setdefault(row["stage"], []).append(row)
    return stages


def _grid(data: pa.Table) -> list[Block]:
    """Table 2: weight decay down, learning rate across, one block per stage."""
    return [_grid_block(stage, rows) for stage, rows in _stages(data.to_pylist()).items()]


def _grid_block(stage: str, rows: list[Row]) -> Block:
    cells = {(row["weight_decay"], row["lr"]): score(row) for row in rows}
    decays, rates = (falling({key[axis] for key in cells}) for axis in (0, 1))
    title = f"{stage}, mIoU [%] by weight decay (down) and learning rate (across)"
    # a random search, or two starts in one stage, would be mostly holes or hide a trial: one line each
    if len(cells) < len(rows) or len(decays) * len(rates) > 3 * len(rows):
        beside = _beside(rows)
        lines = [
            [
                *texts(scientific(row["weight_decay"]), scientific(row["lr"]), *(row[n] or "-" for n in beside)),
                score(row),
            ]
            for row in rows
        ]
        return Block(f"{stage}, mIoU [%]", ["weight decay", "learning rate", *beside, "mIoU"], lines, notes(rows))
    lines = [[Cell(scientific(d)), *(cells.get((d, rate), Cell("-")) for rate in rates)] for d in decays]
    return Block(title, ["", *map(scientific, rates)], lines, notes(rows))


def _temperature(data: pa.Table) -> list[Block]:
    """Table 4: temperature down."""
    blocks = []
    for stage, rows in _stages(data.to_pylist()).items():
        beside = _beside(rows)
        lines = [
            [*texts(number(r["temperature"]), *(r[n] or "-" for n in beside)), score(r), Cell(number(r["seeds"]))]
            for r in rows
        ]
        blocks.append(Block(f"{stage}, mIoU [%] by temperature", ["τ", *beside, "mIoU", "seeds"], lines, notes(rows)))
    return blocks


def _weights(data: pa.Table) -> list[Block]:
    """Table 5: one block per loss."""
    blocks = []
    for stage, rows in _stages(data.to_pylist()).items():
        swept, beside = swept_losses(stage, rows, loss_columns(data)), _beside(rows)
        words = [[*(scientific(row[name]) for name in swept), *(row[name] or "-" for name in beside)] for row in rows]
        lines = [[*texts(*each), score(row)] for each, row in zip(words, rows, strict=True)]
        header = [*(f"λ_{loss_symbol(name)}" for name in swept), *beside, "mIoU"]
        said = [f"published: {', '.join(_published(name) for name in swept)}"] if swept else []
        blocks.append(Block(f"{stage}, mIoU [%] by loss weight", header, lines, [*notes(rows), *said]))
    return blocks


def _beside(rows: Sequence[Row]) -> list[str]:
    """The column of further parameters, where these lines have some."""
    return [COLUMN] if any(row.get(COLUMN) is not None for row in rows) else []


def _published(column: str) -> str:
    """The weight that a term's authors give it, in the term's own unit, which its convention may change."""
    found = facts(column.removeprefix("lambda_"))
    of = f" (convention: {found.convention})" if found.convention else ""
    return f"λ_{loss_symbol(column)} {'not known' if found.weight is None else scientific(found.weight) + of}"


def _initialization(data: pa.Table) -> list[Block]:
    """Table 7: methods down, initial weights across; what the paper quotes from others beside."""
    rows: list[Row] = data.to_pylist()
    inits = [init for init in dict.fromkeys(row["init"] for row in rows) if init]
    quoted = [name for name in data.column_names if name in ("miou_skd", "miou_cwd")]
    lines = []
    for method in dict.fromkeys(row["method"] for row in rows):
        of_method = [row for row in rows if row["method"] == method]
        scores = {row["init"]: score(row) for row in of_method}
        cells = [scores.get(init, scores.get(None, Cell("-"))) for init in inits]  # a teacher has no init
        others = [number(of_method[0][name], ".2f") for name in quoted]
        lines.append([Cell(method_terms(method)), *cells, *texts(*others)])
    header = ["", *inits, *(name.removeprefix("miou_").upper() for name in quoted)]
    return [Block("mIoU [%] by initial weights of the student's backbone", header, lines)]


def _emissions(data: pa.Table) -> list[Block]:
    """Table 8: models down, training and inference across."""
    rows = {(row["model"], row["phase"]): row for row in data.to_pylist()}
    lines = []
    for model in dict.fromkeys(model for model, _ in rows):
        phases = [rows.get((model, phase), {}) for phase in ("training", "inference")]
        miou = next((row["miou"] for row in phases if row.get("miou") is not None), None)
        amounts = [amount(row, name) for row in phases for name in ("energy_kwh", "co2_kg")]
        lines.append(texts(_MODELS.get(model, model), number(miou, ".2f"), *amounts))
    title = "energy [kWh] and CO2-equivalent [kg] of training, and of inference per 10,000 images"
    header = ["", "mIoU [%]", "training kWh", "training kg", "inference kWh", "inference kg"]
    guessed = any(row["measured"] is False for row in rows.values())
    told = ["~: estimated, not measured"] if guessed else []
    for (model, phase), row in rows.items():
        if phase == SHARED and row["energy_kwh"] != rows[model, "training"]["energy_kwh"]:
            here = f"here it took {amount(row, 'energy_kwh')} kWh, for trials share what the teacher computes"
            told.append(f"{_MODELS.get(model, model)}: with a teacher of its own; {here}")
    return [Block(title, header, lines, told)]


def _cost(data: pa.Table) -> list[Block]:
    """Not in the paper: what the search itself took, stage by stage."""
    names = {
        "superseded": "(trials that the study no longer has)",
        "other": "(trials: starting, saving, lost steps)",
        "idle": "(no trial)",
        "total": "(all)",
    }
    lines = [
        [
            *texts(row["stage"] or names[row["part"]], *(number(row[name]) for name in ("trials", "trials_stopped"))),
            *texts(*(number(row[name], ",") for name in ("steps", "steps_not_run"))),
            *texts("-" if row["train_seconds"] is None else f"{row['train_seconds'] / 3600:.2f}"),
            *texts(*(amount(row, name) for name in ("energy_kwh", "inference_kwh", "co2_kg", "kwh_not_used"))),
        ]
        for row in data.to_pylist()
    ]
    header = ["stage", "trials", "stopped", "steps", "steps spared", "hours", "kWh", "of evaluations", "kg CO2e"]
    guessed = any(measured is False for measured in data["measured"].to_pylist())
    notes = ["spared: by early stopping", *(["~: estimated, not measured"] if guessed else [])]
    return [Block("what the search took", [*header, "kWh spared"], lines, notes)]


def _optimal(data: pa.Table) -> list[Block]:
    rows: list[Row] = data.to_pylist()
    studies, beside = len({row.get("study") for row in rows}) > 1, _beside(rows)
    lambdas = [name for name in loss_columns(data) if any(row[name] is not None for row in rows)]
    lines = [
        [
            *texts(*([row["study"]] if studies else []), row["stage"]),
            *texts(scientific(row["lr"]), scientific(row["weight_decay"]), number(row["temperature"])),
            *texts(*(scientific(row[name]) for name in lambdas), *(row[name] or "-" for name in beside)),
            score(row),
            *texts(*(number(row.get(name)) for name in ("seeds", "trials", "trials_stopped"))),
        ]
        for row in rows
    ]
    header = [*(["study"] if studies else []), "stage", "lr", "weight decay", "τ"]
    header += [*(f"λ_{loss_symbol(name)}" for name in lambdas), *beside, "mIoU [%]", "seeds", "trials", "stopped"]
    notes = [CHOSEN] if any((row.get("trials") or 0) > (row.get("seeds") or 0) for row in rows) else []
    remarks = [f"{row['stage']}: {row['border']}" for row in rows if row.get("border")]
    return [Block("best configuration of each stage", header, lines, notes, remarks=remarks)]


def _trials(data: pa.Table) -> list[Block]:
    shown = (
        "study",
        "stage",
        "start",
        "trial_id",
        "method",
        "status",
        "lr",
        "weight_decay",
        "temperature",
        "miou",
        "step",
        "steps_total",
    )
    # times are not among them: to convert them imports pandas
    further = further_columns(data)
    rows: list[Row] = data.select([*shown, "train_seconds", *loss_columns(data), *further]).to_pylist()
    differing = varied(rows, further)
    rows = [row | {COLUMN: told(row, differing.get((row["study"], row["stage"]), ()))} for row in rows]
    studies, beside = len({row["study"] for row in rows}) > 1, _beside(rows)
    lambdas = [name for name in loss_columns(data) if any(row[name] is not None for row in rows)]
    lines = [
        [
            *texts(*([row["study"]] if studies else []), row["trial_id"], marked(row["method"]), row["status"]),
            *texts(scientific(row["lr"]), scientific(row["weight_decay"]), number(row["temperature"])),
            *texts(*(scientific(row[name]) for name in lambdas), *(row[name] or "-" for name in beside)),
            *texts(number(row["miou"], ".2f")),
            *texts(f"{number(row['step'])}/{number(row['steps_total'])}", number(row["train_seconds"], ".0f")),
        ]
        for row in rows
    ]
    header = [
        *(["study"] if studies else []),
        "trial",
        "method",
        "status",
        "lr",
        "weight decay",
        "τ",
        *(f"λ_{loss_symbol(name)}" for name in lambdas),
        *beside,
    ]
    return [Block("trials", [*header, "mIoU [%]", "step", "train [s]"], lines, ["mIoU: of the last evaluation"])]


def plain(title: str, data: pa.Table) -> Block:
    """Any table, a line per line, without the columns that are null throughout."""
    names = [name for name in data.column_names if data[name].null_count < data.num_rows]
    lines = [[Cell(_any(name, row[name])) for name in names] for row in data.to_pylist()]
    return Block(title, names, lines)


def _any(name: str, value: object) -> str:
    if not isinstance(value, float):
        return "-" if value is None else str(value)
    if name.startswith("miou"):
        return verdicts.signed(value) if name.endswith("_difference") else f"{value:.2f}"
    rates = name.startswith(("lr", "weight", "lambda_"))
    return scientific(value) if rates else f"{value:+.3g}" if name.endswith("_difference") else f"{value:.3g}"


LAYOUTS: dict[str, Layout] = {
    "optimal": _optimal,
    "grid": _grid,
    "temperature": _temperature,
    "weights": _weights,
    "final": final_blocks,
    "terms": terms_blocks,
    "initialization": _initialization,
    "emissions": _emissions,
    "cost": _cost,
    "trials": _trials,
}

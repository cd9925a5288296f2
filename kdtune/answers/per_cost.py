"""``--table final --per seconds|kwh``: what each method reaches, against what one of its trainings takes."""

import math
import statistics
from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from kdtune.answers.cells import method_terms, number, score, texts
from kdtune.answers.columns import typed
from kdtune.answers.final_tables import configuration_of
from kdtune.answers.formats import Block
from kdtune.answers.ranking import Row
from kdtune.answers.simultaneous import CONFIDENCE
from kdtune.study.names import FINAL

UNITS = {"seconds": "train_seconds", "kwh": "energy_kwh"}
_WORDS = {"train_seconds": "training [s]", "energy_kwh": "training [kWh]"}
_RUN = ("method", "start", "config_id", "seed", "status", "miou", "step", "steps_total")
_MEASURED = {
    "train_seconds": "time: of a training as it ran, less where it found stored what the teacher makes",
    "energy_kwh": "energy: of a training with a teacher of its own",
}
_SPENT = ("train_seconds", "energy_kwh", "energy_alone_kwh")


def per_cost(final: pa.Table, trials: pa.Table, unit: str) -> pa.Table:
    """A line per method of stage ``final`` that has a mean, the cheapest first.

    Means over its seeds, each with its own 95 % interval (t; null for one seed). Energy is that of a training with a
    teacher of its own. ``front``: whether no method reaches more for no more.
    """
    column = UNITS[unit]
    own = trials.filter(pc.equal(trials["stage"], FINAL))
    runs: dict[str, list[Row]] = {}
    for row in own.select([*_RUN, *(name for name in _SPENT if name in own.column_names)]).to_pylist():
        runs.setdefault(row["method"], []).append(row)
    rows: list[Row] = []
    for line in final.to_pylist():
        if line["miou_mean"] is None:
            continue
        compared = [run for run in configuration_of(runs.get(line["method"], [])) if run["status"] == "completed"]
        spent = [value for run in compared if (value := _spent(run, column)) is not None]
        low, high = _interval([run["miou"] for run in compared if run["miou"] is not None])
        cost = statistics.fmean(spent) if spent else None
        least, most = _interval(spent)
        rows.append(
            {name: line[name] for name in ("study", "method", "miou_mean", "miou_std", "seeds")}
            | {"miou_low": low, "miou_high": high, column: cost, f"{column}_low": least, f"{column}_high": most}
        )
    rows.sort(key=lambda row: (row[column] is None, row[column] or 0.0, -row["miou_mean"]))
    for row in rows:
        row["front"] = row[column] is not None and not any(_better(other, row, column) for other in rows)
    names = ["study", "method", "miou_mean", "miou_low", "miou_high", "miou_std", "seeds"]
    return typed(rows, [*names, column, f"{column}_low", f"{column}_high", "front"])


def per_cost_blocks(data: pa.Table) -> list[Block]:
    """The same as people read it."""
    rows: list[Row] = data.to_pylist()
    column = next(name for name in _WORDS if name in data.column_names)
    lines = [
        [
            *texts(method_terms(row["method"]), number(row[column], ".3g"), _between(row, column, ".3g")),
            score(row),
            *texts(_between(row, "miou", ".2f"), number(row["seeds"]), "x" if row["front"] else ""),
        ]
        for row in rows
    ]
    header = ["method", _WORDS[column], "95 % interval", "mIoU [%]", "95 % interval", "seeds", "unbeaten"]
    remarks = [
        "unbeaten: no other method reaches more for no more",
        "means over seeds; each interval is of one method alone (t), for a comparison see --table final",
    ]
    remarks.append(_MEASURED[column])
    if all(row[column] is None for row in rows):
        remarks.append("nothing was measured")
    return [Block("mIoU against what a training takes, the cheapest first", header, lines, remarks=remarks)]


def _spent(run: Mapping[str, float | None], column: str) -> float | None:
    alone = run.get("energy_alone_kwh") if column == "energy_kwh" else None
    return alone if alone is not None else run.get(column)


def _interval(values: Sequence[float]) -> tuple[float | None, float | None]:
    from scipy.special import stdtrit

    if len(values) < 2:
        return None, None
    reach = float(stdtrit(len(values) - 1, (1 + CONFIDENCE) / 2)) * statistics.stdev(values) / math.sqrt(len(values))
    return statistics.fmean(values) - reach, statistics.fmean(values) + reach


def _better(one: Row, other: Row, column: str) -> bool:
    if one[column] is None:
        return False
    no_worse = one[column] <= other[column] and one["miou_mean"] >= other["miou_mean"]
    return bool(no_worse and (one[column], one["miou_mean"]) != (other[column], other["miou_mean"]))


def _between(row: Row, name: str, form: str) -> str:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return "-" if low is None or high is None else f"{low:{form}} to {high:{form}}"

"""The paper's tables: cells against the print, and the tables against each other."""

import pyarrow as pa
import pytest

from kdtune.answers.published import STUDIES, published
from kdtune.answers.ranking import Row, best_and_near
from kdtune.answers.rendering import FORMATS, render_data
from kdtune.answers.tables import NAMES
from kdtune.base import UserError

EVERY = [(study, name) for study in STUDIES for name in ("optimal", "temperature", "final")]
EVERY += [(study, name) for study in STUDIES[:2] for name in ("grid", "weights")]
EVERY += [("cityscapes-resnet", "initialization"), ("cityscapes-resnet", "emissions")]


def rows(study: str, table: str, **wanted: object) -> list[Row]:
    found = published(study, table).to_pylist()
    return [row for row in found if all(row[key] == value for key, value in wanted.items())]


@pytest.mark.parametrize(
    ("study", "table", "wanted", "column", "value"),
    [
        ("cityscapes-effnet", "grid", {"stage": "student", "lr": 1e-1, "weight_decay": 5e-4}, "miou", 35.0),
        ("cityscapes-effnet", "grid", {"stage": "student", "lr": 5e-3, "weight_decay": 5e-6}, "miou", 59.4),
        ("cityscapes-effnet", "grid", {"stage": "distill", "lr": 5e-2, "weight_decay": 5e-5}, "miou", 65.6),
        ("cityscapes-resnet", "grid", {"stage": "student", "lr": 1e-2, "weight_decay": 5e-5}, "miou", 69.48),
        ("cityscapes-resnet", "grid", {"stage": "distill", "lr": 1e-2, "weight_decay": 5e-4}, "miou", 71.64),
        ("cityscapes-resnet", "grid", {"stage": "distill", "lr": 5e-3, "weight_decay": 5e-6}, "miou", 68.64),
        ("voc-effnet", "optimal", {"stage": "distill"}, "weight_decay", 5e-6),
        ("voc-resnet", "optimal", {"stage": "student"}, "lr", 5e-3),
        ("ade20k-effnet", "optimal", {"stage": "student"}, "lr", 5e-3),
        ("ade20k-resnet", "optimal", {"stage": "distill"}, "weight_decay", 5e-5),
        ("voc-effnet", "temperature", {"temperature": 4.0}, "miou_std", 0.82),
        ("voc-resnet", "temperature", {"temperature": 8.0}, "miou_mean", 64.18),
        ("cityscapes-effnet", "temperature", {"temperature": 8.0}, "miou_std", 0.03),
        ("ade20k-resnet", "temperature", {"temperature": 3.0}, "miou_mean", 36.04),
        ("cityscapes-effnet", "weights", {"lambda_pa": 10.0}, "miou", 3.211),
        ("cityscapes-effnet", "weights", {"lambda_ifv": 50.0}, "miou", 64.76),
        ("cityscapes-resnet", "weights", {"lambda_ho": 1e-1}, "miou", 28.20),
        ("voc-effnet", "final", {"method": "pi+ho"}, "miou_mean", 66.72),
        ("voc-resnet", "final", {"method": "pi+ifv"}, "within_one_std", True),
        ("cityscapes-resnet", "final", {"method": "pi+ho"}, "miou_std", 1.14),
        ("ade20k-effnet", "final", {"method": "student"}, "miou_mean", 34.10),
        ("ade20k-resnet", "final", {"method": "pi+ifv"}, "miou_mean", 37.09),
        ("cityscapes-resnet", "initialization", {"method": "student"}, "seeds", 4),
        ("cityscapes-resnet", "initialization", {"method": "pi+pa+ho"}, "miou_cwd", 63.20),
        ("cityscapes-resnet", "emissions", {"model": "teacher", "phase": "inference"}, "energy_kwh", 0.413),
    ],
)
def test_cell_is_as_printed(study: str, table: str, wanted: dict[str, object], column: str, value: object) -> None:
    (row,) = rows(study, table, **wanted)
    assert row[column] == value


@pytest.mark.parametrize("study", ["cityscapes-resnet", "cityscapes-effnet"])
@pytest.mark.parametrize("stage", ["student", "distill"])
def test_best_of_the_grid_is_the_optimum(study: str, stage: str) -> None:
    grid, (optimum,) = rows(study, "grid", stage=stage), rows(study, "optimal", stage=stage)
    best = [row for row in grid if row["best"]]
    assert {row["miou"] for row in best} == {max(row["miou"] for row in grid)} == {optimum["miou"]}
    assert (optimum["lr"], optimum["weight_decay"]) in {(row["lr"], row["weight_decay"]) for row in best}
    # the one tie of the paper's grids: 70.55 twice, of which Table 2b takes the larger weight decay
    assert len(best) == (2 if (study, stage) == ("cityscapes-resnet", "student") else 1)


@pytest.mark.parametrize("study", STUDIES)
def test_final_pi_is_the_best_temperature(study: str) -> None:
    (best,), (pi,) = rows(study, "temperature", best=True), rows(study, "final", method="pi")
    (optimum,) = rows(study, "optimal", stage="temperature")
    assert (best["miou_mean"], best["miou_std"]) == (pi["miou_mean"], pi["miou_std"])
    assert (best["temperature"], best["miou_mean"]) == (optimum["temperature"], optimum["miou"])


@pytest.mark.parametrize("study", STUDIES)
@pytest.mark.parametrize("table", ["temperature", "final"])
def test_marks_follow_the_rule_but_for_two(study: str, table: str) -> None:
    printed = rows(study, table)
    marks = best_and_near([row["miou_mean"] for row in printed], [row["miou_std"] for row in printed])
    off = [
        row["temperature"]
        for row, (best, near) in zip(printed, marks, strict=True)
        if (row["best"], row["within_one_std"]) != (best, near)
    ]
    # 65.02 < 66.24 - 0.46 and 72.44 < 72.75 - 0.29, yet the paper underlines both
    underlined = {("voc-effnet", "temperature"): [4.0], ("cityscapes-resnet", "temperature"): [4.0]}
    assert off == underlined.get((study, table), [])


@pytest.mark.parametrize("study", ["cityscapes-resnet", "cityscapes-effnet"])
def test_bold_weights_are_the_best_and_the_optimum(study: str) -> None:
    for loss in ("pa", "ho", "ifv"):
        weights = rows(study, "weights", stage=f"weight-{loss}")
        best = [row for row in weights if row["best"]]
        (optimum,) = rows(study, "optimal", stage=f"weight-{loss}")
        assert {row["miou"] for row in best} == {max(row["miou"] for row in weights)} == {optimum["miou"]}
        tied = (study, loss) == ("cityscapes-resnet", "ifv")  # 71.75 at 1e-2 and at 1e+0
        assert len(best) == (2 if tied else 1)
        assert optimum[f"lambda_{loss}"] == (None if tied else best[0][f"lambda_{loss}"])


def test_emissions_repeat_the_miou_of_tables_6_and_7() -> None:
    miou = {row["model"]: row["miou"] for row in rows("cityscapes-resnet", "emissions", phase="training")}
    final = {row["method"]: row["miou_mean"] for row in rows("cityscapes-resnet", "final")}
    (teacher,) = rows("cityscapes-resnet", "initialization", method="teacher")
    assert miou == {"student": final["student"], "student+kd": final["pi"], "teacher": teacher["miou_mean"]}


def test_emissions_share_one_carbon_intensity() -> None:
    for row in rows("cityscapes-resnet", "emissions"):
        assert row["co2_kg"] / row["energy_kwh"] == pytest.approx(0.354, abs=0.002)  # kg per kWh, Germany


@pytest.mark.parametrize("study", STUDIES)
def test_one_run_on_ade20k_has_no_deviation(study: str) -> None:
    ade20k = study.startswith("ade20k")
    for row in rows(study, "final") + rows(study, "temperature"):
        assert row["seeds"] == (1 if ade20k else None)
        assert (row["miou_std"] is None) == ade20k


@pytest.mark.parametrize(("study", "table"), EVERY)
def test_every_table_is_typed_and_renders(study: str, table: str) -> None:
    data = published(study, table)
    assert data.num_rows
    assert pa.null() not in data.schema.types
    for form in FORMATS:
        assert render_data(table, data, study, form)


@pytest.mark.parametrize("study", STUDIES)
def test_what_is_not_printed_is_one_line(study: str) -> None:
    missing = [name for name in NAMES if (study, name) not in EVERY]
    assert "trials" in missing
    for name in missing:
        with pytest.raises(UserError, match=f"prints no table '{name}' for {study}; it prints: optimal") as error:
            published(study, name)
        assert "\n" not in str(error.value)


def test_unknown_study_and_table_name_what_there_is() -> None:
    with pytest.raises(UserError, match=r"'demo' is not the paper's.*ade20k-effnet"):
        published("demo", "final")
    with pytest.raises(UserError, match=r"unknown table 'grids'.*temperature"):
        published("voc-resnet", "grids")

"""Tables over several studies: the paper's own, line by line as it prints them, and measured ones."""

import re

import pyarrow as pa
import pytest

from kdtune.answers.all_studies import ALL_STUDIES
from kdtune.answers.planned_grid import PlannedStudy
from kdtune.answers.published import published_all
from kdtune.answers.rendering import FORMATS, render_data
from kdtune.answers.tables import NAMES, Tables, table
from tests.support.finished_study import everything


def printed(name: str, form: str = "text") -> str:
    return render_data(name, published_all(name), None, form, layout=ALL_STUDIES[name])


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("optimal", "EffNet ResNet"),
        ("optimal", "PascalVOC 1e-2 5e-4 5e-3 5e-4"),  # Table 2b
        ("optimal", "Cityscapes 1e-1 5e-6 1e-2 5e-4"),
        ("optimal", "Cityscapes 5e-2 5e-6 1e-2 5e-4"),  # Table 3b
        ("optimal", "ADE20K 1e-2 5e-5 1e-2 5e-5"),
        ("grid", "\N{GREEK SMALL LETTER GAMMA} 1e-1 5e-2 1e-2 5e-3 5e-2 1e-2 5e-3"),
        ("grid", "5e-6 *64.60* 63.60 61.10 59.40 *70.55* 67.65 67.09"),  # Table 2a
        ("grid", "5e-4 40.40 46.90 62.80 61.10 66.44 *71.64* 70.54"),  # Table 3a
        ("temperature", "PascalVOC Cityscapes ADE20K"),
        ("temperature", "τ EffNet ResNet EffNet ResNet EffNet ResNet"),
        ("temperature", "3 _65.91_ ± 0.26 63.30 ± 0.44 65.08 ± 0.63 *72.75* ± 0.29 34.87 36.04"),  # Table 4
        ("weights", "λ_PA EffNet ResNet"),
        ("weights", "1e-1 63.09 *72.98*"),  # Table 5a
        ("weights", "1e-1 41.53 28.20"),
        ("weights", "1e-3 *66.01* 71.70"),
        ("final", "65.43 ± 0.38 64.50 ± 0.34 64.42 ± 0.46 70.45 ± 0.10 34.10 35.23"),  # Table 6
        ("final", "x x *66.72* ± 0.21 65.21 ± 0.28 65.00 ± 0.73 71.87 ± 1.14 35.22 36.50"),
        ("initialization", "L_CE *63.68* 57.50 63.63"),
        ("emissions", "S + KD 72.75 2.52 0.891 0.161 0.057"),
    ],
)
def test_the_papers_tables_are_laid_out_as_printed(name: str, line: str) -> None:
    assert line in [" ".join(text.split()) for text in printed(name).splitlines()]


def test_groups_span_their_columns_in_latex_and_join_them_in_markdown() -> None:
    latex = printed("temperature", "latex")
    assert r"\multicolumn{1}{c}{} & \multicolumn{2}{c}{PascalVOC} & \multicolumn{2}{c}{Cityscapes} &" in latex
    assert r"\cmidrule(lr){2-3} \cmidrule(lr){4-5} \cmidrule(lr){6-7}" in latex
    assert r"1 & \textbf{66.24} $\pm$ 0.46 &" in latex
    assert "| τ | PascalVOC EffNet | PascalVOC ResNet | Cityscapes EffNet |" in printed("temperature", "markdown")
    assert r"$\mu$(0) & $\gamma$" in printed("optimal", "latex")


@pytest.mark.parametrize("name", [name for name in NAMES if name != "trials"])
@pytest.mark.parametrize("form", FORMATS)
def test_every_table_of_all_studies_renders(name: str, form: str) -> None:
    assert name in ("cost", "terms") or printed(name, form)  # the paper has no such table
    data = table(name, both(), None)
    assert data.column_names[:3] == ["study", "dataset", "student"]
    assert set(data["study"].to_pylist()) == {"s", "t"}
    assert pa.null() not in data.schema.types
    assert render_data(name, data, None, form, layout=ALL_STUDIES[name])


def both(student: str = "efficientnet_b0") -> Tables:
    """The finished study twice, on one dataset, the second with a column that the first lacks."""
    one = everything()
    parts = []
    for data in (one.trials, one.history, one.optimal, one.final, one.emissions, one.nodes):
        other = data.set_column(0, "study", pa.array(["t"] * data.num_rows, pa.string()))
        if "lambda_cwd" in data.column_names:
            other = other.rename_columns([name.replace("lambda_cwd", "lambda_at") for name in data.column_names])
        parts.append(pa.concat_tables([data, other], promote_options="default"))
    plans = {"s": PlannedStudy("s", "camvid", "resnet18"), "t": PlannedStudy("t", "camvid", student)}
    return Tables(*parts[:-1], plans, parts[-1])


def test_measured_studies_are_crossed_by_dataset_and_student() -> None:
    lines = render_data(
        "temperature", table("temperature", both(), None), None, "text", layout=ALL_STUDIES["temperature"]
    )
    found = [" ".join(line.split()) for line in lines.splitlines()]
    assert found[1:3] == ["camvid", "τ EffNet ResNet"]
    assert "3 *73.00* ± 1.00 *73.00* ± 1.00" in found


def test_two_studies_of_one_student_go_by_their_names() -> None:
    data = table("temperature", both("resnet18"), None)
    lines = render_data("temperature", data, None, "text", layout=ALL_STUDIES["temperature"]).splitlines()
    assert lines[2].split() == ["τ", "s", "t"]


def test_stopped_and_diverged_cells_keep_their_words() -> None:
    printed = render_data("grid", table("grid", both(), None), None, "text", layout=ALL_STUDIES["grid"])
    found = [" ".join(line.split()) for line in printed.splitlines()]
    assert "5e-4 90.00 @ 300/900 *71.64* 90.00 @ 300/900 *71.64*" in found
    assert "5e-5 diverged failed diverged failed" in found
    assert "(*a*: best; a @ s/t: stopped at step s of t)" in found


def test_verdicts_name_their_study() -> None:
    data = both()
    pi = [
        {"study": "t", "stage": "final", "method": "pi", "start": "distill", "config_id": "p", "seed": s}
        for s in (11, 12)
    ]
    rows = [row | {"status": "completed", "miou": 71.0 + row["seed"], "trial_id": f"p{row['seed']}"} for row in pi]
    trials = pa.concat_tables([data.trials, pa.Table.from_pylist(rows, schema=data.trials.schema)])
    found = Tables(trials, data.history, data.optimal, data.final, data.emissions, data.planned)
    printed = render_data("final", table("final", found, None), None, "text", layout=ALL_STUDIES["final"])
    assert re.search(r"^t, L_CE \+ L_PI: \+12\.50 points .* provisional, 5 of 6 trials .* have ended$", printed, re.M)

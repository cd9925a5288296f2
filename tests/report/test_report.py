"""The report: what it says, that its numbers are the tables', that nothing of a user's files gets out of its place."""

import base64
import csv
import io
import re
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from kdtune import results
from kdtune.analysis import entropy
from kdtune.answers import significance, tables
from kdtune.answers.per_cost import UNITS, per_cost
from kdtune.answers.published import published
from kdtune.base import IGNORE, UserError
from kdtune.cli import main
from kdtune.datasets.colours import palette_of
from kdtune.datasets.demo import Demo
from kdtune.loading.images import read_directly
from kdtune.records.rows import NODES
from kdtune.records.storage import Record, Storage
from kdtune.report.facts import Contender
from kdtune.report.page import POLICY
from kdtune.report.panels import panels, predicted
from kdtune.report.study import heading, written
from kdtune.study.file import load_study
from kdtune.study.spec import StudySpec
from kdtune.study.trial_config import TrialConfig
from kdtune.training.evaluation import confusion
from tests.support import report_study
from tests.support.html_page import Page
from tests.support.launching import kdtune

STATUSES = {1: "stopped", 4: "stopped", 5: "diverged", 8: "failed"}
EVIL = "<script>alert(\"1\")</script>&amp;<b x='y'>$a_b$"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Storage, list[Record]]:
    """A study of every stage, with checkpoints of those that the panel shows."""
    storage = Storage(str(tmp_path_factory.mktemp("storage")), "demo")
    records = report_study.write(storage, report_study.demo(), statuses=STATUSES)
    for record in records:
        if record["row"]["stage"] in ("teacher", "final"):
            report_study.weights(storage, record)
    return storage, records


@pytest.fixture(scope="module")
def content(finished: tuple[Storage, list[Record]]) -> str:
    return report_study.page(finished[0])


@pytest.fixture(scope="module")
def page(content: str) -> Page:
    return Page(content)


def stored(storage: Storage) -> tables.Tables:
    return results(storage.study, storage.root).all()


def numbers(table: pa.Table) -> list[str]:
    """The columns of floats that are not null throughout."""
    return [
        name
        for name in table.column_names
        if pa.types.is_floating(table[name].type) and table[name].null_count < table.num_rows
    ]


def test_a_notebooks_backend_does_not_matter(finished: tuple[Storage, list[Record]], tmp_path: Path) -> None:
    """What `!kdtune report` inherits there names a package that may not be installed beside kdtune."""
    words = ("report", "demo", "--storage", finished[0].root, "-o", tmp_path / "report.html")
    done = kdtune(*words, env={"MPLBACKEND": "module://nowhere.at_all"})
    assert done.returncode == 0, done.stderr
    assert "</html>" in (tmp_path / "report.html").read_text()


def test_trials_are_the_parquets_to_the_last_digit(finished: tuple[Storage, list[Record]], page: Page) -> None:
    trials = pq.read_table(pa.BufferReader(finished[0].folder.read("trials.parquet")))
    shown = page.tables["trials"]
    assert shown.column("trial_id") == trials["trial_id"].to_pylist()
    assert {"miou", "lr", "weight_decay", "temperature", "energy_kwh", "lambda_pi"} <= set(numbers(trials))
    for name in numbers(trials):
        assert shown.floats(name) == trials[name].to_pylist(), name
    assert list(map(int, shown.column("step"))) == trials["step"].to_pylist()


def test_headings_are_words() -> None:
    """Of columns without a label, too; the files' own names stand in ``data-column``."""
    wanted = {
        "critic_lr_ho": "critic lr of HO",
        "size_cirkd_memory_pixel": "size of mem-p",
        "teacher_steps_run": "teacher steps run",
        "spare_kwh": "spare [kWh]",
    }
    assert {column: heading(column) for column in wanted} == wanted
    shown = "".join(written(pa.table({name: [1.0]}), "nodes") for name in [*NODES.names, "p_holm", "critic_lr_ho"])
    heads = re.findall(r"<th scope=\"col\"[^>]*>([^<]*)</th>", shown)
    assert len(heads) == len(NODES.names) + 1  # all but the study's
    assert [head for head in heads if "_" in head] == []


def test_costs_are_those_of_the_table(finished: tuple[Storage, list[Record]], page: Page) -> None:
    for unit, column in UNITS.items():
        expected = per_cost(tables.table("final", stored(finished[0]), "demo"), finished[0].table("trials"), unit)
        assert page.tables[f"per-{unit}"].floats(column) == expected[column].to_pylist()
        assert f"per-{unit}" in page.figures
    assert "the seconds of a training as it ran (fewer where it found stored what the teacher makes)" in page.words
    assert "teacher makes), without its evaluations, on a processor: means over seeds" in page.words
    assert "a training with a teacher of its own, without its evaluations, on a processor" in page.words


@pytest.mark.parametrize("name", ["optimal", "grid", "temperature", "weights", "final", "initialization"])
def test_every_table_of_results_is_there(finished: tuple[Storage, list[Record]], page: Page, name: str) -> None:
    table = tables.table(name, stored(finished[0]), "demo")
    assert table.num_rows
    for column in numbers(table):
        assert page.tables[name].floats(column) == table[column].to_pylist(), column


def test_a_figures_data_follows_it(finished: tuple[Storage, list[Record]], page: Page) -> None:
    tables_ = stored(finished[0])
    for table in ("grid", "temperature", "weights"):
        rows = tables.table(table, tables_, "demo").to_pylist()
        column = "miou_mean" if table == "temperature" else "miou"
        for stage in {row["stage"] for row in rows}:
            expected = [row[column] for row in rows if row["stage"] == stage]
            assert page.tables[f"{table}-{stage}"].floats(column) == expected
    final = [row for row in tables_.trials.to_pylist() if row["stage"] == "final"]
    shown = page.tables["classes"]
    names = list(Demo.class_names)
    for role, method in (("student", "student"), ("distilled", "pi+pa")):
        lists = [row["per_class_iou"] for row in final if row["method"] == method]
        means = {names[k]: statistics.fmean(iou[k] for iou in lists) for k in range(11)} | {names[11]: None}
        assert dict(zip(shown.column("class"), shown.floats(role), strict=True)) == means
    assert shown.column("class")[-1] == names[11]  # absent, so last
    assert shown.floats("distilled")[:-1] == sorted(shown.floats("distilled")[:-1], reverse=True)  # type: ignore[type-var]


def test_curves_hold_every_evaluation(finished: tuple[Storage, list[Record]], page: Page) -> None:
    found = []
    for name, text in page.texts.items():
        if name.startswith("curves-"):
            found += [
                (row["trial_id"], int(row["step"]), float(row["miou"])) for row in csv.DictReader(io.StringIO(text))
            ]
    history = finished[0].table("history")
    expected = zip(*(history[name].to_pylist() for name in ("trial_id", "step", "miou")), strict=True)
    assert sorted(found) == sorted(expected)
    assert {name for name in page.figures if name.startswith("curves-")} == {f"curves-{i}" for i in range(11)}


def test_the_answer_comes_first(finished: tuple[Storage, list[Record]], page: Page) -> None:
    final = {row["method"]: row["miou_mean"] for row in finished[0].table("final").to_pylist()}
    top = page.words.index("The best method is the student distilled with pi + pa")
    assert top < page.words.index("What this is")
    trials = finished[0].table("trials").to_pylist()
    assert final["pi+pa"] in page.values
    assert [value for value in page.values if value == pytest.approx(final["pi+pa"] - final["student"])]
    assert sum(row["energy_kwh"] for row in trials) in page.values
    saved = sum(row["steps_total"] - row["step"] for row in trials if row["status"] == "stopped")
    assert saved == 120
    assert saved in page.values
    assert sum(row["train_seconds"] / 3600 for row in trials) in page.values


def test_signs_of_the_grid(page: Page) -> None:
    """Stopped with their step, diverged and failed by name."""
    assert page.svg_words.count("@ 30") == 4
    assert page.svg_words.count("diverged") >= 2
    assert page.svg_words.count("failed") >= 2
    assert "2 hatched: stopped early" in page.words


def test_a_missing_cell_is_shown_as_missing(tmp_path: Path) -> None:
    storage, study = Storage(str(tmp_path), "demo"), report_study.demo()
    records = report_study.write(storage, study, stages=3)
    plan = storage.plan()
    gone = plan["student"][4]
    report_study.save(storage, study, plan, [record for record in records if record["row"]["trial_id"] != gone])
    found = Page(report_study.page(storage))
    assert "1 dashed: missing" in found.words
    assert len([value for value in found.tables["grid-student"].floats("miou") if value is not None]) == 8
    assert "10 of the 11 trials" in found.words


def test_nothing_can_run_or_load(page: Page) -> None:
    metas = [attributes for tag, attributes in page.tags if tag == "meta"]
    assert {"http-equiv": "Content-Security-Policy", "content": POLICY} in metas
    assert POLICY == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    for tag, attributes in page.tags:
        assert tag not in ("script", "iframe", "object", "embed", "form", "base", "foreignobject"), tag
        for key, value in attributes.items():
            assert not key.startswith("on"), (tag, key)
            if key in ("src", "href", "xlink:href"):
                assert value.startswith(("#", "data:")), (tag, value)
            assert "url(" not in value or re.fullmatch(r"(?:[^u]|u(?!rl\())*url\(#[\w-]+\)[^(]*", value), value


def test_every_figure_has_words_and_ids_of_its_own(page: Page) -> None:
    svgs = [attributes for tag, attributes in page.tags if tag == "svg" and "aria-hidden" not in attributes]
    assert len(svgs) >= 20
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in svgs)
    assert all(attributes["alt"] for tag, attributes in page.tags if tag == "img")
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    used = re.findall(r"url\(#([\w-]+)\)", " ".join(v for _, attributes in page.tags for v in attributes.values()))
    used += [attributes["xlink:href"][1:] for tag, attributes in page.tags if tag == "use"]
    assert used
    assert set(used) <= set(ids)


def test_a_report_is_the_same_twice(finished: tuple[Storage, list[Record]], content: str) -> None:
    assert report_study.page(finished[0]) == content


def pictures(page: Page) -> list[tuple[str, Image.Image]]:
    found = []
    for tag, attributes in page.tags:
        if tag == "img":
            content = base64.b64decode(attributes["src"].removeprefix("data:image/png;base64,"))
            found.append((attributes["alt"], Image.open(io.BytesIO(content)).convert("RGB")))
    return found


def test_panels_show_labels_and_predictions_in_the_datasets_colours(
    finished: tuple[Storage, list[Record]], page: Page
) -> None:
    shown = pictures(page)
    assert len(shown) == 4 * 5
    by_name = dict(shown)
    rows = {row["trial_id"]: row for row in finished[0].table("trials").to_pylist()}
    teacher = next(row for row in rows.values() if row["stage"] == "teacher")
    config = TrialConfig.model_validate_json(teacher["config"])
    split = read_directly(config.dataset, "val", None)
    palette = np.array(palette_of(config.dataset), np.uint8)
    network = config.student.build(config.dataset.num_classes)
    from kdtune.training.weights import load_weights, read_weights

    source = finished[0].checkpoint_uri(teacher["trial_id"])
    load_weights(network, read_weights(source), source)
    network.eval()
    for i in (6, 18, 30, 42):  # 48 images, evenly spaced
        name = split.names[i]
        np.testing.assert_array_equal(np.array(by_name[f"image of validation image {name}"]), split.image(i))
        label = split.label(i)
        drawn = np.array(by_name[f"label of validation image {name}"])
        counted = label != IGNORE
        np.testing.assert_array_equal(drawn[counted], palette[label[counted]])
        if (~counted).any():
            assert not (drawn[~counted][:, None] == palette[None]).all(axis=2).any()  # void looks like no class
        classes = predicted(network, config, split.image(i))
        np.testing.assert_array_equal(np.array(by_name[f"teacher of validation image {name}"]), palette[classes])
        assert float((classes == label)[counted].mean()) in page.values


def test_panels_predict_as_evaluations_do() -> None:
    trial = report_study.planned(report_study.demo(), "student")[0].config.replace(
        {"dataset.num_val": 2, "recipe.eval_window": [48, 64]}
    )
    for config in (trial, trial.replace({"recipe.eval_window": None})):
        torch.manual_seed(3)
        network = config.student.build(12).eval()
        split = read_directly(config.dataset, "val", None)
        matrix = confusion(network, config.student.preprocessing, split, config.recipe, torch.device("cpu"))
        counts = np.zeros((12, 12), np.int64)
        for i in range(2):
            label, classes = split.label(i), predicted(network, config, split.image(i))
            counted = label != IGNORE
            np.add.at(counts, (label[counted], classes[counted]), 1)
        np.testing.assert_array_equal(counts, matrix.numpy())


def test_what_is_not_there_is_one_line_in_its_place(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path), "demo")
    report_study.write(storage, report_study.demo(), given={"energy_kwh": None, "co2_kg": None, "per_class_iou": None})
    page = Page(report_study.page(storage))
    notes = " | ".join(page.notes)
    assert "no such weights file" in notes
    assert "kdtune teacher entropy" in notes
    assert "No trial has an energy reading" in notes
    assert "No energy of these trainings was measured" in notes
    assert {"per-seconds"} == {name for name in page.figures if name.startswith("per-")}
    assert "No trial has an IoU of each class" in notes
    assert "not metered" in page.words
    assert all("\n" not in line for line in page.notes)


def test_data_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    study = load_study("camvid-small")
    storage = Storage(str(tmp_path), study.name)
    records = report_study.write(storage, study, stages=2)
    for record in records:
        report_study.weights(storage, record)
    notes = Page(report_study.page(storage, str(tmp_path / "data"))).notes
    assert [line for line in notes if line.startswith("No images:") and "camvid" in line]


def test_a_damaged_checkpoint_is_one_line(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path), "demo")
    for record in report_study.write(storage, report_study.demo(), stages=3):
        (storage.folder / "checkpoints" / record["row"]["trial_id"]).write("student.safetensors", b"no weights")
    assert [line for line in Page(report_study.page(storage)).notes if "not a file of weights" in line]


def test_a_network_that_is_not_there_hides_no_other(tmp_path: Path) -> None:
    storage, study = Storage(str(tmp_path), "demo"), report_study.demo()
    records = report_study.write(storage, study, stages=3)
    rows = {record["row"]["stage"]: record["row"] for record in records}
    report_study.weights(storage, next(record for record in records if record["row"] is rows["student"]))
    contenders = [Contender(role, role, role, (rows[role],)) for role in ("student", "teacher")]
    _, shown, faults = panels(storage, contenders, None)
    assert [picture.title for picture in shown[0].pictures] == ["image", "label", "student"]
    (fault,) = faults
    assert fault.startswith("the teacher: ")
    assert "no such weights file" in fault


def test_a_running_study_is_told_so_far(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path), "demo")
    report_study.write(storage, report_study.demo(), stages=4)
    page = Page(report_study.page(storage))
    assert "So far the best is the distilled" in page.words
    assert "The study has not run to its end" in page.words
    assert [line for line in page.notes if "stage 'final'" in line]
    assert {"grid-0", "grid-1", "curves-3", "classes-0"} <= set(page.figures)


def test_a_study_of_a_teacher_alone(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path), "demo")
    report_study.write(storage, report_study.demo(), stages=1)
    page = Page(report_study.page(storage))
    assert [line for line in page.notes if "nothing can be compared" in line]


def test_no_result_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no results of study 'demo' there"):
        report_study.page(Storage(str(tmp_path), "demo"))
    study = report_study.demo()
    report_study.save(Storage(str(tmp_path), "demo"), study, {"teacher": []}, [])
    done = CliRunner().invoke(main, ["report", "demo", "--storage", str(tmp_path), "-o", str(tmp_path / "r.html")])
    assert done.exit_code == 2
    assert done.stderr.count("\n") == 1
    assert "no trial of study 'demo' has finished yet" in done.stderr
    assert not (tmp_path / "r.html").exists()


def test_the_command_writes_the_page(tmp_path: Path) -> None:
    report_study.write(Storage(str(tmp_path), "demo"), report_study.demo(), stages=1)
    target = tmp_path / "r.html"
    done = CliRunner().invoke(main, ["report", "demo", "--storage", str(tmp_path), "-o", str(target)])
    assert done.exit_code == 0, done.output
    assert done.stdout == ""
    assert target.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    refused = CliRunner().invoke(main, ["report", "demo", "--storage", str(tmp_path), "-o", str(tmp_path)])
    assert refused.exit_code == 2
    assert "cannot be written" in refused.stderr


def evil_study(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    """Every text that comes from a user's file tries to leave its place."""
    monkeypatch.setattr(Demo, "class_names", (EVIL, *Demo.class_names[1:]))
    study = report_study.demo(description=EVIL)
    storage = Storage(str(folder), "demo")
    records = report_study.write(storage, study, statuses=STATUSES, evaluations=2)
    plan: dict[str, list[str]] = {}
    given: dict[str, Any] = {"node": EVIL, "device": EVIL, "error": EVIL + "\x1b[31m\x00\ud800".replace("\ud800", "")}
    for record in records:
        row = record["row"] = record["row"] | given
        if row["stage"].startswith("weight-"):
            row["stage"] = EVIL
            row["trial_id"] = f"{EVIL}{len(plan.get(EVIL, []))}"
            for entry in record["history"]:
                entry |= {"stage": EVIL, "trial_id": row["trial_id"]}
        if row["method"] == "pi+ho":
            row["method"] = EVIL
        plan.setdefault(row["stage"], []).append(row["trial_id"])
    report_study.save(storage, study, plan, records)
    return storage


def test_what_users_write_stays_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = report_study.page(evil_study(tmp_path, monkeypatch))
    page = Page(content)
    test_nothing_can_run_or_load(page)
    assert "<script" not in content
    assert "<b x" not in content
    for word in (EVIL, f"stage {EVIL}"[:45]):
        assert any(word[:20] in text for text in page.svg_words), page.svg_words
    assert EVIL in page.tables["trials"].column("stage")
    assert EVIL in page.tables["trials"].column("node")
    assert EVIL in page.tables["final"].column("method")
    assert EVIL in page.tables["classes"].column("class")
    assert EVIL in page.words  # the description
    assert not re.search("[\x00-\x08\x0b-\x1f]", content)
    assert f"curves-{EVIL}" in page.texts


def test_the_papers_values_stand_behind(tmp_path: Path) -> None:
    study = load_study("cityscapes-resnet")
    storage = Storage(str(tmp_path), study.name)
    report_study.write(storage, study, evaluations=2)
    page = Page(report_study.page(storage))
    weights = set(published(study.name, "weights")["stage"].to_pylist())
    assert page.svg_words.count("published") == 2 + len(weights)  # temperature, methods
    for name, column in (("temperature", "miou_mean"), ("final", "miou_mean"), ("grid", "miou")):
        theirs = published(study.name, name)[column].to_pylist()
        shown = page.tables[f"{name}-published"].floats(f"{column}_published")
        assert [value for value in shown if value is not None] == [value for value in theirs if value is not None]


def test_points_on_no_grid_are_scattered(tmp_path: Path) -> None:
    study = report_study.demo()
    storage = Storage(str(tmp_path), "demo")
    data = study.model_dump(mode="json")
    data["stages"][2] |= {"search": "random", "samples": 6, "grid": {"recipe.lr": [0.1 * i for i in range(1, 9)],
                          "recipe.weight_decay": [1e-5 * i for i in range(1, 9)]}}  # fmt: skip
    report_study.write(storage, StudySpec.model_validate(data), stages=3)
    page = Page(report_study.page(storage))
    assert "grid-0" in page.figures
    assert "dashed" not in page.words
    assert len(page.tables["grid-student"].rows) == 6


def test_code_that_a_storage_names_is_not_run(tmp_path: Path) -> None:
    """A network of another package is built by importing what the configuration names."""
    module = tmp_path / "named_by_storage.py"
    module.write_text("raise SystemExit('it was imported')")
    network = {"name": "external", "builder": "named_by_storage:build"}
    trial = report_study.planned(report_study.demo(), "student")[0].config.replace(
        {"student": network, "warm_start": None}
    )
    row = {"trial_id": "t", "config": trial.model_dump_json(), "miou": 1.0}
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        with pytest.raises(UserError, match="a network of another package, whose code a report does not load"):
            panels(Storage(str(tmp_path), "demo"), [Contender("student", "student", "student", (row,))], None)


def test_a_network_of_another_package_is_built_where_the_users_own_study_names_it(tmp_path: Path) -> None:
    network = {"name": "external", "builder": "torchvision.models.segmentation:lraspp_mobilenet_v3_large"}
    trial = report_study.planned(report_study.demo(), "student")[0].config.replace(
        {"student": network, "warm_start": None}
    )
    row = {"trial_id": "t", "config": trial.model_dump_json(), "miou": 1.0}
    contenders = [Contender("student", "student", "student", (row,))]
    with pytest.raises(UserError, match="no such weights file"):  # the next thing that it needs
        panels(Storage(str(tmp_path), "demo"), contenders, None, trusted=[network["builder"]])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDTUNE_PY_MODULES", "torchvision")
        with pytest.raises(UserError, match="no such weights file"):
            panels(Storage(str(tmp_path), "demo"), contenders, None)


def test_a_study_file_that_is_a_link_is_not_shown(tmp_path: Path) -> None:
    """The page is to be shared; the link could name any file of the user's."""
    storage = Storage(str(tmp_path), "demo")
    report_study.write(storage, report_study.demo(), stages=1)
    (tmp_path / "secret").write_text("a secret")
    (tmp_path / "demo" / "study.yaml").unlink()
    (tmp_path / "demo" / "study.yaml").symlink_to(tmp_path / "secret")
    with pytest.raises(UserError, match=r"study\.yaml: is a link that leads out of the study"):
        report_study.page(storage)


def test_gains_are_those_of_the_tests_of_significance(finished: tuple[Storage, list[Record]], page: Page) -> None:
    found = significance.gains(finished[0].table("trials"), significance.Plan(3, 5))
    gains = [gain for gain in found if gain.reference == "student"]
    shown = page.tables["gains"]
    assert shown.column("method") == [gain.method for gain in gains]
    for name in ("difference", "low", "high", "p"):
        assert shown.floats(name) == [getattr(gain, name) for gain in gains]
    best = next(gain for gain in gains if gain.method == "pi+pa")
    assert {best.difference, best.low, best.high} <= set(page.values)
    assert best.verdict in page.words
    assert "gains" in page.figures


def test_the_teachers_entropy_is_shown(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path), "demo")
    for record in report_study.write(storage, report_study.demo(), stages=1):
        report_study.weights(storage, record)
    command = [
        "teacher",
        "entropy",
        "demo",
        "--storage",
        str(tmp_path),
        "--temperatures",
        "1,2",
        "--images",
        "2",
        "--whole",
    ]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    page = Page(report_study.page(storage))
    assert "entropy" in page.figures
    table = entropy.stored(storage.folder)
    for name in ("temperature", "low", "high", "share"):
        assert page.tables["entropy"].floats(name) == table[name].to_pylist()

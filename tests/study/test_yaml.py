"""What the versions 1.1 and 1.2 of YAML read differently is refused; the rest is read as 1.2 has it."""

import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from kdtune.base import UserError
from kdtune.records.stored_study import StoredStudy
from kdtune.study.file import load_study, read
from kdtune.study.given_model import given_model
from kdtune.study.loader import Ambiguous, Document, Loader
from kdtune.study.settings import parse_set

STUDY = """{mark}name: {name}
needs_gpu: false
base:
  dataset: {{name: demo, size: [32, 48], num_train: 4, num_val: 2}}
  student: {{name: pspnet, backbone: resnet18, width: 0.0625}}
  losses: {{ce: {{weight: 1.0}}}}
  recipe: {{lr: {lr}, weight_decay: 5e-4, crop: [32, 48], batch_size: 2, num_steps: 4, eval_every: 2}}
stages:
  - name: student
    grid: {{recipe.lr: [1e-1, 1e-2]}}
    seeds: {seeds}
"""


def study(folder: Path, mark: str = "", name: str = "s", lr: str = "0.1", seeds: str = "[0]") -> Path:
    path = folder / "s.yaml"
    path.write_text(STUDY.format(mark=mark, name=name, lr=lr, seeds=seeds), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "text",
    ["yes", "No", "ON", "off", "011", "-08", "1_000", "0b11", "0o17", "0x_F", "12:30", "1:30.5", "1_0.5", "00"],
)
def test_what_the_versions_read_differently(text: str) -> None:
    with pytest.raises(Ambiguous, match=r"in YAML 1\.1 and a.* in 1\.2"):
        yaml.load(f"[{text}]", Loader=Loader)
    assert yaml.load(f"['{text}']", Loader=Loader) == [text]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True), ("False", False), ("~", None), ("null", None), ("", None), ("0", 0), ("-0", 0), ("+12", 12),
        ("0x1F", 31), ("1e-4", 1e-4), (".5", 0.5), ("1.", 1.0), ("01.5", 1.5), ("-.inf", float("-inf")), ("1E5", 1e5),
        ("2026-01-02", "2026-01-02"), ("10.0.0.1:6379", "10.0.0.1:6379"), ("1.2.3", "1.2.3"), ("nope", "nope"),
    ],
)  # fmt: skip
def test_the_core_schema(text: str, value: Any) -> None:
    found = yaml.load(text, Loader=Loader)
    assert found == value
    assert type(found) is type(value)


def test_every_number_and_word_of_python_comes_back() -> None:
    values = [0, -3, 1e-5, 1.5, True, None, "no", "011", "1_000", "12:30", "2026-01-02", "x: y", "", float("inf")]
    assert yaml.load(yaml.safe_dump(values), Loader=Loader) == values


@pytest.mark.parametrize(
    ("change", "line", "fault"),
    [
        ({"seeds": "[011, 012]"}, 11, "'011' is one number in YAML 1.1 and another or a word in 1.2"),
        ({"name": "no"}, 1, "'no' is a truth value in YAML 1.1 and a word in 1.2: write true or false, or 'no'"),
        ({"lr": "1_0"}, 7, "'1_0' is one number"),
        ({"mark": "\t"}, 1, "not valid YAML: found character '\\t' that cannot start any token; indent with spaces"),
    ],
)
def test_the_line_of_a_study(change: dict[str, str], line: int, fault: str, tmp_path: Path) -> None:
    path = study(tmp_path, **change)
    with pytest.raises(UserError) as refused:
        load_study(path)
    assert str(refused.value).startswith(f"{path}:{line}: {fault}")


def test_a_mark_of_byte_order(tmp_path: Path) -> None:
    assert load_study(study(tmp_path, mark="\ufeff")).name == "s"


def test_set_and_model() -> None:
    with pytest.raises(UserError, match=r"--set recipe\.flip=no: 'no' is a truth value"):
        parse_set(["recipe.flip=no"])
    with pytest.raises(UserError, match=r"--model \{name: pspnet, width: 1_0\}: '1_0' is one number"):
        given_model("{name: pspnet, width: 1_0}")


@pytest.mark.parametrize(
    ("right", "wrong", "line"),
    [
        ("losses.pi: {weight: 0.5}", "losses.pi: {weight: -0.5}", 17),
        ("losses.pi: {weight: 0.5}", "losses.pi: {wieght: 0.5}", 17),
        ("width: 0.125", "width: 0", 16),
        ("recipe.lr: [1e-1, 1e-2]", "recipe.lr: [1e-1, x]", 10),
        ("seeds: [0]", "seeds: [a]", 11),
        ("losses.pi.temperature: [1, 4]", "losses.pi.temperature: [1, 0]", 21),
    ],
)
def test_one_fault_is_one_line(right: str, wrong: str, line: int, tmp_path: Path) -> None:
    """What starts from a faulty stage is not blamed for it, nor the whole for its part."""
    path = study(tmp_path)
    text = path.read_text() + FURTHER
    assert right in text
    path.write_text(text.replace(right, wrong))
    faults, spec = read(path)
    assert spec is None
    assert [fault.split(": ")[0] for fault in faults] == [f"{path}:{line}"], faults


FURTHER = """
  - name: distill
    start_from: [student]
    set:
      teacher: {model: {name: pspnet, backbone: resnet18, width: 0.125}, checkpoint: t.pt}
      losses.pi: {weight: 0.5}
    grid: {recipe.weight_decay: [1e-4, 5e-4]}
  - name: temperature
    start_from: [distill]
    grid: {losses.pi.temperature: [1, 4]}
    seeds: [1, 2]
  - name: final
    start_from: [student, temperature]
    seeds: [3, 4]
"""


def laughs(levels: int) -> str:
    """A list of ten times the list before, and so on: 43 bytes a level stand for ten times as many values."""
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{i}: &a{i} [{', '.join(10 * [f'*a{i - 1}'])}]" for i in range(1, levels)]
    return "\n".join(lines) + "\n"


MERGED = "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [{', '.join(10 * [f'*a{i - 1}'])}]}}\n" for i in range(1, 9))
HARM = {
    "aliases": (laughs(9), "aliases (*a3) stand for more than 100000 values"),
    "merged": (MERGED, "stand for more than 100000 values"),
    "long text": (f"a: &a '{6400 * 'x'}'\nb: [{', '.join(1000 * ['*a'])}]", "stand for more than 100000 values"),
    "brackets": (5000 * "[", "more than 100 parts within each other"),
    "braces": (5000 * "{a: " + 5000 * "}", "more than 100 parts within each other"),
    "dashes": (5000 * "- " + "x", "more than 100 parts within each other"),
    "digits": (f"name: {5000 * '9'}", "holds a value that cannot be read: Exceeds the limit"),
}


@pytest.mark.parametrize("harm", HARM)
def test_a_file_that_means_more_than_its_size(harm: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Each is refused in one line, at once, wherever files of others are read."""
    text, told = HARM[harm]
    path = tmp_path / "s" / "study.yaml"
    path.parent.mkdir()
    path.write_text(text)
    began = time.process_time()
    faults, spec = read(path)
    assert spec is None
    assert told in faults[0]
    for parse in (lambda: parse_set([f"a={text}"]), lambda: given_model(str(path))):
        with pytest.raises(UserError) as refused:
            parse()
        assert told in str(refused.value)
    assert StoredStudy(str(tmp_path), "s").read_study() is None
    assert "study.yaml: damaged, and skipped" in caplog.text
    assert time.process_time() - began < 5  # without limits, for ever


def test_a_number_of_underscores_is_read_at_once() -> None:
    began = time.process_time()
    assert Document("a: 1" + 5000 * "_" + "x").value() == {"a": "1" + 5000 * "_" + "x"}
    assert time.process_time() - began < 1  # once: twice as long with each underscore


def test_a_date_that_is_none_ends_nothing(tmp_path: Path) -> None:
    """The loader of what lies in storage makes dates."""
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "study.yaml").write_text("name: 2026-13-45\n")
    assert StoredStudy(str(tmp_path), "s").read_study() is None


def test_aliases_that_spare_writing_are_read(tmp_path: Path) -> None:
    mark = "parts: &parts {losses.ce.weight: 1.0}\n"
    found = Document(mark + "stages: [{set: *parts}, {set: {<<: *parts, x: 2}}]").value()
    assert found["stages"] == [{"set": {"losses.ce.weight": 1.0}}, {"set": {"losses.ce.weight": 1.0, "x": 2}}]

"""A study of three stages that tests bend out of shape; small enough to train in a second."""

from pathlib import Path

from kdtune.study.file import read
from kdtune.study.spec import StudySpec

TEXT = """\
name: small
base:
  dataset: {name: demo, size: [32, 48], num_train: 4, num_val: 2}
  student: {name: pspnet, backbone: resnet18, width: 0.125}
  losses:
    ce: {weight: 1.0}
  recipe: {lr: 1e-2, weight_decay: 5e-4, crop: [32, 48], batch_size: 2, num_steps: 2}

stages:
  - name: student
    grid:
      recipe.lr: [1e-1, 1e-2]
  - name: distill
    set:
      teacher: {model: {name: pspnet, backbone: resnet18, width: 0.25}, checkpoint: t.safetensors}
      losses.pi: {weight: 0.1, temperature: 1.0}
    grid:
      losses.pi.temperature: [1, 2]
  - name: final
    start_from: [student, distill]
    seeds: [11, 12]
"""


def write(folder: Path, *changes: tuple[str, str], text: str = TEXT) -> Path:
    """``small.yaml`` in a folder, each first string replaced by its second."""
    for old, new in changes:
        assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in the small study"
        text = text.replace(old, new)
    path = folder / "small.yaml"
    path.write_text(text)
    return path


def small(folder: Path, *changes: tuple[str, str]) -> StudySpec:
    """The small study, loaded; it must be valid."""
    faults, spec = read(write(folder, *changes))
    assert spec is not None, faults
    return spec

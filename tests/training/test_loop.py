"""The loop: equal runs, exact resume, and numbers by hand."""

import copy
import functools
import importlib
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kdtune.base import IGNORE, Loss, Preprocessing, SegNet, SegOutput, Tap, UserError
from kdtune.loading.batches import train_batches
from kdtune.loading.pack import Packed
from kdtune.study.trial_config import Teacher, TrialConfig
from kdtune.training import trial
from kdtune.training.compiling import compiled
from kdtune.training.energy import Amount
from kdtune.training.evaluation import confusion, intersection_over_union, sliding
from kdtune.training.loop import CHECK_EVERY, Run, fit, poly_rate
from kdtune.training.site import Site, load_splits
from kdtune.training.teaching import Live
from kdtune.training.trial import frozen_teacher
from kdtune.training.weights import weights_bytes
from tests.support.alone import alone
from tests.support.golden import Case, cases
from tests.support.tiny import config, evaluations, noise, teacher, through_a_file, untimed

CPU = torch.device("cpu")
PLAIN = Preprocessing(mean=(0, 0, 0), std=(1, 1, 1))
pytestmark = pytest.mark.usefixtures("one_thread")


def distilled(folder: Path, **terms: dict[str, Any]) -> TrialConfig:
    losses = {f"losses.{name}": term for name, term in terms.items()}
    return config({"teacher": teacher(folder), **losses})


def last_state(which: TrialConfig) -> Run:
    return list(trial.run(which, Site()))[-1][1]


class Echo(SegNet):
    """A network whose prediction is the image's red channel."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.num_classes = classes

    def forward(self, image: Tensor, taps: frozenset[Tap] = frozenset()) -> SegOutput:
        red = image[:, 0].round().long()
        return SegOutput(F.one_hot(red, self.num_classes).permute(0, 3, 1, 2).float())


def test_student_and_teacher_see_the_same_crop_each_in_its_own_way(tmp_path: Path) -> None:
    """A teacher whose first convolution undoes BGR and SKD's mean is the teacher that saw ImageNet's way."""
    # so small a step that the student hardly moves: with larger ones the rounding of the first grows from step to step
    which = distilled(tmp_path, pi={"weight": 1.0}).replace({"recipe.lr": 1e-4})
    bgr = {"order": "bgr", "mean": [103.53, 116.28, 123.675], "std": [57.375, 57.12, 58.395]}
    turned = which.replace({"teacher.model.preprocessing": bgr})
    source = which.teacher.checkpoint  # type: ignore[union-attr]
    network = frozen_teacher(which.teacher, source, 12, CPU)  # type: ignore[arg-type]
    mirrored = copy.deepcopy(network)
    first = mirrored.backbone.conv1
    assert isinstance(first, torch.nn.Conv2d)
    first.weight.copy_(first.weight.flip(1))
    train, val = load_splits(which, Site())

    def values(trial_config: TrialConfig, teacher_network: SegNet) -> list[float | None]:
        torch.manual_seed(0)
        student = trial_config.student.build(12)
        losses = {name: term.build(student, teacher_network) for name, term in trial_config.losses.items()}
        run = Run(student, losses, trial_config.recipe)
        taught = Live(trial_config, lambda: teacher_network, CPU)
        return [e.losses["pi"] for e in fit(trial_config, run, taught, train, val, CPU)]

    told = values(which, network)
    assert values(turned, mirrored) == pytest.approx(told, rel=1e-4)
    assert values(turned, network) != pytest.approx(told, rel=1e-2)


# the metric and the rate, against the authors' code


def predicted(case: Case) -> Packed:
    """A split whose red channel is the golden prediction."""
    labels, pred = case.input("labels").numpy(), case.input("pred").numpy()
    count, height, width = labels.shape
    return Packed(
        names=tuple(map(str, range(count))),
        images=np.repeat(pred.reshape(-1, 1), 3, axis=1).astype(np.uint8),
        labels=labels.reshape(-1).astype(np.uint8),
        sizes=np.array([(height, width)] * count),
        first=np.arange(count) * height * width,
    )


@pytest.mark.parametrize("case", cases("skd_miou", "cirkd_metric", "semseg_metric"))
def test_miou_is_the_references(case: Case) -> None:
    recipe = config({"recipe.eval_batch_size": 2}).recipe
    matrix = confusion(Echo(len(case.arrays["out.iou"])), PLAIN, predicted(case), recipe, CPU)
    miou, per_class = intersection_over_union(matrix, "zero")
    assert miou == pytest.approx(100 * float(case.arrays["out.miou"]), rel=1e-7)  # CIRKD sums in float32
    assert per_class == pytest.approx((100 * case.arrays["out.iou"]).tolist(), rel=1e-7)
    if "out.confusion" in case.arrays:
        assert torch.equal(matrix, torch.from_numpy(case.arrays["out.confusion"]))
    present = [value for value in per_class if value != 0]
    skipped, skipped_per_class = intersection_over_union(matrix, "skip")
    assert skipped == pytest.approx(sum(present) / len(present))
    assert skipped_per_class == [None if value == 0 else value for value in per_class]


@pytest.mark.parametrize("case", cases("skd_polylr", "semseg_polylr"))
def test_the_rate_is_the_references(case: Case) -> None:
    for base, i, total, power, expected in case.arrays["rows"]:
        assert poly_rate(base, i, total, power) == pytest.approx(expected, rel=1e-12)


class Convolution(SegNet):
    """The golden case's network: one convolution of stride 8, in the input's precision."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight, self.num_classes = weight, len(weight)
        self.batches: list[int] = []

    def forward(self, image: Tensor, taps: frozenset[Tap] = frozenset()) -> SegOutput:
        self.batches.append(len(image))
        return SegOutput(F.conv2d(image, self.weight.to(image), stride=8, padding=4))


@pytest.mark.parametrize("at_once", [1, 3, 100])
@pytest.mark.parametrize("case", cases("skd_sliding"))
def test_sliding_is_the_references(case: Case, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    window = tuple(case.args["tile_size"])
    monkeypatch.setattr("kdtune.training.evaluation.MAX_PIXELS", at_once * window[0] * window[1])
    network, image = Convolution(case.input("conv_weight")), case.input("image")
    two = torch.cat((image, image.flip(-1)))
    logits = sliding(lambda tiles: network(tiles).logits, two, window)
    case_logits = case.out("mean_logits").permute(2, 0, 1)
    torch.testing.assert_close(logits[0], case_logits, rtol=0, atol=1e-6 * float(case_logits.abs().max()))
    assert torch.equal(logits[0].argmax(0), case.out("argmax").long())
    assert max(network.batches) == min(at_once, 2 * 2 * 3)  # tiles of both images share batches
    alone = sliding(lambda tiles: network(tiles).logits, two[1:], window)
    torch.testing.assert_close(alone[0], logits[1], rtol=1e-12, atol=1e-12)


def test_a_window_larger_than_the_image_pads_it() -> None:
    network, image = Convolution(torch.randn(5, 3, 9, 9)), torch.randn(2, 3, 40, 130)
    logits = sliding(lambda tiles: network(tiles).logits, image, (65, 200))
    padded = F.pad(image, (0, 70, 0, 25))
    expected = F.interpolate(network(padded).logits, size=(65, 200), mode="bilinear", align_corners=True)
    torch.testing.assert_close(logits, expected[..., :40, :130])
    thin = sliding(lambda tiles: network(tiles).logits, image[..., :9, :9], (65, 65))
    assert thin.shape == (2, 5, 9, 9)


def plainly_slid(network: Convolution, image: Tensor, window: tuple[int, int]) -> Tensor:
    """The mean over tiles two thirds of a window apart, tile by tile and pixel by pixel."""
    height, width = (max(side, tile) for side, tile in zip(image.shape[-2:], window, strict=True))
    padded = torch.zeros(1, 3, height, width)
    padded[..., : image.shape[-2], : image.shape[-1]] = image
    places: list[list[int]] = []
    for whole, tile in zip((height, width), window, strict=True):
        begins = [0]
        while begins[-1] + tile < whole:
            begins.append(min(begins[-1] + -(-2 * tile // 3), whole - tile))
        places.append(begins)
    total, count = torch.zeros(network.num_classes, height, width), torch.zeros(height, width)
    for y in places[0]:
        for x in places[1]:
            part = (slice(y, y + window[0]), slice(x, x + window[1]))
            logits = network(padded[:, :, *part]).logits
            total[:, *part] += F.interpolate(logits, size=window, mode="bilinear", align_corners=True)[0]
            count[part] += 1
    assert count.min() > 0
    return (total / count)[:, : image.shape[-2], : image.shape[-1]]


@pytest.mark.parametrize(
    "window", [(72, 36), (36, 72), (70, 9), (9, 70), (1, 40), (72, 96), (73, 97), (100, 20), (20, 100), (200, 200)]
)
def test_no_shape_of_a_window_leaves_a_pixel_out(window: tuple[int, int]) -> None:
    network, image = Convolution(torch.randn(5, 3, 9, 9)), torch.randn(1, 3, 72, 96)
    logits = sliding(lambda tiles: network(tiles).logits, image, window)
    assert logits.isfinite().all()
    torch.testing.assert_close(logits[0], plainly_slid(network, image, window))


def test_an_evaluation_slides_where_the_recipe_says() -> None:
    split, network = noise([(64, 96)] * 3 + [(30, 50)]), Convolution(torch.randn(12, 3, 9, 9))
    whole = confusion(network, PLAIN, split, config().recipe, CPU)
    assert network.batches == [3, 1]
    same = noise([(64, 96)] * 3)
    one_tile = confusion(network, PLAIN, same, config({"recipe.eval_window": [64, 96]}).recipe, CPU)
    assert torch.equal(one_tile, confusion(network, PLAIN, same, config().recipe, CPU))
    tiles = confusion(network, PLAIN, split, config({"recipe.eval_window": [48, 48]}).recipe, CPU)
    assert tiles.sum() == whole.sum() == (split.labels != IGNORE).sum()
    assert not torch.equal(tiles, whole)


def test_absent_classes_by_hand() -> None:
    matrix = torch.tensor([[3, 1, 0, 0], [0, 2, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    assert intersection_over_union(matrix, "skip") == (
        pytest.approx((75 + 200 / 3) / 2),
        [75, pytest.approx(200 / 3), None, None],
    )
    assert intersection_over_union(matrix, "zero")[0] == pytest.approx((75 + 200 / 3) / 4)
    wrong = torch.tensor([[0, 1], [0, 0]])  # class 1 is predicted only: it is not absent
    assert intersection_over_union(wrong, "skip") == (0, [0, 0])
    with pytest.raises(UserError, match="no pixel of the validation images has a class"):
        intersection_over_union(torch.zeros(2, 2), "skip")


def test_logits_are_enlarged_corner_to_corner() -> None:
    class Coarse(Echo):
        def forward(self, image: Tensor, taps: frozenset[Tap] = frozenset()) -> SegOutput:
            logits = torch.zeros(len(image), 2, 1, 2)
            logits[:, 1, :, 1] = 2.0
            logits[:, 0, :] = 0.9  # class 1 wins where its share is above 0.45
            return SegOutput(logits)

    split = replace(noise([(1, 11)]), labels=np.array([0] * 5 + [1] * 6, dtype=np.uint8))
    matrix = confusion(Coarse(2), PLAIN, split, config().recipe, CPU)
    assert matrix.tolist() == [[5, 0], [0, 6]]  # shares 0, 0.1, ... 1.0


# equal runs


def test_equal_configs_are_equal_runs_to_the_last_bit(tiny: TrialConfig) -> None:
    first, other = evaluations(tiny), evaluations(tiny.replace({"seed": 1}))
    assert evaluations(tiny) == first
    assert other[0][0]["loss"] != first[0][0]["loss"]
    assert other[1] != first[1]


def test_nothing_leaks_from_one_trial_to_the_next(tmp_path: Path) -> None:
    one = distilled(tmp_path, pi={"weight": 0.5}, ifv={"weight": 1.0})
    two = distilled(tmp_path, pa={"weight": 0.5}).replace({"seed": 3, "recipe.lr": 0.5})
    first = evaluations(one)
    evaluations(two)
    assert evaluations(one) == first


TERMS = {
    "ce": {},
    "pi": {"pi": {"weight": 0.5, "temperature": 2.0}},
    "ho": {"ho": {"weight": 0.1}},
}


@pytest.mark.parametrize("terms", TERMS.values(), ids=TERMS)
def test_resume_from_any_evaluation_equals_undisturbed(tmp_path: Path, terms: dict[str, Any]) -> None:
    which = distilled(tmp_path, **terms).replace({"recipe.num_steps": 4, "recipe.eval_every": 1})
    assert which.student.dropout > 0
    history, saved = [], []
    for evaluation, state in trial.run(which, Site()):
        history.append(untimed(evaluation))
        saved.append(through_a_file(state.state_dict()))
    end = saved.pop()
    for step, checkpoint in enumerate(saved, start=1):
        torch.manual_seed(step)  # another process: whatever its generator stands at
        resumed = list(trial.run(which, Site(), checkpoint))
        assert [untimed(evaluation) for evaluation, _ in resumed] == history[step:]
        same_state(through_a_file(resumed[-1][1].state_dict()), end)


def same_state(one: Any, other: Any) -> None:
    """To the last bit, but for seconds."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one.keys() - {"seconds"}:
            same_state(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            same_state(left, right)
    elif isinstance(one, Tensor):
        assert torch.equal(one, other)
    else:
        assert one == other


def test_the_students_first_weights_do_not_depend_on_the_loss(tmp_path: Path) -> None:
    alone = config({"recipe.num_steps": 0})
    many = distilled(tmp_path, pi={"weight": 1.0}, ho={"weight": 1.0}).replace({"recipe.num_steps": 0})
    assert evaluations(alone)[1] == evaluations(many)[1]


def test_a_term_draws_the_same_whether_others_are_there(tmp_path: Path) -> None:
    alone = distilled(tmp_path, ho={"weight": 1.0}).replace({"recipe.num_steps": 0})
    many = alone.replace({"losses.pi": {"weight": 1.0}})
    same_state(last_state(alone).losses["ho"].state_dict(), last_state(many).losses["ho"].state_dict())


def test_evaluating_leaves_the_training_alone(tiny: TrialConfig) -> None:
    rare, often = (evaluations(tiny.replace({"recipe.eval_every": every})) for every in (6, 1))
    assert rare[1] == often[1]
    assert rare[0][-1]["miou"] == often[0][-1]["miou"]


def test_weight_zero_is_absent(tmp_path: Path) -> None:
    nowhere = {**teacher(tmp_path), "checkpoint": str(tmp_path / "nowhere.safetensors")}  # not even looked for
    zero = config({"teacher": nowhere, "losses.pi": {"weight": 0.0}, "losses.ho": {"weight": 0}})
    assert evaluations(zero) == evaluations(config())


def test_no_steps_only_evaluate(tiny: TrialConfig) -> None:
    which = tiny.replace({"recipe.num_steps": 0})
    ((evaluation, state),) = list(trial.run(which, Site()))
    torch.manual_seed(0)
    assert weights_bytes(state.student) == weights_bytes(which.student.build(12))
    assert (evaluation.step, evaluation.loss, evaluation.losses, evaluation.grad_norms) == (0, None, {}, {})
    assert evaluation.miou is not None
    assert not evaluation.diverged


def test_every_image_of_an_evaluation_is_billed_once(tiny: TrialConfig) -> None:
    """Readings a kWh apart: three times two steps, three evaluations of four images; in the second none can be read."""
    readings = iter([0, 1, 2, 3, 3, 4, 5])
    state = list(trial.run(tiny, Site(), spent=lambda: Amount(float(next(readings)))))[-1][1]
    assert state.bill.training.kwh == 3
    assert state.bill.inference.kwh == 2
    assert state.bill.images == 2 * 4
    assert next(readings, None) is None


# numbers by hand


def masked_loss(output: SegOutput, target: Tensor, counted: Tensor) -> Tensor:
    """Cross-entropy of both heads over the counted pixels, by a mask and without an ignored label."""
    assert output.aux is not None
    total = torch.zeros(())
    for weight, logits in ((1.0, output.logits), (0.4, output.aux)):
        up = F.interpolate(logits, size=target.shape[-2:], mode="bilinear", align_corners=True)
        each = -up.log_softmax(1).gather(1, target.where(counted, 0)[:, None])[:, 0]
        total = total + weight * (each * counted).sum() / counted.sum()
    return total


def test_one_step_by_hand_with_ignored_pixels() -> None:
    which = config({"student.dropout": 0.0, "recipe.num_steps": 2, "recipe.eval_every": 1})
    split = noise([(32, 48)] * 4)
    split.labels.reshape(4, 32, 48)[:, :, 10:30] = IGNORE
    torch.manual_seed(5)
    student = which.student.build(12)
    by_hand = copy.deepcopy(student).train()
    losses = {"ce": which.losses["ce"].build(student, None)}
    evaluation = next(fit(which, Run(student, losses, which.recipe), None, split, split, CPU))

    batch = next(iter(train_batches(split, which.recipe, which.seed, 0, CPU)))
    image, target = batch.image(Preprocessing()), batch.target
    assert 0.2 < (target == IGNORE).float().mean() < 0.9
    loss = masked_loss(by_hand(image), target, target != IGNORE)
    grads = torch.autograd.grad(loss, list(by_hand.parameters()))
    norm = float(torch.cat([grad.flatten() for grad in grads]).norm())
    assert evaluation.losses["ce"] == pytest.approx(float(loss.detach()), rel=1e-5)
    assert evaluation.grad_norms["ce"] == pytest.approx(norm, rel=1e-4)
    rate = 0.05 * 0.5**0.9
    assert evaluation.lr_now == pytest.approx(rate)
    for (name, before), after, grad in zip(by_hand.named_parameters(), student.parameters(), grads, strict=True):
        expected = before - rate * (grad + 5e-4 * before)
        torch.testing.assert_close(after, expected, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


def test_losses_are_means_since_the_last_evaluation(tmp_path: Path) -> None:
    which = distilled(tmp_path, pi={"weight": 0.5})
    each, _ = evaluations(which.replace({"recipe.eval_every": 1}))
    third, _ = evaluations(which.replace({"recipe.eval_every": 3}))
    assert [row["step"] for row in third] == [3, 6]
    for row, steps in zip(third, (each[:3], each[3:]), strict=True):
        assert row["loss"] == pytest.approx(np.mean([step["loss"] for step in steps]), rel=1e-5)
        for name in ("ce", "pi"):
            assert row["losses"][name] == pytest.approx(np.mean([step["losses"][name] for step in steps]), rel=1e-5)
        assert row["grad_norms"] == steps[-1]["grad_norms"]  # of that step alone
    for row in each:
        assert row["loss"] == pytest.approx(row["losses"]["ce"] + 0.5 * row["losses"]["pi"], rel=1e-5)
        assert all(0 < norm < 1e3 for norm in row["grad_norms"].values())


def test_the_rate_falls_from_the_first_step_to_zero(tiny: TrialConfig) -> None:
    history, _ = evaluations(tiny.replace({"recipe.eval_every": 1}))
    assert [row["lr_now"] for row in history] == pytest.approx([0.05 * (1 - i / 6) ** 0.9 for i in range(1, 7)])


class Diary(Loss):
    """A term that notes the progress that it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[float] = []

    def forward(self, student: SegOutput, teacher: SegOutput | None, target: Tensor) -> Tensor:
        return student.logits.mean()

    def after_step(self, student: SegOutput, teacher: SegOutput | None, target: Tensor, progress: float) -> None:
        self.told.append(progress)


def test_a_term_is_told_the_progress_after_each_step(tiny: TrialConfig) -> None:
    split, diary = noise([(32, 48)] * 4), Diary()
    state = Run(tiny.student.build(12), {"ce": diary}, tiny.recipe)
    list(fit(tiny, state, None, split, split, CPU))
    assert diary.told == pytest.approx([i / 6 for i in range(1, 7)])


def test_seconds_count_steps_and_waiting_for_data_but_no_evaluation(
    tiny: TrialConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]

    def slow(*arguments: Any) -> Any:
        for batch in train_batches(*arguments):
            clock[0] += 10  # reading
            yield batch

    monkeypatch.setattr("kdtune.training.loop.time.perf_counter", lambda: clock[0])
    monkeypatch.setattr("kdtune.training.loop.train_batches", slow)
    split, seconds = noise([(32, 48)] * 4), []
    state = Run(tiny.student.build(12), {"ce": tiny.losses["ce"].build(tiny.student.build(12), None)}, tiny.recipe)
    for evaluation in fit(tiny, state, None, split, split, CPU):
        seconds.append(evaluation.seconds)
        clock[0] += 1000  # whoever runs the loop writes its journal
    assert seconds == [20, 40, 60]


def test_a_loss_that_is_not_finite_ends_at_the_first_look(tiny: TrialConfig) -> None:
    for every, step in ((20, CHECK_EVERY), (6, 6)):
        wild = tiny.replace({"recipe.lr": 1e9, "recipe.num_steps": 40, "recipe.eval_every": every})
        (last,) = evaluations(wild)[0]
        assert last["diverged"]
        assert last["step"] == step
        assert (last["miou"], last["loss"], last["losses"], last["per_class_iou"]) == (None, None, {"ce": None}, [])


class Breaks(Loss):
    """A term whose value, or the gradient of it, is NaN from a step on."""

    def __init__(self, step: int, *, gradient: bool = False) -> None:
        super().__init__()
        self.step, self.gradient, self.calls = step, gradient, 0

    def forward(self, student: SegOutput, teacher: SegOutput | None, target: Tensor) -> Tensor:
        self.calls += 1
        if self.calls < self.step:
            return student.logits.mean()
        if self.gradient:
            return (0 * student.logits).abs().sqrt().sum()  # 0, with a slope of infinity times 0
        return student.logits.mean() * float("nan")


@pytest.mark.parametrize(
    ("terms", "error"),
    [
        ({"x": Breaks(3)}, "losses.x is not finite at step 3; losses.ce still was"),
        ({"x": Breaks(3), "y": Breaks(3)}, "losses.x, losses.y are not finite at step 3; losses.ce still was"),
        ({"x": Breaks(3), "y": Breaks(5)}, "losses.x is not finite at step 3; losses.ce, losses.y still was"),
        (
            {"x": Breaks(3, gradient=True)},
            "losses.ce, losses.x are not finite at step 4, all at once: the weights were not finite any more",
        ),
        ({"x": Breaks(6, gradient=True)}, "the student's weights are not finite after step 6"),
    ],
)
def test_a_term_that_is_not_finite_is_named(tiny: TrialConfig, terms: dict[str, Loss], error: str) -> None:
    """The first step that is not finite tells the term; by the next one its gradient has spoilt every other."""
    which = tiny.replace({"recipe.eval_every": 6})
    which = which.model_copy(update={"losses": which.losses | {n: which.losses["ce"] for n in terms}})
    student, split = tiny.student.build(12), noise([(32, 48)] * 4)
    state = Run(student, {"ce": which.losses["ce"].build(student, None), **copy.deepcopy(terms)}, which.recipe)
    (last,) = fit(which, state, None, split, split, CPU)
    assert (last.diverged, last.step, last.miou, last.error) == (True, 6, None, error)


# the teacher


@pytest.fixture
def watched(tmp_path: Path) -> tuple[TrialConfig, SegNet]:
    """A trial with every term, and the teacher that it will use."""
    which = distilled(tmp_path, pi={"weight": 1.0}, pa={"weight": 1.0}, ifv={"weight": 1.0}, ho={"weight": 1.0})
    which = which.replace({"recipe.num_steps": 2, "recipe.eval_every": 1})
    assert isinstance(which.teacher, Teacher)
    return which, frozen_teacher(which.teacher, which.teacher.checkpoint, 12, CPU)


def test_the_teacher_is_frozen(watched: tuple[TrialConfig, SegNet]) -> None:
    which, network = watched
    before = copy.deepcopy(network.state_dict())
    hits = frozen_teacher.cache_info().hits
    for _ in trial.run(which, Site()):
        assert not any(module.training for module in network.modules())
        assert all(p.grad is None and not p.requires_grad for p in network.parameters())
        same_state(dict(network.state_dict()), dict(before))
    assert frozen_teacher.cache_info().hits == hits + 1  # it was this very network


def test_given_weights_are_what_the_teacher_says(tmp_path: Path) -> None:
    one = distilled(tmp_path, pi={"weight": 1.0})
    torch.manual_seed(1)
    other = tmp_path / "other.safetensors"
    other.write_bytes(weights_bytes(config().student.build(12)))
    assert one.teacher is not None
    found = list(trial.run(one, Site(files={one.teacher.checkpoint: str(other)})))
    again = list(trial.run(one.replace({"teacher.checkpoint": str(other)}), Site()))
    assert untimed(found[-1][0]) == untimed(again[-1][0])
    assert untimed(found[-1][0]) != evaluations(one)[0][-1]


def test_a_warm_start_gives_the_backbone(tmp_path: Path) -> None:
    given = teacher(tmp_path, classes=5)["checkpoint"]
    which = config({"warm_start": {"checkpoint": given}, "recipe.num_steps": 0})
    start = last_state(which).student
    torch.manual_seed(99)
    source = which.student.build(5)
    same_state(dict(start.backbone.state_dict()), dict(source.backbone.state_dict()))
    torch.manual_seed(0)
    assert torch.equal(start.classifier.weight, which.student.build(12).classifier.weight)


def test_the_splits_are_the_datasets(tiny: TrialConfig) -> None:
    train, val = load_splits(tiny, Site())
    assert (len(train), len(val)) == (8, 4)


def place_of_compiled_code(folder: str, taken: bool) -> str:
    os.environ.pop("TORCHINDUCTOR_CACHE_DIR", None)
    tempfile.tempdir = folder
    if taken:
        Path(folder, f"kdtune-{os.getuid()}").mkdir()
        Path(folder, f"kdtune-{os.getuid()}").chmod(0o777)
    compiled(torch.nn.Linear(1, 1))
    return importlib.import_module("torch._inductor.runtime.cache_dir_utils").cache_dir()


def test_compiled_code_is_kept_where_nobody_else_writes(tmp_path: Path) -> None:
    """Torch would load it from a folder of a known name in /tmp, whoever made that."""
    place = Path(alone(place_of_compiled_code, str(tmp_path), False))
    assert place.parent.parent == tmp_path
    assert place.parent.stat().st_mode & 0o777 == 0o700
    (tmp_path / "taken").mkdir()
    with pytest.raises(UserError, match="is another user's, and compiled code is kept there: set TORCHINDUCTOR_CACHE"):
        alone(place_of_compiled_code, str(tmp_path / "taken"), True)


def test_a_trial_that_compiles_nothing_imports_no_compiler() -> None:
    """It takes seconds, in the driver and in each worker."""
    look = "import sys, kdtune.search.worker; sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", look], check=False).returncode == 0


def graphs_of_eleven_networks() -> int:
    torch.compile = functools.partial(torch.compile, backend="eager")
    for width in range(1, 12):
        compiled(torch.nn.Linear(width, 1))(torch.zeros(1, width))
    return int(importlib.import_module("torch._dynamo.utils").counters["stats"]["unique_graphs"])


def test_a_kept_worker_compiles_its_ninth_network_as_its_first() -> None:
    """They share their forward's code, of which torch compiles eight variants by itself."""
    assert alone(graphs_of_eleven_networks) == 11


def plain_and_compiled(folder: Path) -> tuple[list, list, list, int]:
    """The evaluations of a run, of the same run compiled, of that once more, and the graphs that the last one made."""
    torch.set_num_threads(1)
    # the graphs are what is ours; the code that inductor makes of them for a processor crashes with torch 2.14
    torch.compile = functools.partial(torch.compile, backend="aot_eager")
    # two steps: BatchNorm over the pyramid's single cell enlarges every rounding, step by step
    short = {"student.dropout": 0.0, "recipe.num_steps": 2, "recipe.eval_every": 1}
    which = distilled(folder, pi={"weight": 0.5}).replace(short)
    plain, _ = evaluations(which)
    first, _ = evaluations(which.replace({"recipe.compile": True}))
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    again, _ = evaluations(which.replace({"recipe.compile": True}))
    return plain, first, again, torch._dynamo.utils.counters["stats"]["unique_graphs"] - graphs


@pytest.mark.slow
def test_a_compiled_run_is_the_same_run(tmp_path: Path) -> None:
    plain, compiled, again, graphs = alone(plain_and_compiled, tmp_path)
    for one, other in zip(plain, compiled, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-4)
        assert other["miou"] == pytest.approx(one["miou"], abs=0.1)  # a pixel or two may tip over
        for name in ("ce", "pi"):
            assert other["losses"][name] == pytest.approx(one["losses"][name], rel=1e-4)
            assert other["grad_norms"][name] == pytest.approx(one["grad_norms"][name], rel=1e-2)
    assert graphs == 0  # the next trial takes the network that is compiled already, with weights of its own
    assert [entry["loss"] for entry in again] == [entry["loss"] for entry in compiled]

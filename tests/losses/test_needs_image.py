"""A term that asks for the image: it passes every term's tests, and what it is given in the loop, live and stored."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kdtune.base import IGNORE, Confidence, Loss, LossTerm, SegNet, SegOutput, align, at_least_float32
from kdtune.loading.batches import Batch
from kdtune.study.trial_config import TrialConfig
from kdtune.testing.loss_terms import *  # noqa: F403
from kdtune.training import loop, trial
from kdtune.training.site import Site, TeacherStore
from tests.support.tiny import config, teacher, untimed

pytestmark = pytest.mark.usefixtures("one_thread")


class Contours(LossTerm):
    r"""Squared difference of the logits, cells weighed by how much the image changes within them.

    .. math:: L = \mathrm{mean}_{N,K,P} \; w_i (s_{k,i} - t_{k,i})^2, \qquad w_i = 1 + |\nabla x|_i

    Source: these tests.
    """

    symbol: ClassVar[str] = "L_contours"
    source: ClassVar[str] = "these tests"
    confidence: ClassVar[Confidence] = "paper"
    needs_image: ClassVar[bool] = True

    def build(self, student: SegNet, teacher: SegNet | None) -> Loss:
        return ContoursLoss()


class ContoursLoss(Loss):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Tensor, Tensor, Tensor]] = []  # image of student and teacher, labels
        self.before: Tensor | None = None

    def before_training(self, batches: Iterator[tuple[SegOutput | None, Tensor]]) -> None:
        output, _ = next(batches)
        assert output is not None
        self.before = output.image

    def forward(self, student: SegOutput, teacher: SegOutput | None, target: Tensor) -> Tensor:
        assert teacher is not None
        assert student.image is not None
        assert teacher.image is not None
        self.seen.append((student.image, teacher.image, target))
        steps = F.pad(student.image.diff(dim=3).abs(), (0, 1)).mean(dim=1, keepdim=True)  # (N, 1, H, W)
        s, t = at_least_float32(student.logits, align(teacher.logits, student.logits))
        weights = 1 + F.adaptive_avg_pool2d(steps, s.shape[-2:])
        return (weights * (s - t.detach()).square()).mean()


@pytest.fixture
def term() -> LossTerm:
    return Contours(weight=1.0)


@pytest.fixture
def with_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrialConfig:
    """Beside the cross-entropy, although no study file can name it; crops go beyond the images."""
    monkeypatch.setenv("KDTUNE_CACHE", str(tmp_path / "cache"))
    which = config(
        {"teacher": teacher(tmp_path), "recipe.num_steps": 3, "recipe.eval_every": 1, "recipe.crop": [48, 48]}
    )
    return which.model_copy(update={"losses": {**which.losses, "contours": Contours(weight=0.5)}})


def test_it_is_given_the_crop_live_and_stored(with_image: TrialConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of values 0 to 255 divided by 255, 0 where padded; a step of its training has the same digits either way."""
    batches: list[Batch] = []
    real = loop.train_batches

    def noted(*given: Any) -> Iterator[Batch]:
        for batch in real(*given):
            batches.append(batch)
            yield batch

    monkeypatch.setattr(loop, "train_batches", noted)
    told = []
    for site in (Site(), Site(store=TeacherStore(None, ())), Site(store=TeacherStore(None, ()))):
        batches.clear()
        steps = list(trial.run(with_image, site))
        told.append([untimed(evaluation) for evaluation, _ in steps])
        state = steps[-1][1]
        loss = state.losses["contours"]
        assert isinstance(loss, ContoursLoss)
        assert loss.before is not None
        before, *trained = batches  # of the stage before training, and the steps
        assert torch.equal(loss.before, before.pixels / 255 * before.inside[:, None])
        assert len(trained) == len(loss.seen) == 3
        for batch, (image, same, target) in zip(trained, loss.seen, strict=True):
            assert (image.shape, image.dtype, image.is_contiguous()) == ((2, 3, 48, 48), torch.float32, True)
            assert image is same
            assert not image.requires_grad
            assert torch.equal(image, batch.pixels / 255 * batch.inside[:, None])
            assert (image.permute(0, 2, 3, 1)[~batch.inside] == 0).all()
            assert (target[~batch.inside] == IGNORE).all()
        assert any(batch.padded for batch in trained)
    assert told[0] == told[1] == told[2]
    assert (state.asked.run, state.asked.read) == (0, 4)
    assert told[0][-1]["losses"]["contours"] > 0


def test_who_does_not_ask_is_not_given_it(with_image: TrialConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Contours, "needs_image", False)
    with pytest.raises(AssertionError):
        list(trial.run(with_image, Site()))

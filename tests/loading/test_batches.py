"""Batches: what is drawn, what is read, and the resampling against independent ones."""

from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from kdtune.base import IGNORE, Preprocessing
from kdtune.loading import batches
from kdtune.loading.batches import (
    Memory,
    normalise,
    resample,
    train_batches,
    validation_batches,
)
from kdtune.loading.pack import Packed
from kdtune.loading.views import Views, views
from kdtune.loading.windows import windows
from kdtune.study.recipe import Recipe
from tests.support.tiny import config, noise

CPU = torch.device("cpu")
IMAGENET = Preprocessing()
MIXED = [(40, 50), (33, 47), (50, 40), (9, 60), (64, 64), (41, 41), (30, 30)]
CLOSE = {"rtol": 0, "atol": 1.05 / 57.12}  # scaled pixels have 8 bits, rounded once along each axis


@pytest.fixture(autouse=True, params=["crop by crop", "batched"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test takes both ways of resampling on a processor, whatever the size of its crops."""
    monkeypatch.setattr(batches, "SMALL", 0 if request.param == "crop by crop" else 1 << 30)


def recipe(**changes: object) -> Recipe:
    plain = {"scale_min": 1.0, "scale_max": 1.0, "flip": False, "crop": (16, 20), "batch_size": 3, "num_steps": 12}
    return Recipe.model_validate(config().recipe.model_dump() | plain | changes)


def normalised(image: np.ndarray) -> torch.Tensor:
    """(H, W, 3), 0 to 255, to (3, H, W)."""
    mean, std = torch.tensor(IMAGENET.mean), torch.tensor(IMAGENET.std)
    scaled = (torch.from_numpy(np.array(image)).double() - mean) / std
    return scaled.permute(2, 0, 1).float()


def drawn(split: Packed, how: Recipe, seed: int = 0) -> list[tuple[Views, torch.Tensor, torch.Tensor]]:
    found = enumerate(train_batches(split, how, seed, 0, CPU))
    return [(views(how, split.sizes, seed, step), batch.image(IMAGENET), batch.target) for step, batch in found]


def by_hand(split: Packed, view: Views, i: int, crop: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """One crop, pixel by pixel from the formula of centres, in float64."""
    image, label = split.image(view.index[i]).astype(float), split.label(view.index[i])
    near, low, share, inside = [], [], [], []
    for axis in (0, 1):
        position = (view.corner[i, axis] + np.arange(crop[axis]) + 0.5) / view.scale[i] - 0.5
        size = label.shape[axis]
        inside.append(position <= size - 0.5 + 1e-6)
        position = np.clip(position, 0, size - 1)
        low.append(np.minimum(np.floor(position).astype(int), size - 1))
        share.append(position - low[-1])
        near.append(np.minimum(np.floor(position.astype(np.float32) + 0.5).astype(int), size - 1))
    high = [np.minimum(low[axis] + 1, label.shape[axis] - 1) for axis in (0, 1)]
    across = [
        image[rows][:, low[1]] * (1 - share[1])[:, None] + image[rows][:, high[1]] * share[1][:, None]
        for rows in (low[0], high[0])
    ]
    pixels = across[0] * (1 - share[0])[:, None, None] + across[1] * share[0][:, None, None]
    seen = np.outer(*inside)
    crop_image = normalised(pixels) * torch.from_numpy(seen)
    target = torch.from_numpy(np.where(seen, label[np.ix_(*near)], IGNORE)).long()
    return (crop_image.flip(-1), target.flip(-1)) if view.flip[i] else (crop_image, target)


def test_a_batch_is_a_function_of_seed_and_step() -> None:
    split, how = noise(MIXED), recipe(scale_min=0.5, scale_max=2.0, flip=True)
    whole = list(train_batches(split, how, 3, 0, CPU))
    later = list(train_batches(split, how, 3, 5, CPU))
    other = list(train_batches(split, how, 4, 0, CPU))
    assert (len(whole), len(later)) == (12, 7)
    for batch, again in zip(whole[5:], later, strict=True):
        assert torch.equal(batch.image(IMAGENET), again.image(IMAGENET))
        assert torch.equal(batch.target, again.target)
    assert not any(torch.equal(one.target, two.target) for one, two in zip(whole, other, strict=True))


def test_each_epoch_has_every_image_once_and_a_batch_may_span_two() -> None:
    sizes = np.array(MIXED)
    order = np.concatenate([views(recipe(), sizes, 0, step).index for step in range(14)])
    epochs = order.reshape(6, 7)  # 14 batches of 3 are 6 epochs of 7
    assert (np.sort(epochs, axis=1) == np.arange(7)).all()
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_a_batch_may_be_larger_than_the_split() -> None:
    index = views(recipe(batch_size=16), np.array(MIXED), 0, 0).index
    assert sorted(Counter(index.tolist()).values()) == [2, 2, 2, 2, 2, 3, 3]


def test_scale_one_is_a_plain_crop_everywhere_in_the_image() -> None:
    split = noise([(18, 23)] * 4)
    corners = set()
    for view, image, target in drawn(split, recipe(num_steps=60)):
        for i, (top, left) in enumerate(view.corner.astype(int)):
            window = np.s_[top : top + 16, left : left + 20]
            assert torch.equal(target[i], torch.from_numpy(split.label(view.index[i])[window]).long())
            torch.testing.assert_close(image[i], normalised(split.image(view.index[i])[window]), **CLOSE)
            corners.add((top, left))
    assert corners == {(top, left) for top in range(3) for left in range(4)}  # both borders included


def test_an_image_smaller_than_the_crop_is_padded_with_the_mean_colour() -> None:
    split = noise([(10, 30), (40, 11), (10, 11)])
    for view, image, target in drawn(split, recipe(batch_size=3, num_steps=4)):
        for i, index in enumerate(view.index):
            height, width = np.minimum(split.sizes[index], (16, 20))
            top, left = view.corner[i].astype(int)
            window = np.s_[top : top + height, left : left + width]
            assert torch.equal(target[i, :height, :width], torch.from_numpy(split.label(index)[window]).long())
            torch.testing.assert_close(image[i, :, :height, :width], normalised(split.image(index)[window]), **CLOSE)
            for outside in (np.s_[..., height:, :], np.s_[..., width:]):
                assert (image[i][outside] == 0).all()
                assert (target[i][outside] == IGNORE).all()


def test_half_of_the_crops_are_mirrored() -> None:
    split = noise([(16, 20)] * 4)  # as large as the crop: nothing but the mirror is left to draw
    flips = []
    for view, image, target in drawn(split, recipe(num_steps=40, flip=True)):
        for i, flip in enumerate(view.flip):
            side = -1 if flip else 1
            expected = normalised(split.image(view.index[i])[:, ::side])
            torch.testing.assert_close(image[i], expected, **CLOSE)
            assert torch.equal(target[i], torch.from_numpy(split.label(view.index[i])[:, ::side].copy()).long())
            flips.append(flip)
    assert 0.35 < np.mean(flips) < 0.65


@pytest.mark.parametrize("scale", [0.5, 2.0])
@pytest.mark.parametrize("crop", [(16, 20), (34, 12)])
def test_scaling_equals_torchs_of_the_whole_image(scale: float, crop: tuple[int, int]) -> None:
    split = noise([(40, 50), (34, 48), (64, 62)])
    for view, image, target in drawn(split, recipe(scale_min=scale, scale_max=scale, crop=crop, num_steps=20)):
        for i, index in enumerate(view.index):
            pixels = torch.tensor(split.image(index)).permute(2, 0, 1)[None].double()
            label = torch.tensor(split.label(index))[None, None].float()
            whole = F.interpolate(pixels, scale_factor=scale, mode="bilinear", align_corners=False)[0]
            labels = F.interpolate(label, scale_factor=scale, mode="nearest-exact")[0, 0].long()
            top, left = view.corner[i].astype(int)
            window = np.s_[..., top : top + crop[0], left : left + crop[1]]
            expected = normalised(whole[window].permute(1, 2, 0).numpy())
            height, width = expected.shape[1:]
            torch.testing.assert_close(image[i, :, :height, :width], expected, **CLOSE)
            assert torch.equal(target[i, :height, :width], labels[window])
            assert (target[i, height:] == IGNORE).all()
            assert (target[i, :, width:] == IGNORE).all()


@pytest.mark.parametrize("crop", [(21, 42), (16, 20), (63, 9)])
def test_every_scale_and_size_equals_the_formula(crop: tuple[int, int]) -> None:
    split = noise(MIXED)
    how = recipe(scale_min=0.5, scale_max=2.1, flip=True, crop=crop, batch_size=8, num_steps=25)
    for view, image, target in drawn(split, how):
        for i in range(8):
            expected, labels = by_hand(split, view, i, crop)
            torch.testing.assert_close(image[i], expected, **CLOSE)
            assert torch.equal(target[i], labels)


def test_windows_are_no_larger_than_needed() -> None:
    split = noise([(200, 220)] * 4)
    for scale in (0.5, 1.0, 2.0, 2.1):
        view = views(recipe(scale_min=scale, scale_max=scale), split.sizes, 0, 0)
        seen = windows(split, view, (16, 20))
        assert seen.images.shape[:3] == seen.labels.shape
        assert (np.array(seen.labels.shape[1:]) <= np.ceil(np.array([16, 20]) / scale) + 2).all()


def test_scales_are_the_recipes_set() -> None:
    how = recipe(scale_min=0.5, scale_max=2.1, batch_size=8)
    counts = Counter(
        round(scale, 6) for step in range(200) for scale in views(how, np.array(MIXED), 0, step).scale.tolist()
    )
    assert sorted(counts) == [round(0.5 + 0.1 * i, 6) for i in range(17)]
    assert min(counts.values()) > 0.5 * 1600 / 17


def test_no_scale_is_above_the_largest() -> None:
    how = recipe(scale_min=0.8, scale_max=1.26, batch_size=64)
    scales = {round(scale, 6) for scale in views(how, np.array(MIXED), 0, 0).scale.tolist()}
    assert scales == {0.8, 0.9, 1.0, 1.1, 1.2}


def test_validation_batches_keep_the_order_and_group_equal_sizes() -> None:
    sizes = [(20, 30)] * 5 + [(30, 20)] * 2 + [(20, 30)]
    split = noise(sizes)
    found = list(validation_batches(split, 2, CPU))
    assert [tuple(target.shape) for _, target in found] == [
        (2, 20, 30),
        (2, 20, 30),
        (1, 20, 30),
        (2, 30, 20),
        (1, 20, 30),
    ]
    images = [image for pixels, _ in found for image in normalise(pixels, IMAGENET)]
    targets = [target for _, batch in found for target in batch]
    for i in range(len(split)):
        torch.testing.assert_close(images[i], normalised(split.image(i)), rtol=0, atol=1e-5)
        assert torch.equal(targets[i], torch.tensor(split.label(i)).long())


def test_a_validation_batch_has_no_more_pixels_than_one_large_image() -> None:
    split = noise([(64, 64)] * 5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kdtune.loading.batches.MAX_PIXELS", 2 * 64 * 64 + 5)
        assert [len(target) for _, target in validation_batches(split, 4, CPU)] == [2, 2, 1]
        patch.setattr("kdtune.loading.batches.MAX_PIXELS", 100)
        assert [len(target) for _, target in validation_batches(split, 4, CPU)] == [1] * 5


@pytest.mark.parametrize("scale", [0.5, 0.7, 1.0, 2.1])
def test_what_a_gpu_does_gives_the_same_crops(scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "SMALL", 0)
    split = noise(MIXED)
    how = recipe(scale_min=scale, scale_max=scale, flip=True, crop=(21, 42), batch_size=8)
    for step, batch in enumerate(train_batches(split, how, 0, 0, CPU)):
        batched = resample(windows(split, views(how, split.sizes, 0, step), how.crop))
        torch.testing.assert_close(batched.image(IMAGENET), batch.image(IMAGENET), **CLOSE)
        assert torch.equal(batched.inside, batch.inside)
        assert torch.equal(batched.target, batch.target)


def test_memory_is_handed_out_again_only_when_nobody_holds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "SMALL", 0)
    split, how = noise([(40, 50)] * 6), recipe(num_steps=6)
    held = list(train_batches(split, how, 0, 0, CPU))  # all at once: none may overwrite another
    for batch, again in zip(held, train_batches(split, how, 0, 0, CPU), strict=True):
        assert torch.equal(batch.pixels, again.pixels)
        assert torch.equal(batch.image(IMAGENET), again.image(IMAGENET))
        assert torch.equal(batch.target, again.target)
    places = set()
    for batch in train_batches(split, how, 0, 0, CPU):
        places.add(batch.pixels.data_ptr())
        del batch
    assert len(places) == 1
    memory = Memory()
    array = memory.array((2, 3), np.float32)
    tensor = torch.from_numpy(array)[0]  # a view of a tensor of the array
    place = tensor.data_ptr()
    del array
    assert memory.array((2, 3), np.float32).ctypes.data != place
    del tensor
    assert memory.array((2, 3), np.float32).ctypes.data == place
    assert memory.array((3, 2), np.float32).ctypes.data != place

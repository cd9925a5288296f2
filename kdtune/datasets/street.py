"""One street scene: the plan of the street and its light, drawn from the sky to the nearest object."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from kdtune.base import IGNORE
from kdtune.datasets.canvas import Array, Camera, Canvas, noise
from kdtune.datasets.street_classes import BUILDING, FENCE, ROAD, SIDEWALK, SKY, VEGETATION
from kdtune.datasets.street_scenery import building, fence, foliage, masonry, paint, tree
from kdtune.datasets.street_traffic import place


@dataclass(frozen=True)
class Street:
    """The plan of a street. Metres, x to the right of the camera where the street is straight."""

    left: float  # kerbs
    right: float
    left_walk: float  # width of the sidewalks
    right_walk: float
    bend: float  # the axis lies at x = bend z^2 [1/m]

    def shift(self, z: float) -> float:
        """How far the axis has turned aside at distance z [m]."""
        return self.bend * z * z

    def outer(self, side: int) -> float:
        """Where the sidewalk of a side (-1 left, 1 right) ends [m]."""
        return self.right + self.right_walk if side > 0 else self.left - self.left_walk


def draw_scene(size: tuple[int, int], seed: Sequence[int]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Image (H, W, 3) uint8 RGB and label (H, W) uint8 of one scene, a pure function of the arguments.

    The plan has a generator of its own that does not see ``size``: equal seeds give the same street.
    """
    rng = np.random.default_rng([*seed, 0])
    texture_rng = np.random.default_rng([*seed, 1])
    height, width = size
    camera = Camera(
        focal=float(np.sqrt(height * width)) * rng.uniform(0.8, 1.1),
        horizon=height * rng.uniform(0.38, 0.52),
        centre=width * rng.uniform(0.35, 0.65),
        height=rng.uniform(1.3, 1.9),
    )
    street = Street(
        left=-rng.uniform(2.8, 6.5),
        right=rng.uniform(1.5, 3.6),
        left_walk=rng.uniform(1.8, 5.0),
        right_walk=rng.uniform(1.8, 5.0),
        bend=rng.choice([0.0, 0.0, 1.0]) * rng.uniform(-0.0025, 0.0025),
    )
    canvas = Canvas(size, camera, texture_rng)
    _sky(canvas, rng)
    _skyline(canvas, rng)
    _ground(canvas, rng, street)
    for side in (-1, 1):
        _frontage(canvas, rng, street, side)
    _sunshine(canvas, rng, street)
    for side in (-1, 1):
        _fences(canvas, rng, street, side)
    _traffic(canvas, rng, street)
    if rng.random() < 0.3:
        _bonnet(canvas, rng)
    return _expose(canvas, rng, texture_rng), canvas.labels()


def _sky(canvas: Canvas, rng: np.random.Generator) -> None:
    """Blue, overcast or evening; its colour at the horizon is what the haze fades to."""
    zeniths = ((0.35, 0.52, 0.85), (0.72, 0.74, 0.78), (0.9, 0.9, 0.92), (0.5, 0.5, 0.6))
    zenith = np.asarray(zeniths[rng.integers(len(zeniths))], np.float32) * np.float32(rng.uniform(0.75, 1.05))
    low = (1 - rng.uniform(0.3, 0.8)) * zenith + rng.uniform(0.35, 0.6) * np.asarray((0.95, 0.9, 0.85))
    canvas.haze = np.asarray(low, np.float32)
    canvas.haze_density = float(rng.choice([0.002, 0.006, 0.025], p=[0.55, 0.3, 0.15]))
    canvas.begin(SKY)
    canvas.owner[...] = 1
    down = np.clip(canvas.v / max(1.0, canvas.camera.horizon), 0, 1)[:, :, None]  # (H, 1, 1)
    cloud = np.clip(canvas.clumps * rng.uniform(0.0, 0.16), -0.05, 0.4)[:, :, None]
    canvas.image[...] = zenith + down * (low - zenith) + cloud


def _skyline(canvas: Canvas, rng: np.random.Generator) -> None:
    """Far houses and trees along the horizon."""
    for _ in range(9):
        x, z = rng.uniform(-75, 75), rng.uniform(70, 110)
        tall, wide = rng.uniform(4, 16), rng.uniform(8, 25)
        colour = masonry(rng)
        left, top = canvas.camera.at(x - wide / 2, tall, z)
        right, bottom = canvas.camera.at(x + wide / 2, -0.5, z)
        if rng.random() < 0.5:
            canvas.begin(BUILDING)
            canvas.box(left, top, right, bottom, colour, z=z, clump=0.05)
        else:
            canvas.begin(VEGETATION)
            middle, reach = ((left + right) / 2, bottom), (0.6 * (right - left), 0.7 * (bottom - top))
            canvas.ellipse(middle, reach, foliage(rng), ragged=0.25, z=z, rough=0.15, clump=0.2)


def _ground(canvas: Canvas, rng: np.random.Generator, street: Street) -> None:
    """Road with its markings, sidewalks with kerb and slabs, what lies beyond."""
    camera = canvas.camera
    top = min(canvas.size[0] - 1, max(0, int(np.ceil(camera.horizon))))
    z = camera.focal * camera.height / np.maximum(canvas.v[top:] - camera.horizon, 0.3)  # (h, 1)
    x = (canvas.u - camera.centre) / camera.focal * z - street.bend * z * z  # (h, W)
    road = (x > street.left) & (x < street.right)
    walk = ~road & (x > street.outer(-1)) & (x < street.outer(1))
    beyond = VEGETATION if rng.random() < 0.5 else SIDEWALK

    grey = rng.uniform(0.22, 0.5)
    asphalt = grey * np.asarray((1.0, rng.uniform(0.92, 1.02), rng.uniform(0.88, 1.08)))
    slabs = grey * rng.uniform(0.85, 1.7) * np.asarray((1.0, rng.uniform(0.88, 1.0), rng.uniform(0.8, 1.05)))
    grass = foliage(rng) if beyond == VEGETATION else 0.9 * slabs
    owners = []
    for label in (ROAD, SIDEWALK, beyond):
        canvas.begin(label)
        owners.append(canvas.begun)
    owner = np.where(road, owners[0], np.where(walk, owners[1], owners[2]))
    palette = np.zeros((owners[2] + 1, 3), np.float32)
    palette[owners] = (asphalt, slabs, grass)
    colour = palette[owner]  # (h, W, 3)

    rough = np.where(owner == owners[2], 0.13, 0.06)
    shade = 1 + rough * canvas.grain[top:] + rng.uniform(0.02, 0.1) * canvas.clumps[top:]
    shade *= _slabs(rng, x, z, walk) * _markings(rng, street, x, z, road)
    colour *= np.asarray(shade, np.float32)[:, :, None]
    clear = np.exp(-canvas.haze_density * z).astype(np.float32)[:, :, None]
    canvas.image[top:] = colour * clear + canvas.haze * (1 - clear)
    canvas.owner[top:] = owner


def _slabs(rng: np.random.Generator, x: Array, z: Array, walk: NDArray[np.bool_]) -> Array:
    """Joints between the slabs, seen near the camera: brightness (h, W)."""
    pitch = rng.uniform(0.5, 1.2)
    dark = rng.uniform(0.7, 1.0)
    joint = walk & (z < 14) & (((x % pitch) < 0.07) | ((z % pitch) < 0.07))
    return np.where(joint, dark, 1.0).astype(np.float32)


def _markings(rng: np.random.Generator, street: Street, x: Array, z: Array, road: NDArray[np.bool_]) -> Array:
    """Lane lines, kerbs, sometimes a zebra crossing, mended patches: brightness (h, W)."""
    white = rng.uniform(1.1, 2.4)
    lane = street.left + (street.right - street.left) * rng.uniform(0.35, 0.6)
    lines = (np.abs(x - lane) < 0.09) & (z % 6 < rng.choice([3, 6]))
    lines |= (np.abs(x - street.right + 0.35) < 0.07) & bool(rng.random() < 0.5)
    start = rng.uniform(5, 25) if rng.random() < 0.35 else 1e6
    lines |= (z > start) & (z < start + 3.5) & (x % 1.1 < 0.55)
    patch_x, patch_z = rng.uniform(street.left, street.right), rng.uniform(4, 18)
    patch = (np.abs(x - patch_x) < rng.uniform(0.5, 1.6)) & (np.abs(z - patch_z) < rng.uniform(0.5, 4))
    kerb = (np.abs(x - street.left + 0.1) < 0.1) | (np.abs(x - street.right - 0.1) < 0.1)
    shade = np.where(road & patch, rng.uniform(0.75, 1.15), 1.0)
    shade = np.where(road & lines, white, shade)
    return np.where(kerb, rng.uniform(0.8, 1.4), shade).astype(np.float32)


def _frontage(canvas: Canvas, rng: np.random.Generator, street: Street, side: int) -> None:
    """Houses along one side with gaps and trees between them, far to near."""
    plots = []
    z = rng.uniform(-3, 6)
    setback = rng.choice([0.0, 0.0, 2.0, 5.0])
    while z < 60:
        length = rng.uniform(6, 18)
        plots.append((z, z + length))
        z += length + (rng.uniform(3, 12) if rng.random() < 0.3 else 0.0)
    for near, far in reversed(plots):
        shift = street.shift((max(near, 0) + far) / 2)
        x = street.outer(side) + side * (setback + rng.uniform(0, 0.6)) + shift
        if rng.random() < 0.14:
            for offset in (0.8, 0.3):
                tree(canvas, rng, x + side * rng.uniform(2, 5), max(4.0, near + offset * (far - near)))
        else:
            building(canvas, rng, side, x, near, far)


def _fences(canvas: Canvas, rng: np.random.Generator, street: Street, side: int) -> None:
    """Walls, fences or hedges at the outer edge of a sidewalk, far to near."""
    if rng.random() < 0.2:
        return
    z = rng.uniform(1.5, 9)
    spans = []
    for _ in range(rng.integers(1, 4)):
        spans.append((z, z + rng.uniform(5, 14)))
        z = spans[-1][1] + rng.uniform(0, 8)
    for near, far in reversed(spans):
        x = street.outer(side) + street.shift((near + far) / 2)
        label = VEGETATION if rng.random() < 0.2 else FENCE
        fence(canvas, rng, x, near, far, label)


def _sunshine(canvas: Canvas, rng: np.random.Generator, street: Street) -> None:
    """The shadow of one side's houses on the ground; half of the scenes have none."""
    side, reach, dark = rng.choice([-1, 1]), rng.uniform(1, 8), rng.uniform(0.4, 0.75)
    if rng.random() < 0.5:
        return
    camera = canvas.camera
    steps = [1.5, 6.0, 14.0, 30.0, 60.0]
    for near, far in pairwise(steps):
        edge = street.outer(side) - side * (reach + rng.uniform(-1.5, 1.5))
        corners = [(edge, near), (edge, far), (street.outer(side), far), (street.outer(side), near)]
        points = [camera.at(x + street.shift(z), 0.0, z) for x, z in corners]
        canvas.polygon(points, (0.02, 0.02, 0.05), alpha=1 - dark, own=False)


def _traffic(canvas: Canvas, rng: np.random.Generator, street: Street) -> None:
    """Everything that stands or moves in the street, far to near."""
    placed = place(rng, street.left, street.right, street.outer(-1), street.outer(1))
    for item in sorted(placed, key=lambda item: -item.z):
        item.draw(canvas, rng, item.x + street.shift(item.z), item.z)


def _bonnet(canvas: Canvas, rng: np.random.Generator) -> None:
    """The camera's own car at the bottom edge: void."""
    height, width = canvas.size
    canvas.begin(IGNORE)
    middle = (width * rng.uniform(0.4, 0.6), height * 1.02)
    canvas.ellipse(middle, (width * 0.6, height * rng.uniform(0.05, 0.12)), paint(rng), clump=0.1)


def _expose(canvas: Canvas, rng: np.random.Generator, texture_rng: np.random.Generator) -> NDArray[np.uint8]:
    """The scene as a camera records it: uneven light, colour cast, exposure, blur, noise, 8 bits."""
    gain, gamma = rng.uniform(0.6, 1.15), rng.uniform(0.75, 1.3)
    cast = rng.uniform(0.9, 1.1, 3).astype(np.float32)
    sigma, lift = rng.uniform(0.006, 0.03), rng.uniform(0.0, 0.08)
    uneven = np.exp(rng.uniform(0.0, 0.2) * noise(texture_rng, canvas.size, 3))[:, :, None]
    image = canvas.image
    image[:, 1:-1] = 0.2 * image[:, :-2] + 0.6 * image[:, 1:-1] + 0.2 * image[:, 2:]
    image[1:-1] = 0.2 * image[:-2] + 0.6 * image[1:-1] + 0.2 * image[2:]
    light = np.maximum(image * uneven * (gain * cast), 0.0) ** np.float32(gamma) + np.float32(lift)
    light += np.float32(sigma) * texture_rng.standard_normal(light.shape, dtype=np.float32)
    return np.asarray(np.clip(light * 255 + 0.5, 0, 255), np.uint8)

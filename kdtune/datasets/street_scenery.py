"""What lines a drawn street: houses, fences, hedges, trees; and the colours of things."""

import colorsys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from kdtune.datasets.canvas import Array, Canvas, Shade
from kdtune.datasets.street_classes import BUILDING, VEGETATION

Rng = np.random.Generator
RGB = tuple[float, float, float]

MASONRY = (
    (0.74, 0.70, 0.62),
    (0.55, 0.36, 0.29),
    (0.84, 0.82, 0.80),
    (0.46, 0.46, 0.48),
    (0.63, 0.53, 0.40),
    (0.50, 0.54, 0.44),
    (0.38, 0.32, 0.30),
)


def scaled(colour: RGB, factor: float) -> RGB:
    """A colour made brighter or darker."""
    return colour[0] * factor, colour[1] * factor, colour[2] * factor


def masonry(rng: Rng) -> RGB:
    """A colour of walls."""
    base = MASONRY[rng.integers(len(MASONRY))]
    light, warm = rng.uniform(0.6, 1.1), rng.uniform(-0.05, 0.05)
    return base[0] * light + warm, base[1] * light, base[2] * light - warm


def paint(rng: Rng) -> RGB:
    """A colour of vehicles, clothes and signs: grey, that of some wall, or any."""
    kind, grey = rng.random(), rng.uniform(0.06, 0.9)
    wall, hue, vivid = masonry(rng), rng.random(), rng.uniform(0.3, 0.9)
    if kind < 0.4:
        return grey, grey, grey
    return wall if kind < 0.7 else colorsys.hsv_to_rgb(hue, vivid, max(0.2, grey))


def foliage(rng: Rng) -> RGB:
    """A colour of leaves and grass, green to autumn brown."""
    light, dry = rng.uniform(0.2, 0.5), rng.uniform(0, 1) ** 2
    return light * (0.6 + 0.6 * dry), light * (0.95 - 0.1 * dry), light * (0.45 - 0.1 * dry)


@dataclass(frozen=True)
class Windows:
    """The pattern of a facade: brightness factors of panes and of the ground floor's, lengths in metres."""

    pitch: float
    storey: float
    sill: float  # share of a storey
    wide: float  # share of the pitch
    glass: float
    shop: float

    def __call__(self, along: Array, up: Array) -> Array:
        """Brightness (h, w) at a position along the wall and above the ground."""
        level = up % self.storey
        pane = (along % self.pitch) < self.wide * self.pitch
        pane = pane & (level > self.sill * self.storey) & (level < 0.85 * self.storey)
        return np.where(pane, np.where(up < self.storey, self.shop, self.glass), 1.0).astype(np.float32)


def along_street(canvas: Canvas, x: float, pattern: Callable[[Array, Array], Array]) -> Shade:
    """The pattern (distance z, height) on the upright plane at ``x`` along the street, seen by the camera."""
    camera = canvas.camera

    def shade(u: Array, v: Array) -> Array:
        offset = np.where(u == camera.centre, np.float32(1e-3), u - camera.centre)
        z = np.clip(camera.focal * x / offset, 0.1, 200.0).astype(np.float32)
        return pattern(z, camera.height - (v - camera.horizon) * z / camera.focal)

    return shade


def facing(canvas: Canvas, z: float, pattern: Callable[[Array, Array], Array]) -> Shade:
    """The pattern (x, height) on the upright plane at distance ``z`` across the street."""
    camera, scale = canvas.camera, np.float32(z / canvas.camera.focal)

    def shade(u: Array, v: Array) -> Array:
        return pattern((u - camera.centre) * scale, camera.height - (v - camera.horizon) * scale)

    return shade


def building(canvas: Canvas, rng: Rng, side: int, x: float, near: float, far: float) -> None:
    """A house from ``near`` to ``far``: its wall along the street at ``x`` and its end wall."""
    at = canvas.camera.at
    colour, tall = masonry(rng), rng.uniform(4.5, 20)
    windows = Windows(
        storey=rng.uniform(2.7, 3.5),
        pitch=rng.uniform(1.6, 4.0),
        sill=rng.uniform(0.25, 0.4),
        wide=rng.uniform(0.3, 0.7),
        glass=rng.choice([0.35, 0.55, 1.35]),
        shop=rng.uniform(0.4, 1.3),
    )
    tone, clump, roofed = rng.uniform(0.6, 1.15), rng.uniform(0.0, 0.12), rng.random() < 0.4
    roof, ridge = scaled(masonry(rng), 0.7), rng.uniform(1.5, 4)
    start, far = max(near, 0.8), max(far, 3.0)

    canvas.begin(BUILDING)
    if near > 1.5:
        (inner, top), (outer, bottom) = at(x, tall, near), at(x + side * 14.0, 0.0, near)
        left, right = min(inner, outer), max(inner, outer)
        canvas.box(left, top, right, bottom, colour, z=near, clump=clump, shade=facing(canvas, near, windows))
    if roofed:
        slope = side * ridge
        plan = ((0.0, 0.0, start), (0.0, 0.0, far), (slope, ridge, far), (slope, ridge, start))
        canvas.polygon([at(x + dx, tall + dy, z) for dx, dy, z in plan], roof, z=start, clump=clump)
    wall = [at(x, y, z) for y, z in ((0.0, start), (tall, start), (tall, far), (0.0, far))]
    shade = along_street(canvas, x, windows)
    canvas.polygon(wall, scaled(colour, tone), z=(start + far) / 2, clump=clump, shade=shade)


def fence(canvas: Canvas, rng: Rng, x: float, near: float, far: float, label: int) -> None:
    """A wall, a row of bars or (``label`` vegetation) a hedge along the street."""
    tall, pitch, gap = rng.uniform(0.8, 2.4), rng.uniform(0.3, 0.9), rng.uniform(0.35, 0.7)
    bars, colour, leaves = rng.random() < 0.5, masonry(rng), foliage(rng)

    def slats(z: Array, up: Array) -> Array:
        dark = ((z % pitch) < gap * pitch) & (up < 0.88 * tall) if bars else (up % 0.3) < 0.05
        return np.where(dark, 0.45 if bars else 0.8, 1.0).astype(np.float32)

    canvas.begin(label, bordered=bool(rng.random() < 0.3))
    panel = [canvas.camera.at(x, y, z) for y, z in ((0.0, near), (tall, near), (tall, far), (0.0, far))]
    if label == VEGETATION:
        canvas.polygon(panel, leaves, z=near, rough=0.15, clump=0.25)
    else:
        canvas.polygon(panel, colour, z=near, clump=0.1, shade=along_street(canvas, x, slats))


def tree(canvas: Canvas, rng: Rng, x: float, z: float) -> None:
    """A trunk and a ragged crown."""
    camera = canvas.camera
    tall, wide, colour = rng.uniform(3.5, 9), rng.uniform(1.0, 2.6), foliage(rng)
    canvas.begin(VEGETATION, bordered=bool(rng.random() < 0.3))
    shadow(canvas, x, z, wide * 0.7)
    left, bottom = camera.at(x - 0.15, 0.0, z)
    right, top = camera.at(x + 0.15, tall * 0.6, z)
    canvas.box(left, top, right, bottom, (0.22, 0.17, 0.13), z=z, rough=0.1)
    for _ in range(3):
        dx, dy = rng.uniform(-0.5, 0.5) * wide, rng.uniform(-0.12, 0.12) * tall
        reach = rng.uniform(0.55, 0.85)
        scale = camera.focal / z
        middle = camera.at(x + dx, 0.72 * tall + dy, z)
        leaves = scaled(colour, rng.uniform(0.7, 1.2))
        radii = (reach * wide * scale, reach * 0.32 * tall * scale)
        canvas.ellipse(middle, radii, leaves, ragged=0.35, z=z, rough=0.22, clump=0.25)


def shadow(canvas: Canvas, x: float, z: float, half: float) -> None:
    """The dark patch under an object."""
    scale = canvas.camera.focal / z
    centre = canvas.camera.at(x, 0.0, z)
    canvas.ellipse(centre, (half * scale, 0.18 * half * scale), (0.03, 0.03, 0.04), alpha=0.5, z=z, own=False)


def post(canvas: Canvas, x: float, z: float, tall: float, half: float, colour: RGB) -> None:
    """An upright bar on the ground, ``half`` its width [m]."""
    left, bottom = canvas.camera.at(x - half, 0.0, z)
    right, top = canvas.camera.at(x + half, tall, z)
    canvas.box(left, top, right, bottom, colour, z=z)

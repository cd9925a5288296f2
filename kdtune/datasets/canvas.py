"""What a drawn scene is painted on: pixels, who owns each pixel, a pinhole camera, shapes.

Positions are (u, v) in pixels, u to the right and v downwards, pixel centres at halves. Lengths are in
metres: x to the right of the camera's axis, y above the ground, z away from it. Colours are RGB in 0..1.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray

from kdtune.base import IGNORE

Array = NDArray[np.float32]
Point = tuple[float, float]
Colour = Sequence[float] | Array
Shade = Callable[[Array, Array], Array]  # columns u (1, w) and rows v (h, 1) -> brightness factor (h, w)


class Look(TypedDict, total=False):
    """How a painted surface looks, beside its colour."""

    z: float  # distance, for the haze [m]; 0
    rough: float  # share of fine noise; 0.05
    clump: float  # share of coarse noise; 0
    shade: Shade  # a pattern, e.g. the windows of a wall; none
    alpha: float  # opacity; 1
    own: bool  # False leaves the labels as they are, for shadows; True


@dataclass(frozen=True)
class Camera:
    """A pinhole camera that looks along the ground."""

    focal: float  # [pixels]
    horizon: float  # row of the horizon [pixels]
    centre: float  # column of the axis [pixels]
    height: float  # above the ground [m]

    def at(self, x: float, y: float, z: float) -> Point:
        """The pixel that sees the point (x, y, z), z > 0."""
        scale = self.focal / z
        return self.centre + scale * x, self.horizon + scale * (self.height - y)


def noise(rng: np.random.Generator, size: tuple[int, int], cells: int) -> Array:
    """Smooth noise (H, W), about standard normal: ``cells`` random values down the image, joined linearly."""
    height, width = size
    across = max(2, round(cells * width / height))
    coarse = rng.standard_normal((cells + 1, across + 1), dtype=np.float32)
    v = np.linspace(0, cells, height, endpoint=False, dtype=np.float32)
    u = np.linspace(0, across, width, endpoint=False, dtype=np.float32)
    row, column = v.astype(np.intp), u.astype(np.intp)
    dv, du = (v - row)[:, None], (u - column)[None, :]
    bands = coarse[row] + dv * (coarse[row + 1] - coarse[row])  # (H, across + 1)
    left = bands[:, column]
    return np.asarray(left + du * (bands[:, column + 1] - left), np.float32)


class Canvas:
    """An image under construction; what is painted later is nearer and hides what was there.

    Every painted object owns its pixels; labels and the void borders between objects come from the owners.
    """

    def __init__(self, size: tuple[int, int], camera: Camera, rng: np.random.Generator) -> None:
        height, width = size
        self.size = size
        self.camera = camera
        self.image = np.zeros((height, width, 3), np.float32)
        self.owner = np.zeros((height, width), np.uint16)
        self.grain = rng.standard_normal(size, dtype=np.float32)  # sensor-fine texture
        self.clumps = 0.6 * noise(rng, size, 10) + 0.6 * noise(rng, size, 36)  # leaves, stains, clouds
        self.u = np.arange(width, dtype=np.float32)[None, :] + 0.5
        self.v = np.arange(height, dtype=np.float32)[:, None] + 0.5
        self.haze: Array = np.full(3, 0.8, np.float32)
        self.haze_density = 0.0  # [1/m]
        self._classes = [IGNORE]
        self._bordered = [False]

    def begin(self, label: int, bordered: bool = False) -> None:
        """What follows is one object of class ``label``; ``bordered``: outlined by void."""
        self._classes.append(label)
        self._bordered.append(bordered)

    @property
    def begun(self) -> int:
        """The number under which the present object owns pixels."""
        return len(self._classes) - 1

    def labels(self) -> NDArray[np.uint8]:
        """The label image (H, W): classes of the owners, ``IGNORE`` just outside the bordered objects."""
        label = np.asarray(self._classes, np.uint8)[self.owner]
        nearness = np.where(self._bordered, np.arange(len(self._bordered)), 0)[self.owner]
        outline = np.zeros(self.size, np.bool_)
        for _ in range(max(1, round(self.size[0] / 300))):
            outline[:, :-1] |= nearness[:, 1:] > self.owner[:, :-1]
            outline[:, 1:] |= nearness[:, :-1] > self.owner[:, 1:]
            outline[:-1] |= nearness[1:] > self.owner[:-1]
            outline[1:] |= nearness[:-1] > self.owner[1:]
            nearness = np.where(outline, len(self._bordered), nearness)
        label[outline] = IGNORE
        return label

    def box(self, left: float, top: float, right: float, bottom: float, colour: Colour, **look: Unpack[Look]) -> None:
        """An upright rectangle, at least one pixel wide and high."""
        x0, y0 = int(np.floor(left + 0.5)), int(np.floor(top + 0.5))
        x1 = max(x0 + 1, int(np.floor(right + 0.5)))
        y1 = max(y0 + 1, int(np.floor(bottom + 0.5)))
        self._paint((y0, y1, x0, x1), None, colour, look)

    def polygon(self, points: Sequence[Point], colour: Colour, **look: Unpack[Look]) -> None:
        """A convex polygon, corners in either direction of turn."""
        us, vs = [p[0] for p in points], [p[1] for p in points]
        y0, y1, x0, x1 = window = self._window(min(vs), max(vs), min(us), max(us))
        if y0 >= y1 or x0 >= x1:
            return
        corner = np.asarray([*points, points[0]], np.float32)  # (n + 1, 2)
        corner, edge = corner[:-1], corner[1:] - corner[:-1]
        area = sum(us[i - 1] * vs[i] - us[i] * vs[i - 1] for i in range(len(us)))
        if area < 0:
            edge = -edge
        down = edge[:, :1] * (self.v[y0:y1, 0] - corner[:, 1:])  # (n, h)
        across = edge[:, 1:] * (self.u[0, x0:x1] - corner[:, :1])  # (n, w)
        inside = down[:, :, None] >= across[:, None, :]  # (n, h, w)
        mask: NDArray[np.bool_] = np.logical_and.reduce(inside, axis=0)  # (h, w)
        self._paint(window, mask, colour, look)

    def line(self, start: Point, end: Point, width: float, colour: Colour, **look: Unpack[Look]) -> None:
        """A straight stroke, at least one pixel wide."""
        du, dv = end[0] - start[0], end[1] - start[1]
        half = max(width, 1.05) / 2 / max(1e-6, math.hypot(du, dv))
        nu, nv = -dv * half, du * half
        corners = [
            (start[0] + nu, start[1] + nv),
            (end[0] + nu, end[1] + nv),
            (end[0] - nu, end[1] - nv),
            (start[0] - nu, start[1] - nv),
        ]
        self.polygon(corners, colour, **look)

    def ellipse(
        self,
        centre: Point,
        radii: Point,
        colour: Colour,
        *,
        ragged: float = 0.0,
        hole: float = 0.0,
        **look: Unpack[Look],
    ) -> None:
        """A filled ellipse; ``ragged``: noise at its rim; ``hole``: share of the radius left out."""
        (u, v), (ru, rv) = centre, (max(radii[0], 0.6), max(radii[1], 0.6))
        reach = 1 + ragged
        window = self._window(v - rv * reach, v + rv * reach, u - ru * reach, u + ru * reach)
        y0, y1, x0, x1 = window
        if y0 >= y1 or x0 >= x1:
            return
        distance = ((self.u[:, x0:x1] - u) / ru) ** 2 + ((self.v[y0:y1] - v) / rv) ** 2
        if ragged:
            distance += ragged * (self.clumps[y0:y1, x0:x1] + 0.5 * self.grain[y0:y1, x0:x1])
        mask = distance <= 1
        if hole:
            mask &= distance >= hole * hole
        self._paint(window, mask, colour, look)

    def _window(self, top: float, bottom: float, left: float, right: float) -> tuple[int, int, int, int]:
        height, width = self.size
        y0, y1 = max(0, int(top)), min(height, int(bottom) + 1)
        x0, x1 = max(0, int(left)), min(width, int(right) + 1)
        return y0, y1, x0, x1

    def _paint(
        self, window: tuple[int, int, int, int], mask: NDArray[np.bool_] | None, colour: Colour, look: Look
    ) -> None:
        """Paints the masked pixels (None: all) of a window (top, bottom, left, right), half open.

        The window may reach out of the image if there is no mask.
        """
        y0, y1, x0, x1 = window
        if mask is None:
            y0, x0 = max(0, y0), max(0, x0)
            y1, x1 = min(self.size[0], y1), min(self.size[1], x1)
            if y0 >= y1 or x0 >= x1:
                return
        value = self._surface((y0, y1, x0, x1), colour, look)
        old = self.image[y0:y1, x0:x1]
        alpha = look.get("alpha", 1.0)
        if alpha < 1:
            value = old + np.float32(alpha) * (value - old)
        where = True if mask is None else mask
        np.copyto(old, value, where=True if mask is None else mask[:, :, None])
        if look.get("own", True):
            np.copyto(self.owner[y0:y1, x0:x1], np.uint16(self.begun), where=where)

    def _surface(self, window: tuple[int, int, int, int], colour: Colour, look: Look) -> Array:
        """Colours (h, w, 3), or (3,) if they are all the same, of a surface in a window within the image."""
        y0, y1, x0, x1 = window
        clear = math.exp(-self.haze_density * look.get("z", 0.0))
        tint = np.asarray(colour, np.float32) * np.float32(clear)
        clump, shade = look.get("clump", 0.0), look.get("shade")
        if shade is not None or clump or (y1 - y0) * (x1 - x0) > 200:  # texture costs more than a small shape
            texture = 1 + look.get("rough", 0.05) * self.grain[y0:y1, x0:x1]
            if clump:
                texture += clump * self.clumps[y0:y1, x0:x1]
            if shade is not None:
                texture *= shade(self.u[:, x0:x1], self.v[y0:y1])
            tint = texture[:, :, None] * tint
        return tint + self.haze * np.float32(1 - clear)

"""What stands and moves in a drawn street: vehicles, people, bicycles, poles and signs, and where."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from kdtune.base import IGNORE
from kdtune.datasets.canvas import Canvas, Point
from kdtune.datasets.street_classes import BICYCLE, CAR, PERSON, POLE, SIGN, TRUCK
from kdtune.datasets.street_scenery import RGB, Rng, paint, post, scaled, shadow, tree


@dataclass(frozen=True)
class Body:
    """The shape of a vehicle [m]."""

    label: int
    wide: float
    long: float
    belt: float  # height of the body under the windows
    tall: float


def vehicle(canvas: Canvas, rng: Rng, x: float, z: float, body: Body) -> None:
    """A car, van, truck or bus seen from behind or ahead, its flank towards the camera's axis."""
    at = canvas.camera.at
    colour, pane = paint(rng), scaled((0.2, 0.22, 0.25), rng.uniform(0.5, 2.2))
    lights = ((0.75, 0.1, 0.08), (0.95, 0.93, 0.8))[rng.integers(2)]
    glazed = body.label == CAR or rng.random() < 0.5
    dark = scaled(colour, rng.uniform(0.6, 0.95))
    canvas.begin(body.label, bordered=bool(rng.random() < 0.5))
    shadow(canvas, x, z, body.wide * 0.6)
    half, belt, tall = body.wide / 2, body.belt, body.tall
    inset = (0.22 if body.label == CAR else 0.02) * body.wide
    if abs(x) > half:
        _flank(canvas, x, z, body, (dark, scaled(pane, 0.8) if glazed else dark))
    outline = ((-half, belt), (inset - half, tall), (half - inset, tall), (half, belt))
    canvas.polygon([at(x + dx, y, z) for dx, y in outline], colour, z=z)
    if glazed:
        low, high = belt + (0.08 if body.label == CAR else 0.45) * (tall - belt), tall - 0.15 * (tall - belt)
        wide, narrow = 0.86 * (half - 0.1 * inset), 0.86 * (half - 0.9 * inset)
        screen = ((-wide, low), (-narrow, high), (narrow, high), (wide, low))
        canvas.polygon([at(x + dx, y, z) for dx, y in screen], pane, z=z, clump=0.1)
    corner, opposite = at(x - half, belt, z), at(x + half, 0.25, z)
    canvas.box(*corner, *opposite, colour, z=z)
    _face(canvas, corner, opposite, lights, z)


def _flank(canvas: Canvas, x: float, z: float, body: Body, colours: tuple[RGB, RGB]) -> None:
    """The side of a vehicle that one sees, in the colours of its body and its windows."""
    at = canvas.camera.at
    inward = float(np.sign(x))
    side, back, is_car = x - inward * body.wide / 2, z + body.long, body.label == CAR
    lean = inward * (0.22 if is_car else 0.02) * body.wide
    front_roof, back_roof = (z + 0.15 * body.long, back - 0.3 * body.long) if is_car else (z, back)
    roof = [at(side + lean, body.tall, d) for d in (front_roof, back_roof)]
    canvas.polygon([at(side, body.belt, z), *roof, at(side, body.belt, back)], colours[1], z=z)
    panel = ((0.25, z), (body.belt, z), (body.belt, back), (0.25, back))
    canvas.polygon([at(side, y, d) for y, d in panel], colours[0], z=z)
    for d in (z + 0.18 * body.long, z + 0.8 * body.long):
        radius = 0.36 * canvas.camera.focal / d
        canvas.ellipse(at(side, 0.34, d), (0.6 * radius, radius), (0.06, 0.06, 0.06), z=z)


def _face(canvas: Canvas, corner: Point, opposite: Point, lights: RGB, z: float) -> None:
    """Lamps, number plate and wheels of a vehicle's end, between two corners of its body."""
    (left, top), (right, bottom) = corner, opposite
    wide, tall = right - left, bottom - top
    if wide < 5:  # pixels: too far away for such details
        return
    for start in (left + 0.03 * wide, left + 0.82 * wide):
        canvas.box(start, top + 0.25 * tall, start + 0.15 * wide, top + 0.45 * tall, lights, z=z)
    if wide > 8:
        canvas.box(
            left + 0.38 * wide,
            top + 0.6 * tall,
            left + 0.62 * wide,
            top + 0.78 * tall,
            (0.85, 0.85, 0.7),
            z=z,
        )
    for start in (left + 0.03 * wide, left + 0.84 * wide):
        canvas.box(start, bottom, start + 0.13 * wide, bottom + 0.28 * tall, (0.05, 0.05, 0.05), z=z)


def car(canvas: Canvas, rng: Rng, x: float, z: float) -> None:
    """A car along the street, or in a quarter of cases across it."""
    wide, long, tall = rng.uniform(1.6, 1.95), rng.uniform(3.6, 4.8), rng.uniform(1.35, 1.85)
    if rng.random() < 0.75:
        vehicle(canvas, rng, x, z, Body(CAR, wide, long, 0.55 * tall, tall))
        return
    at = canvas.camera.at
    colour, pane = paint(rng), scaled((0.2, 0.22, 0.25), rng.uniform(0.5, 2.2))
    canvas.begin(CAR, bordered=bool(rng.random() < 0.5))
    half, belt = long / 2, 0.55 * tall
    shadow(canvas, x, z, half)
    facing = rng.choice([-1, 1])
    roof = ((-0.95, belt), (-0.65, tall), (0.3, tall), (0.62, belt))
    canvas.polygon([at(x + facing * s * half, y, z) for s, y in roof], colour, z=z)
    glass = ((-0.82, belt + 0.05), (-0.6, 0.93 * tall), (0.27, 0.93 * tall), (0.52, belt + 0.05))
    canvas.polygon([at(x + facing * s * half, y, z) for s, y in glass], pane, z=z, clump=0.1)
    side = ((-1.0, 0.25), (-1.0, belt), (0.7, belt), (1.0, 0.75 * belt), (1.0, 0.25))
    canvas.polygon([at(x + facing * s * half, y, z) for s, y in side], colour, z=z)
    radius = 0.34 * canvas.camera.focal / z
    for s in (-0.62, 0.62):
        canvas.ellipse(at(x + s * half, 0.33, z), (radius, radius), (0.06, 0.06, 0.07), z=z)


def truck(canvas: Canvas, rng: Rng, x: float, z: float) -> None:
    """A truck or a bus."""
    tall = rng.uniform(2.7, 3.8)
    vehicle(canvas, rng, x, z, Body(TRUCK, 2.5, rng.uniform(6, 11), 0.42 * tall, tall))


def person(canvas: Canvas, rng: Rng, x: float, z: float, lift: float = 0.0) -> None:
    """Somebody standing or walking; ``lift`` raises a rider's feet [m]."""
    at = canvas.camera.at
    tall, stride, build = rng.uniform(1.35, 1.95), rng.uniform(0.0, 0.3), rng.uniform(0.85, 1.25)
    coat, trousers = paint(rng), scaled(paint(rng), 0.6)
    skin = scaled((0.85, 0.65, 0.52), rng.uniform(0.35, 1.05))
    canvas.begin(PERSON, bordered=bool(rng.random() < 0.35))
    if not lift:
        shadow(canvas, x, z, 0.35)
    scale = canvas.camera.focal / z
    hip, neck = lift + 0.48 * tall, lift + 0.84 * tall
    for step in (-stride, stride):
        canvas.line(at(x + step / 4, hip, z), at(x + step, lift, z), 0.16 * scale, trousers, z=z)
    half = 0.21 * build
    trunk = [at(x - 0.8 * half, hip - 0.1, z), at(x - half, neck, z), at(x + half, neck, z)]
    canvas.polygon([*trunk, at(x + 0.8 * half, hip - 0.1, z)], coat, z=z, clump=0.08)
    for arm in (-1, 1):
        shoulder, hand = at(x + arm * half, neck - 0.05, z), at(x + arm * (half + 0.1), hip, z)
        canvas.line(shoulder, hand, 0.1 * scale, scaled(coat, 0.85), z=z)
    canvas.ellipse(at(x, lift + 0.93 * tall, z), (0.1 * scale, 0.13 * scale), skin, z=z)


def bicycle(canvas: Canvas, rng: Rng, x: float, z: float) -> None:
    """A bicycle from the side or end on, half of them ridden."""
    at = canvas.camera.at
    scale = canvas.camera.focal / z
    colour = scaled(paint(rng), 0.8)
    reach = rng.choice([0.52, 0.52, 0.4, 0.08])
    ridden = rng.random() < 0.5
    canvas.begin(BICYCLE, bordered=bool(rng.random() < 0.25))
    shadow(canvas, x, z, 0.6)
    radius = 0.36 * scale
    round_ = (radius * (0.25 + 0.75 * min(1.0, reach / 0.5)), radius)
    for hub in (at(x - reach, 0.36, z), at(x + reach, 0.36, z)):
        canvas.ellipse(hub, round_, (0.3, 0.3, 0.32), alpha=0.25, z=z)  # spokes: what is behind shows through
        canvas.ellipse(hub, round_, (0.08, 0.08, 0.09), hole=0.75, z=z)
    saddle, bar = (-0.35 * reach, 0.95), (0.75 * reach, 1.0)
    frame = (
        ((-reach, 0.36), saddle),
        (saddle, (0.65 * reach, 0.8)),
        ((0.0, 0.36), saddle),
        ((reach, 0.36), bar),
    )
    for (a, b), (c, d) in (*frame, ((0.0, 0.36), (0.65 * reach, 0.8))):
        canvas.line(at(x + a, b, z), at(x + c, d, z), 0.06 * scale, colour, z=z)
    if ridden:
        person(canvas, rng, x - 0.1 * reach, z, lift=0.35)


def pole(canvas: Canvas, rng: Rng, x: float, z: float) -> None:
    """A lamp post, half of them with an arm over the road."""
    tall, arm = rng.uniform(4.5, 8.5), rng.uniform(0.8, 2.0)
    colour = scaled((0.5, 0.5, 0.5), rng.uniform(0.3, 1.6))
    canvas.begin(POLE, bordered=bool(rng.random() < 0.15))
    post(canvas, x, z, tall, rng.uniform(0.07, 0.13), colour)
    bent = rng.random() < 0.5
    if bent:
        scale = canvas.camera.focal / z
        end = x - np.sign(x) * arm
        canvas.line(canvas.camera.at(x, tall, z), canvas.camera.at(end, tall + 0.2, z), 0.1 * scale, colour, z=z)


def _signal(rng: Rng) -> RGB:
    """A colour of signs: mostly those of the traffic code."""
    colours = ((0.1, 0.25, 0.7), (0.8, 0.1, 0.1), (0.95, 0.8, 0.1), (0.9, 0.9, 0.9), (0.1, 0.5, 0.3))
    plain, odd = colours[rng.integers(len(colours))], paint(rng)
    return scaled(plain, rng.uniform(0.7, 1.1)) if rng.random() < 0.7 else odd


def sign(canvas: Canvas, rng: Rng, x: float, z: float) -> None:
    """A traffic sign or light on its post: a disc, triangle, plate or box."""
    at = canvas.camera.at
    up, half, kind = rng.uniform(2.1, 3.2), rng.uniform(0.35, 0.65), rng.integers(4)
    rim, face = _signal(rng), _signal(rng)
    grey = scaled((0.5, 0.5, 0.5), rng.uniform(0.4, 1.5))
    canvas.begin(POLE)
    post(canvas, x, z, up, 0.05, grey)
    canvas.begin(SIGN, bordered=bool(rng.random() < 0.2))
    radius = half * canvas.camera.focal / z
    if kind == 0:
        canvas.ellipse(at(x, up, z), (radius, radius), rim, z=z)
        canvas.ellipse(at(x, up, z), (0.65 * radius, 0.65 * radius), face, z=z)
    elif kind == 1:
        for share, colour in ((1.0, rim), (0.6, face)):
            tip, foot = up + share * half, up - 0.7 * share * half
            canvas.polygon([at(x, tip, z), at(x - share * half, foot, z), at(x + share * half, foot, z)], colour, z=z)
    else:
        wide, tall = (half, 0.7 * half) if kind == 2 else (0.45 * half, 1.1 * half)
        (left, top), (right, bottom) = at(x - wide, up + tall, z), at(x + wide, up - tall, z)
        canvas.box(left, top, right, bottom, rim if kind == 2 else scaled(grey, 0.3), z=z)
        middle = ((left + right) / 2, top + (bottom - top) * rng.choice([0.25, 0.5, 0.75]))
        canvas.ellipse(middle, (0.35 * radius, 0.35 * radius), face, z=z)


def bin_(canvas: Canvas, rng: Rng, x: float, z: float) -> None:
    """A bin, which has no class: void."""
    tall, half = rng.uniform(0.8, 1.3), rng.uniform(0.25, 0.5)
    canvas.begin(IGNORE)
    post(canvas, x, z, tall, half, paint(rng))


@dataclass(frozen=True)
class Placed:
    """An object and where it stands [m]."""

    draw: Callable[[Canvas, Rng, float, float], None]
    x: float
    z: float


def place(rng: Rng, left: float, right: float, outer_left: float, outer_right: float) -> list[Placed]:
    """Objects for a street with these kerbs and outer edges of its sidewalks [m], in no order."""
    items = []

    def depth(near: float, far: float) -> float:
        return float(near * (far / near) ** rng.random())

    def walk() -> float:
        inside = rng.uniform(0.2, 0.8)
        return left + inside * (outer_left - left) if rng.random() < 0.5 else right + inside * (outer_right - right)

    def kerb() -> float:
        return left - 0.4 if rng.random() < 0.5 else right + 0.4

    for _ in range(rng.integers(2, 7)):
        parked = left + 1.1 if rng.random() < 0.5 else right - 1.0
        x = parked if rng.random() < 0.6 else rng.uniform(left + 1.2, right - 1.0)
        items.append(Placed(car, x, depth(5, 40)))
    for _ in range(rng.integers(0, 3)):
        items.append(Placed(truck, rng.uniform(left + 1.5, right - 1.4), depth(7, 30)))
    for _ in range(rng.integers(1, 8)):
        items.append(Placed(person, walk() if rng.random() < 0.75 else rng.uniform(left, right), depth(3.5, 20)))
    for _ in range(rng.integers(0, 4)):
        items.append(Placed(bicycle, kerb() if rng.random() < 0.6 else rng.uniform(left, right), depth(3.2, 12)))
    for kind, most, near, far in ((pole, 6, 4, 35), (sign, 6, 4, 14), (bin_, 2, 5, 15)):
        for _ in range(rng.integers(0, most)):
            items.append(Placed(kind, kerb(), depth(near, far)))
    for _ in range(rng.integers(0, 5)):
        items.append(Placed(tree, walk(), depth(6, 40)))
    return items

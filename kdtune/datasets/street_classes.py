"""The classes of the drawn street scenes, in the order of their labels."""

CLASSES = (
    "sky",
    "building",
    "road",
    "sidewalk",
    "vegetation",
    "car",
    "truck or bus",
    "person",
    "pole",
    "traffic sign",
    "bicycle",
    "fence or wall",
)
PALETTE = (
    (70, 130, 180),
    (70, 70, 70),
    (128, 64, 128),
    (244, 35, 232),
    (107, 142, 35),
    (0, 0, 142),
    (0, 60, 100),
    (220, 20, 60),
    (153, 153, 153),
    (220, 220, 0),
    (119, 11, 32),
    (190, 153, 153),
)

(SKY, BUILDING, ROAD, SIDEWALK, VEGETATION, CAR, TRUCK, PERSON, POLE, SIGN, BICYCLE, FENCE) = range(len(CLASSES))

"""What publications report of themselves: the mIoU of their student alone, and with their terms.

PSPNet with ResNet-18, validation images, each under its own recipe: they compare with their own student only. Numbers
of Niemann, Vox and Werner 2023 (arXiv:2309.03659, Table 1) but where a repository is named.
"""

from typing import NamedTuple


class Reported(NamedTuple):
    """mIoU [percent] of the student alone, and with the terms."""

    student: float
    miou: float


_REPORTED: dict[str, dict[str, Reported]] = {
    "cityscapes": {
        "pi+pa+ho": Reported(69.10, 74.08),  # SKD's repository
        "pi+ho+ifv": Reported(69.10, 74.54),
        "cwd": Reported(70.09, 75.90),
        "dsd_pixel+dsd_category": Reported(69.42, 73.20),
        "mgd": Reported(69.85, 73.63),  # MGD's repository; its paper: 74.10
        "pi+pa+ho+cwd+idd_distance+idd_position": Reported(70.09, 77.59),
        "fakd": Reported(68.99, 74.75),
        "pi+ho+sstkd_structural+sstkd_statistical": Reported(69.10, 75.15),
        "pi+apd_kl+apd_prototype": Reported(74.15, 75.68),  # APD's repository
        "pi+cirkd_batch+cirkd_memory_pixel+cirkd_memory_region": Reported(72.55, 74.73),  # CIRKD's repository
    },
    "ade20k": {
        "cwd": Reported(24.65, 26.80),
        "pi+pa+ho": Reported(33.82, 36.55),
        "dsd_pixel+dsd_category": Reported(33.80, 38.00),
        "pi+pa+ho+cwd+idd_distance+idd_position": Reported(24.65, 27.69),
        "fakd": Reported(29.42, 35.30),
        "pi+ho+sstkd_structural+sstkd_statistical": Reported(24.65, 29.19),
        "pi+apd_kl+apd_prototype": Reported(37.19, 39.25),  # APD's repository
    },
    "voc": {
        "pi+cirkd_batch+cirkd_memory_pixel+cirkd_memory_region": Reported(73.33, 74.78),  # CIRKD's repository
    },
}


def reported(dataset: str | None, student: str | None, method: str) -> Reported | None:
    """Of a method on a dataset, none where no publication is known to have it for this student's backbone."""
    if student != "resnet18":
        return None
    terms = set(method.split("+"))
    return next(
        (found for key, found in _REPORTED.get(dataset or "", {}).items() if set(key.split("+")) == terms), None
    )

"""Two maps as a term compares them, and the adapter that gives the student's the teacher's width."""

from typing import TYPE_CHECKING

from kdtune.base import align, at_least_float32

if TYPE_CHECKING:
    from torch import Tensor, nn


def side_by_side(student: "Tensor", teacher: "Tensor") -> "tuple[Tensor, Tensor]":
    """The student's map (N, C_S, h, w) and the teacher's (N, C_T, h', w') on its cells, in float32 at least.

    The teacher's is without a gradient and resized bilinearly (align_corners=True).
    """
    from_student, from_teacher = at_least_float32(student, teacher.detach())
    return from_student, align(from_teacher, from_student)


def adapter(student_width: int, teacher_width: int, *, bias: bool = False) -> "nn.Module":
    """A 1x1 convolution to the teacher's width, an ``nn.Identity`` where the widths are equal."""
    from torch import nn

    if student_width == teacher_width:
        return nn.Identity()
    return nn.Conv2d(student_width, teacher_width, 1, bias=bias)

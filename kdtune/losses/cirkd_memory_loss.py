"""L_mem-p and L_mem-r as torch computes them."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdtune.base import Drawing, SegOutput
from kdtune.losses.cirkd_memory_pixel import PixelMemory
from kdtune.losses.cirkd_memory_region import RegionMemory
from kdtune.losses.class_centres import centres, labels_of
from kdtune.losses.side_by_side import side_by_side
from kdtune.modules import own_generator


class MemoryLoss(Drawing):
    """A memory of the teacher's features, and a projection of the student's to their width."""

    rows: Tensor  # (K, size, C_T) of length 1, in half precision: nothing else of a trial is as large
    oldest: Tensor  # (K,) the place that is overwritten next

    def __init__(
        self, term: PixelMemory | RegionMemory, student_width: int, teacher_width: int, num_classes: int
    ) -> None:
        super().__init__()
        self.term = term
        self.projection = nn.Sequential(
            nn.Conv2d(student_width, teacher_width, 1, bias=False),
            nn.BatchNorm2d(teacher_width),
            nn.ReLU(inplace=True),
            nn.Conv2d(teacher_width, teacher_width, 1, bias=False),
        )
        rows = torch.empty(num_classes, term.size, teacher_width, dtype=torch.float16)
        for of_class in rows:
            of_class.copy_(F.normalize(torch.randn(term.size, teacher_width), dim=1))
        self.register_buffer("rows", rows)
        self.register_buffer("oldest", torch.zeros(num_classes, dtype=torch.int64))
        self.generator = own_generator()

    def forward(self, student: SegOutput, teacher: SegOutput | None, target: Tensor) -> Tensor:
        """See the term; what it remembers of this batch, it compares with already."""
        assert teacher is not None
        maps = student.taps[self.term.tap], teacher.taps[self.term.tap]
        with torch.autocast(maps[0].device.type, enabled=False):
            from_student, from_teacher = side_by_side(*maps)
            theirs = unit_cells(from_teacher)  # (N, P, C_T)
            labels = labels_of(target, from_student, len(self.rows))
            with torch.no_grad():
                self.remember(theirs, labels)
            classes, size, _ = self.rows.shape
            places = lowest(self.numbers(size, like=theirs), self.term.sampled // classes + 1)
            return self.compared(from_student, theirs, labels, places)

    def remember(self, cells: Tensor, labels: Tensor) -> None:
        """Takes what the term keeps of the teacher's ``cells`` (N, P, C_T) into the memory."""
        raise TypeError(f"{type(self).__name__} has no remember")

    def compared(self, feature: Tensor, theirs: Tensor, labels: Tensor, places: Tensor) -> Tensor:
        """The term, for the student's ``feature`` (N, C_S, h, w) and the memory's ``places``."""
        sample = self.rows[:, places].flatten(0, 1).to(theirs.dtype)  # (K n, C_T)
        ours = unit_cells(self.projection(feature))  # (N, P, C_T)
        # (N, P, K n): softmax over the last axis takes half the time of one over another.
        logs = [(cells @ sample.T / self.term.temperature).log_softmax(dim=2) for cells in (ours, theirs)]
        apart = F.kl_div(logs[0], logs[1], log_target=True, reduction="none").sum(dim=2)  # (N, P)
        labelled = labels < len(self.rows)
        return (apart * labelled).sum() / labelled.sum().clamp(min=1)

    def numbers(self, *size: int, like: Tensor) -> Tensor:
        """Drawn in float64: no two are equal, so that their order is the same on every device."""
        return self.drawn(*size, like=like.new_empty(0, dtype=torch.float64))

    def push(self, entries: Tensor, count: Tensor, *, whole: bool = False) -> None:
        """The first ``count`` (K,) of ``entries`` (K, m, C_T) take the places of the oldest rows of their class.

        ``whole``: what would reach the end takes the last places, and the next begins at the first.
        """
        size = self.rows.shape[1]
        after = self.oldest + count
        first = torch.where(after >= size, size - count, self.oldest) if whole else self.oldest
        number = torch.arange(entries.shape[1], device=entries.device)
        places = ((first[:, None] + number) % size)[:, :, None].expand_as(entries)  # each once: m is at most size
        entering = (number < count[:, None])[:, :, None]
        self.rows.scatter_(1, places, torch.where(entering, entries.to(self.rows.dtype), self.rows.gather(1, places)))
        self.oldest.copy_(torch.where(after >= size, 0, after) if whole else after % size)


class PixelMemoryLoss(MemoryLoss):
    """L_mem-p."""

    term: PixelMemory

    def remember(self, cells: Tensor, labels: Tensor) -> None:
        """See ``PixelMemory``."""
        numbers = self.numbers(*labels.shape, like=cells)
        as_cirkd = self.term.convention == "cirkd"
        for image, label, number in zip(cells, labels, numbers, strict=True):
            chosen, count = self.chosen(label, number)
            self.push(image[chosen], count, whole=as_cirkd)

    def chosen(self, label: Tensor, number: Tensor) -> tuple[Tensor, Tensor]:
        """Cells (K, m) of an image with ``label`` (P,), those of lowest ``number`` (P,), and how many enter (K,)."""
        own = label == torch.arange(len(self.rows), device=label.device)[:, None]  # (K, P)
        cells = own.sum(dim=1)
        if self.term.convention == "cirkd":
            own = torch.arange(len(label), device=label.device) < cells[:, None]
        return lowest(torch.where(own, number, 1.0), self.term.per_image), cells.clamp(max=self.term.per_image)


class RegionMemoryLoss(MemoryLoss):
    """L_mem-r."""

    term: RegionMemory

    def remember(self, cells: Tensor, labels: Tensor) -> None:
        """See ``RegionMemory``."""
        means, counts = centres(cells.mT, labels, len(self.rows))  # (N, C_T, K), (N, K)
        for mean, count in zip(F.normalize(means, dim=1, eps=1e-12), counts, strict=True):
            self.push(mean.T[:, None], (count > 0).long())


def unit_cells(feature: Tensor) -> Tensor:
    """(N, C, h, w) to (N, P, C), each of length 1."""
    return F.normalize(feature.flatten(2).mT, dim=2, eps=1e-12)


def lowest(numbers: Tensor, count: int) -> Tensor:
    """Where the ``count`` lowest are along the last axis, in their order."""
    return numbers.topk(min(count, numbers.shape[-1]), largest=False).indices

"""The values of the losses between two evaluations: means, gradient norms, and which was the first to be not finite."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch._functorch.config
from torch import Tensor

from kdtune.base import SegNet


@dataclass
class LossSums:
    """Sums of loss values since the last evaluation; kept on the device, so that adding does not wait for it."""

    steps: int = 0
    total: Tensor | float = 0.0
    names: list[str] = field(default_factory=list)
    terms: Tensor | float = 0.0  # one sum per name
    broken: Tensor | None = None  # the first step at which each was not finite; 0: none

    def add(self, step: int, total: Tensor, values: Mapping[str, Tensor]) -> None:
        self.steps += 1
        self.total = self.total + total.detach()
        self.names = list(values)
        each = torch.stack([value.detach() for value in values.values()])
        self.terms = self.terms + each
        if self.broken is None:
            self.broken = torch.zeros(len(each), dtype=torch.int64, device=each.device)
        self.broken = torch.where(~torch.isfinite(each) & (self.broken == 0), step, self.broken)

    def means(self) -> tuple[float | None, dict[str, float | None]]:
        sums = self.terms.tolist() if isinstance(self.terms, Tensor) else []
        per_step = {name: finite_or_none(value / self.steps) for name, value in zip(self.names, sums, strict=True)}
        return finite_or_none(float(self.total) / self.steps) if self.steps else None, per_step

    def fault(self) -> str | None:
        """Which terms were the first that were not finite; none if all are."""
        since = [] if self.broken is None else self.broken.tolist()
        first = min((step for step in since if step), default=0)
        if not first:
            return None
        names = [f"losses.{name}" for name, step in zip(self.names, since, strict=True) if step == first]
        told = f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} not finite at step {first}"
        if len(names) == len(self.names) > 1:
            told += ", all at once: the weights were not finite any more"
        elif len(names) < len(self.names):
            told += f"; {', '.join(f'losses.{name}' for name in self.names if f'losses.{name}' not in names)} still was"
        return told


def finite_or_none(value: float) -> float | None:
    """The value, or none where JSON has no number for it."""
    return value if math.isfinite(value) else None


def grad_norms(values: Mapping[str, Tensor], student: SegNet) -> dict[str, float | None]:
    """Euclidean norm of each unweighted term's gradient over all of the student's parameters."""
    parameters = [p for p in student.parameters() if p.requires_grad]
    norms = {}
    for name, value in values.items():
        grads = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
        squares = [grad.float().square().sum() for grad in grads if grad is not None]
        norms[name] = finite_or_none(float(torch.stack(squares).sum().sqrt())) if squares else 0.0
    return norms

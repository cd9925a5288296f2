"""L_HO as torch computes it: the critic and its steps."""

import logging
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdtune.base import Drawing, SegOutput, align
from kdtune.losses.holistic import SMALLEST_MAP, Holistic, Preprocessing
from kdtune.modules import own_generator
from kdtune.resize import enlarged

WIDTHS = (64, 128, 256, 512)  # channels after each halving
SLOPE = 0.1  # of the critic's leaky ReLU

logger = logging.getLogger(__name__)


class HolisticLoss(Drawing):
    """L_HO with its critic, the critic's optimiser and the generator of the penalty's coefficient."""

    def __init__(self, term: Holistic, num_classes: int) -> None:
        super().__init__()
        self.term = term
        self.critic = Critic(num_classes, term.preprocessing, term.critic_width)
        self.critic.requires_grad_(False)  # but for its own step: the student's loss leaves no gradient in it
        self.optimizer = _optimizer(term, self.critic)
        self.generator = own_generator()
        self.said_resized = False

    def forward(self, student: SegOutput, teacher: SegOutput | None, target: Tensor) -> Tensor:
        """Minus the critic's mean score of the student's logits."""
        with torch.autocast(student.logits.device.type, enabled=False):
            scores: Tensor = self.critic(self.fit(student.logits))
            return -scores.mean()

    def trained_with_student(self) -> list[nn.Parameter]:
        """Nothing: the critic is the student's opponent and has its own optimiser."""
        return []

    def after_step(self, student: SegOutput, teacher: SegOutput | None, target: Tensor, progress: float) -> None:
        """The critic's own steps, at the rate of ``progress``."""
        assert teacher is not None
        for group in self.optimizer.param_groups:
            group["lr"] = self.term.critic_lr * max(0.0, 1.0 - progress) ** 0.9
        self.critic.requires_grad_(True)
        with torch.autocast(student.logits.device.type, enabled=False):
            fake = self.fit(student.logits.detach())
            real = self.fit(align(teacher.logits.detach().to(fake.dtype), student.logits))
            for _ in range(self.term.critic_steps):
                alpha = self.drawn(len(fake), like=fake)
                torch.autograd.backward(self.critic_loss(real, fake, alpha))
                self.optimizer.step()
                self.optimizer.zero_grad()
        self.critic.requires_grad_(False)

    def critic_loss(self, real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
        """What the critic minimises, with lambda_d, on fitted maps; ``alpha`` (N,) mixes for the penalty."""
        if self.term.convention == "ifvd":  # the order counts: every scoring takes a power step
            score_fake, score_real = self.critic(fake), self.critic(real)
        else:
            score_real, score_fake = self.critic(real), self.critic(fake)
        loss = adversarial(score_real, score_fake, self.term.adversary)
        if self.term.adversary == "wgan-gp":
            loss = loss + self.term.gradient_penalty * slope_penalty(self.critic, real, fake, alpha)
        return self.term.critic_weight * loss

    def fit(self, logits: Tensor) -> Tensor:
        """``logits`` in the critic's precision, sides below 64 cells enlarged to ``input_size``."""
        logits = logits.to(self.critic.last.weight.dtype)
        height, width = (n if n >= SMALLEST_MAP else self.term.input_size for n in logits.shape[-2:])
        if (height, width) == logits.shape[-2:]:
            return logits
        if not self.said_resized:
            before = tuple(logits.shape[-2:])
            logger.warning("ho: maps of %s cells are enlarged to %s for the critic", before, (height, width))
            self.said_resized = True
        return enlarged(logits, (height, width))

    def get_extra_state(self) -> dict[str, Any]:
        """What is neither parameter nor buffer: the optimiser's momenta and the generator."""
        return {**super().get_extra_state(), "optimizer": self.optimizer.state_dict()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """The inverse, once the critic is on its device."""
        super().set_extra_state(state)
        self.optimizer.load_state_dict(state["optimizer"])


def _optimizer(term: Holistic, critic: nn.Module) -> torch.optim.Optimizer:
    if term.convention == "skd":
        return torch.optim.SGD(critic.parameters(), lr=term.critic_lr, momentum=0.9, weight_decay=5e-4)
    return torch.optim.Adam(critic.parameters(), lr=term.critic_lr, betas=(0.9, 0.99))


def adversarial(score_real: Tensor, score_fake: Tensor, adversary: Literal["wgan-gp", "hinge"]) -> Tensor:
    """What the critic minimises before the penalty: the teacher's maps are real, the student's fake."""
    if adversary == "hinge":
        return F.relu(1 - score_real).mean() + F.relu(1 + score_fake).mean()
    return score_fake.mean() - score_real.mean()


def slope_penalty(critic: nn.Module, real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
    """Mean over images of (norm of the critic's slope - 1)^2, between the maps."""
    share = alpha.view(-1, 1, 1, 1)
    between = (share * real + (1 - share) * fake).detach().requires_grad_(True)  # (N, K, h, w)
    (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    length: Tensor = slope.flatten(1).norm(dim=1)  # (N,)
    return (length - 1).square().mean()


class Critic(nn.Module):
    """Scores logits (N, K, h, w), sides of 64 at least: four halvings, attention after the last two."""

    def __init__(self, num_classes: int, preprocessing: Preprocessing, width: float = 1.0) -> None:
        super().__init__()
        widths = [max(8, round(channels * width)) for channels in WIDTHS]
        layers = {"batch_norm": nn.BatchNorm2d(num_classes), "tanh": nn.Tanh(), "scale": Scale()}
        self.preprocessing: nn.Module = layers[preprocessing]
        self.halve1 = SpectralConv(num_classes, widths[0])
        self.halve2 = SpectralConv(widths[0], widths[1])
        self.halve3 = SpectralConv(widths[1], widths[2])
        self.attend3 = SelfAttention(widths[2])
        self.halve4 = SpectralConv(widths[2], widths[3])
        self.attend4 = SelfAttention(widths[3])
        self.last = nn.Conv2d(widths[3], 1, kernel_size=4)

    def forward(self, logits: Tensor) -> Tensor:
        """Scores, (N, 1, 1, 1) for maps of 64 to 79 cells a side."""
        x = self.preprocessing(logits)
        x = F.leaky_relu(self.halve1(x), SLOPE)  # (N, 64, h/2, w/2) at width 1
        x = F.leaky_relu(self.halve2(x), SLOPE)
        x = self.attend3(F.leaky_relu(self.halve3(x), SLOPE))
        x = self.attend4(F.leaky_relu(self.halve4(x), SLOPE))  # (N, 512, h/16, w/16)
        scores: Tensor = self.last(x)
        return scores


class Scale(nn.Module):
    """Values of 0 to 255 to -1 to 1, as SKD's code offers it for logits too."""

    def forward(self, input: Tensor) -> Tensor:
        """``2 (input / 255 - 1/2)``."""
        return 2 * (input / 255 - 0.5)


class SpectralConv(nn.Conv2d):
    """A halving 4x4 convolution, its weight divided by its largest singular value as one power step has it.

    Every forward takes that step, in evaluation too, so ``u`` is state. torch's own parametrisation takes the
    two half-steps in the other order, which gives other values.
    """

    u: Tensor  # (out_channels,) estimate of the first left singular vector

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=4, stride=2, padding=1)
        self.register_buffer("u", _unit(torch.randn(out_channels)))

    def forward(self, input: Tensor) -> Tensor:
        """The convolution, after a power step."""
        matrix = self.weight.flatten(1)  # (out, in * 16)
        with torch.no_grad():
            v = _unit(matrix.T @ self.u)
            u = _unit(matrix @ v)
            self.u.copy_(u)  # a copy: the graph keeps this pass's own u, whatever later passes write
        sigma = torch.dot(u, matrix @ v)
        return F.conv2d(input, self.weight / sigma, self.bias, self.stride, self.padding)


def _unit(vector: Tensor) -> Tensor:
    length: Tensor = vector.norm()
    return vector / (length + 1e-12)


class SelfAttention(nn.Module):
    """Each cell adds what it reads in all cells; gamma starts at 0: at first the input passes unchanged."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels, channels // 8, kernel_size=1)
        self.key = nn.Conv2d(channels, channels // 8, kernel_size=1)
        self.value = nn.Conv2d(channels, channels, kernel_size=1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def weights(self, x: Tensor) -> Tensor:
        """How much each cell reads in each (N, P, P), rows sum to 1; not divided by the root of C."""
        weights: Tensor = F.softmax(self.query(x).flatten(2).mT @ self.key(x).flatten(2), dim=2)
        return weights

    def forward(self, x: Tensor) -> Tensor:
        """``x`` (N, C, h, w) plus gamma times what was read."""
        read = self.value(x).flatten(2) @ self.weights(x).mT  # (N, C, P)
        mixed: Tensor = self.gamma * read.view_as(x) + x
        return mixed

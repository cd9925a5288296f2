"""How a trial asks its teacher: the network runs at each step, or what it made of a step is read from the store.

What leaves the teacher as logits has one precision, run or read: float16 where the recipe runs in bf16, whose ten bits
of mantissa are eight times finer than bfloat16's at the same size, and float32 elsewhere.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from kdtune.base import SegNet, SegOutput, Tap, UserError
from kdtune.loading.batches import Batch
from kdtune.models.folding import cast, folded
from kdtune.study.trial_config import TrialConfig
from kdtune.training.compiling import compiled
from kdtune.training.evaluation import autocast, half_precision, layout
from kdtune.training.kept_parts import KeptParts

LARGEST = torch.finfo(torch.float16).max


@dataclass
class Asked:
    """How often a trial's teacher was run, and how often what it had made was read; part of the trial's state."""

    run: int = 0  # steps, ahead of the trial's own included
    read: int = 0  # steps that another trial had run
    seconds_run: float = 0.0  # of the steps run for the store; none where it runs at each step
    seconds_used: float = 0.0  # that the steps used have taken whoever ran them, likewise

    def columns(self, kwh: float, seconds: float) -> dict[str, float | int | None]:
        """Of a trial's row; ``kwh`` and ``seconds`` are those of its steps. Null without a teacher, or a meter.

        ``energy_alone_kwh``: had it shared the teacher with nobody; what it ran for others, or read of them, is turned
        into energy by what its own seconds took.
        """
        names = ("teacher_steps_run", "teacher_steps_read", "energy_alone_kwh")
        if not self.run + self.read:
            return dict.fromkeys(names)
        alone = kwh + kwh / seconds * (self.seconds_used - self.seconds_run) if kwh and seconds else None
        return dict(zip(names, (self.run, self.read, alone), strict=True))

    def load(self, state: Mapping[str, Any]) -> None:
        """From a checkpoint."""
        for name, value in state.items():
            setattr(self, name, value)


class Teaching(Protocol):
    """Who answers for the teacher."""

    @property
    def kept(self) -> KeptParts | None:
        """What terms have made of it before training; none where nothing is kept."""

    def outputs(self, step: int, batch: Batch, asked: Asked, taps: frozenset[Tap] | None = None) -> SegOutput:
        """What the teacher makes of the batch of a step (from 0): logits, and these taps.

        Without ``taps`` what the trial's terms read: their taps, or digests in the place of them.

        Raises:
            UserError: the teacher's weights are missing or do not fit.
        """

    def refuse_overflow(self) -> None:
        """Waits for the device.

        Raises:
            UserError: a logit was too large for its precision, or none at all.
        """

    def close(self) -> None:
        """Nothing more is asked."""


class Live:
    """The network itself, loaded when it is first asked."""

    def __init__(
        self,
        config: TrialConfig,
        load: Callable[[], SegNet],
        device: torch.device,
        kept: KeptParts | None = None,
    ) -> None:
        assert config.teacher is not None
        self.kept = kept
        self._config, self._load, self._device = config, load, device
        self._preprocessing = config.teacher.model.preprocessing
        self._taps = frozenset[Tap]().union(*(term.teacher_taps for term in config.active_losses.values()))
        self._half = half_precision(config.recipe, device)
        self._overflow: Tensor | None = None

    @functools.cached_property
    def _forward(self) -> Any:
        network, recipe = self._load(), self._config.recipe
        if self._device.type == "cuda":  # on a processor it would change digits and gain little
            network = prepared_for_gpu(network, self._half)
        network.to(memory_format=layout(recipe, self._device))
        return compiled(network) if recipe.compile else network

    def outputs(self, step: int, batch: Batch, asked: Asked, taps: frozenset[Tap] | None = None) -> SegOutput:
        """See ``Teaching``."""
        asked.run += 1
        return self.forward(batch, self._taps if taps is None else taps)

    def forward(self, batch: Batch, taps: frozenset[Tap]) -> SegOutput:
        """What the network makes of a batch, without gradients."""
        recipe = self._config.recipe
        image = batch.image(self._preprocessing, layout(recipe, self._device))
        with torch.no_grad(), autocast(recipe, self._device):
            found: SegOutput = self._forward(image, taps)
            logits = self._leaving(found.logits)
            maps = (
                found.taps | {"logits": logits} if "logits" in taps else found.taps
            )  # of one precision, as ``logits``
            return replace(found, logits=logits, taps=maps)

    def _leaving(self, logits: Tensor) -> Tensor:
        """The logits in their one precision and layout; whether all fit is kept on the device."""
        if not self._half:
            return logits.contiguous()
        beyond = ~(logits.abs() <= LARGEST).all()
        self._overflow = beyond if self._overflow is None else self._overflow | beyond
        return logits.to(torch.float16).contiguous()

    def refuse_overflow(self) -> None:
        """See ``Teaching``."""
        if self._overflow is not None and bool(self._overflow):
            raise overflow(self._config)

    def close(self) -> None:
        """See ``Teaching``."""


def overflow(config: TrialConfig) -> UserError:
    """The teacher's logits have no finite value in their precision."""
    assert config.teacher is not None
    return UserError(
        f"teacher {config.teacher.checkpoint}: its logits go beyond {LARGEST:g}, the most that float16 holds: set "
        "recipe.bf16: false, or give another teacher"
    )


@functools.lru_cache(maxsize=2)  # as many as teachers are kept
def prepared_for_gpu(network: SegNet, half: bool) -> SegNet:
    """A copy as it runs fastest: folded, and in bfloat16 where autocast would have cast it at each step."""
    made = folded(network)
    return cast(made, torch.bfloat16) if half else made

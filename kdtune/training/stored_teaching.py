"""A teacher whose outputs are read from a node's store, or computed for it: trials split one teacher among them.

A trial that needs a block reads it; else claims and computes it; else, while another computes it, computes the next
block that nobody has claimed, up to ``AHEAD`` further; else waits. Whatever goes wrong with the store, the teacher runs
at each step, and the numbers are the same.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kdtune import signs
from kdtune.base import LossTerm, SegOutput, Tap
from kdtune.loading.batches import Batch, train_batches
from kdtune.loading.images import Images
from kdtune.study.trial_config import TrialConfig
from kdtune.training.kept_parts import KeptParts
from kdtune.training.teacher_store import HEAD, STEPS, Block, Claim, Store, write
from kdtune.training.teaching import Asked, Live, overflow
from kdtune.training.waiting import waiting

AHEAD = 4  # blocks that a trial computes for others while it waits
FIRST_PAUSE, LONGEST_PAUSE = 0.01, 0.2  # seconds between two looks at what another process computes
LOGITS = "logits"  # the tap, and the map on disk

_log = logging.getLogger("kdtune")


@dataclass(frozen=True)
class Wanted:
    """What a trial reads of its teacher, and what it keeps for other trials of the study beside that."""

    terms: Sequence[LossTerm]  # whose digests it reads
    others: Sequence[LossTerm]  # whose digests are made with them
    cells: Mapping[Tap, tuple[int, int]]  # of the student's maps

    def maps(self, terms: Sequence[LossTerm]) -> dict[str, LossTerm | None]:
        """The names of the maps on disk, each with the term whose digest it is."""
        return {LOGITS: None} | {f"{term.digest_name}-{self._size(term)}": term for term in terms}

    def _size(self, term: LossTerm) -> str:
        return "x".join(map(str, self.cells_of(term)))

    def cells_of(self, term: LossTerm) -> tuple[int, int]:
        """The size of the student's map that a term reads."""
        return self.cells[min(term.taps)]


class Stored:
    """The teacher's outputs of one trial, by block."""

    def __init__(
        self, config: TrialConfig, live: Live, store: Store, train: Images, wanted: Wanted, device: torch.device
    ) -> None:
        self._config, self._live, self._store, self._train, self._device = config, live, store, train, device
        self._wanted = wanted
        self._read = wanted.maps(wanted.terms)
        self._kept = self._read | wanted.maps(wanted.others)
        self._taps = frozenset[Tap]().union(*(term.teacher_taps for term in (*wanted.terms, *wanted.others)))
        self._gives_logits = any(LOGITS in term.teacher_taps for term in config.active_losses.values())
        self._block: int | None = None
        self._blocks: dict[str, Block] | None = None  # none: the teacher runs at each step of this block
        self._own = set[int]()  # blocks that this trial has computed
        self._writes = True
        self._finite = True
        self._noted = set[str]()

    @property
    def kept(self) -> KeptParts | None:
        """See ``Teaching``."""
        return self._live.kept

    def outputs(self, step: int, batch: Batch, asked: Asked, taps: frozenset[Tap] | None = None) -> SegOutput:
        """See ``Teaching``."""
        if taps or step >= self._config.recipe.num_steps:  # before training a term may take more batches than it has
            return self._live.outputs(step, batch, asked, taps)
        block, i = divmod(step, STEPS)
        if block != self._block:
            self._block, self._blocks = block, self._found(block, asked)
        if self._blocks is not None:
            found = {name: each.step(i) for name, each in self._blocks.items()}
            sound = {name: value for name, value in found.items() if value is not None}
            if len(sound) == len(found):
                asked.read += block not in self._own
                asked.seconds_used += self._blocks[LOGITS].seconds
                return self._output(sound)
            damaged = next(name for name in found if name not in sound)
            self._note(f"{self._blocks[damaged].path} is damaged and computed again")
            self._blocks[damaged].path.unlink(missing_ok=True)
            self._block = None
            return self.outputs(step, batch, asked)
        return self._live.outputs(step, batch, asked)

    def _output(self, maps: Mapping[str, np.ndarray]) -> SegOutput:
        """The maps of a step on the device."""
        self._finite = self._finite and bool(np.isfinite(maps[LOGITS]).all())
        on_device = {name: self._moved(torch.from_numpy(value)) for name, value in maps.items()}
        digests = {term.digest_name: on_device[name] for name, term in self._read.items() if term is not None}
        taps = {LOGITS: on_device[LOGITS]} if self._gives_logits else {}
        return SegOutput(on_device[LOGITS], taps, digests=digests)

    def _moved(self, value: Tensor) -> Tensor:
        if self._device.type != "cuda":
            return value
        return value.pin_memory().to(self._device, non_blocking=True)

    def _found(self, block: int, asked: Asked) -> dict[str, Block] | None:
        """The block, read, computed here or waited for; none if the teacher has to run at each of its steps."""
        pause = FIRST_PAUSE
        while True:
            there = self._there(block)
            if there is not None:
                return there
            if not self._writes:
                return None
            last = (self._config.recipe.num_steps - 1) // STEPS
            tried = (self._computed(each, asked) for each in range(block, min(block + AHEAD, last) + 1))
            computed = next((each for each in tried if each), False)
            if not computed:
                if self._store.silent(block):
                    self._note("another trial that computes the teacher's outputs shows no sign of life")
                    return None
                signs.alive()
                time.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)

    def _there(self, block: int, names: Sequence[str] | None = None) -> dict[str, Block] | None:
        return self._store.blocks(names or list(self._read), block, self._steps(block))

    def _steps(self, block: int) -> int:
        """That this trial has in a block: a longer one writes it anew."""
        return min(STEPS, self._config.recipe.num_steps - block * STEPS)

    def _computed(self, block: int, asked: Asked) -> bool:
        """Whether a block was missing, and now is there; what fails is noted, and nothing more is written."""
        if not self._writes or self._there(block) is not None:
            return False
        try:
            with self._store.claim(block) as claim:
                if claim is None or self._there(block) is not None:
                    return False
                self._compute(block, claim, asked)
        except OSError as error:
            self._stop_writing(f"{error.strerror or error}")
            return False
        return True

    def _stop_writing(self, reason: str) -> None:
        self._writes = False
        self._note(f"{self._store.folder}: the teacher's outputs are not kept: {reason}; it runs at each step")

    def _compute(self, block: int, claim: Claim, asked: Asked) -> None:
        began, steps, first = time.perf_counter(), self._steps(block), block * STEPS
        missing = {name: term for name, term in self._kept.items() if self._there(block, [name]) is None}
        made: dict[str, list[Tensor]] = {name: [] for name in missing}
        recipe, seed = self._config.recipe, self._config.seed
        with waiting(self._device):
            for batch in train_batches(self._train, recipe, seed, first, self._device, first + steps):
                signs.alive()
                claim.alive()
                maps = self._maps(batch, missing)
                for name, value in maps.items():
                    made[name].append(value.cpu())
                if all(len(values) == 1 for values in made.values()):
                    self._check_room(maps, steps)
        asked.run += steps
        seconds = time.perf_counter() - began
        asked.seconds_run += seconds
        self._own.add(block)
        for name, values in made.items():
            write(self._store.file(name, block), [value.numpy() for value in values], seconds / steps)

    def _maps(self, batch: Batch, wanted: Mapping[str, LossTerm | None]) -> dict[str, Tensor]:
        output = self._live.forward(batch, self._taps)
        with torch.no_grad():
            return {
                name: output.logits
                if term is None
                else term.digest(output, self._wanted.cells_of(term), batch.target).contiguous()
                for name, term in wanted.items()
            }

    def _check_room(self, maps: Mapping[str, Tensor], steps: int) -> None:
        """Raises OSError where a block of such maps has no room, so that what there is stays a prefix of the run."""
        needed = sum(HEAD + steps * value.nbytes for value in maps.values())
        if not self._store.has_room(needed):
            raise OSError("no room is left")

    def _note(self, text: str) -> None:
        if text not in self._noted:
            self._noted.add(text)
            _log.warning("%s", text)

    def refuse_overflow(self) -> None:
        """See ``Teaching``."""
        self._live.refuse_overflow()
        if not self._finite:
            raise overflow(self._config)

    def close(self) -> None:
        """See ``Teaching``."""
        self._blocks = None
        self._store.close()

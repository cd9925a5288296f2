"""The networks that a study names, each built once: what it says of those of other packages is seen only then."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdtune.base import Model, Tap, UserError
from kdtune.models import MODELS, builders
from kdtune.study.spec import StudySpec

if TYPE_CHECKING:
    from kdtune.base import SegNet


@dataclass(frozen=True)
class Named:
    """A network as stages name it."""

    part: str  # "student" or "teacher"
    model: Model
    num_classes: int
    crop: tuple[int, int]  # height, width in training [pixels]
    stages: tuple[str, ...]
    read_by: str  # the first term that reads its classifier, if any
    run_by: tuple[tuple[str, Tap], ...] = ()  # terms that run what follows a tap by itself, each with that tap

    def built(self) -> "SegNet":
        """The network, its weights random.

        Raises:
            UserError: it is not what the study says of it, or a term reads a classifier that it does not have, or runs
                what cannot be run by itself.
        """
        network = self.model.model_copy(update={"init": "random"}).build(self.num_classes)  # nothing is downloaded
        try:
            _ = self.read_by and network.classifier  # which says if there is none
        except UserError as error:
            raise UserError(f"losses.{self.read_by} reads the student's classifier: {error}") from None
        for name, tap in self.run_by:
            try:
                _run_after(network, tap)
            except UserError as error:
                raise UserError(f"losses.{name} runs what follows the student's tap '{tap}': {error}") from None
        return network


def _run_after(network: "SegNet", tap: Tap) -> None:
    """Runs what follows a tap on one cell of zeros.

    Raises:
        UserError: it cannot be run by itself.
    """
    import torch

    from kdtune.models.external_network import resting

    with resting(network), torch.no_grad():
        network.after(tap, next(network.parameters()).new_zeros(1, network.channels[tap], 1, 1))


def _is_ours(model: Model) -> bool:
    return model.name in MODELS.table and model.name != "external"


def named_networks(study: StudySpec, only: Sequence[str] = (), *, external: bool = False) -> list[Named]:
    """The different networks of these stages (none: all); ``external``: those of other packages alone."""
    found: dict[tuple[object, ...], Named] = {}
    for stage, config in study.templates().items():
        terms = config.active_losses
        reader = next((name for name, term in terms.items() if term.needs_classifier), "")
        runners = tuple((name, term.runs_after) for name, term in terms.items() if term.runs_after is not None)
        teacher = config.teacher.model if config.uses_teacher and config.teacher else None
        asked = (("student", config.student, reader, runners), ("teacher", teacher, "", ()))
        for part, model, read_by, run_by in asked:
            if model is None or (only and stage not in only) or (external and _is_ours(model)):
                continue
            classes = config.dataset.num_classes
            key = (part, model.model_dump_json(), classes, read_by, run_by)
            before = found[key].stages if key in found else ()
            found[key] = Named(part, model, classes, config.recipe.crop, (*before, stage), read_by, run_by)
    return [*found.values()]


def find_builders(study: StudySpec, only: Sequence[str]) -> None:
    """Looks the functions up that build these stages' networks of other packages, and builds nothing.

    Raises:
        UserError: one is not there, or nothing says that it builds networks.
    """
    for named in named_networks(study, only, external=True):
        if (builder := getattr(named.model, "builder", None)) is not None:  # a plug-in's network needs none
            builders.find(builder)


def network_lines(study: StudySpec, *, external: bool = False, modules: bool = False) -> Iterator[str]:
    """What each network turns out to be, at the size of training; ``modules``: every one of its that gives a map.

    Raises:
        UserError: see ``Named.built``.
    """
    for named in named_networks(study, external=external):
        from kdtune.models.listing import listed

        which = getattr(named.model, "builder", named.model.label)
        yield f"{named.part} of {', '.join(named.stages)}: {which}"
        yield from listed(named.built(), named.crop, modules)

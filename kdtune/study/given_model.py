"""A network as a user names it: ``--model``, or the record of a file. Read without torch."""

from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from kdtune.base import Model, UserError
from kdtune.study.faults import told
from kdtune.study.loader import Ambiguous, Document, Refused
from kdtune.study.trial_config import AnyModel


def given_model(text: str) -> dict[str, Any]:
    """``--model`` as a mapping: YAML as such, or a file of it, with or without a ``model`` key around it."""
    path = Path(text).expanduser()
    try:
        found = Document(path.read_text() if path.is_file() else text).value()
    except (Ambiguous, Refused) as error:
        raise UserError(f"--model {text}: {error.problem}") from None
    except (yaml.YAMLError, OSError, UnicodeDecodeError):
        raise UserError(f"--model {text}: not a YAML mapping, nor a file of one") from None
    if isinstance(found, dict) and isinstance(found.get("model"), dict):
        found = found["model"]
    if not isinstance(found, dict):
        raise UserError(f"--model {text}: needs a mapping, e.g. '{{name: pspnet, backbone: resnet101}}', or its file")
    return found


def model_from(fields: Any, where: str) -> Model:
    """A network as a study names it; ``where`` begins the line of an error."""
    try:
        model: Model = TypeAdapter(AnyModel).validate_python(fields)
        return model
    except ValidationError as error:
        fault = error.errors()[0]
        at = ".".join(str(part) for part in fault["loc"] if not str(part).startswith("function-"))
        raise UserError(f"{where}: {f'{at}: ' if at else ''}{told(fault)}") from None


def network_named(text: str) -> Model:
    """The network of ``--model``.

    Raises:
        UserError: not a mapping, or not of a network.
    """
    return model_from(given_model(text), f"--model {text}")

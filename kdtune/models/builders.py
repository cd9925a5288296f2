"""The function that a study names as the builder of a network.

A study may come from somebody else, and ``builder`` names any function of any package: it is called only if it is known
to return a network, or if the user has vouched for its module.
"""

import importlib
import os
import sys
import traceback
import typing
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kdtune.base import UserError
from kdtune.text import did_you_mean

VOUCHED = "KDTUNE_PY_MODULES"  # what ``--py-module`` named, for the processes that a launch starts
IMPORT = importlib.__file__  # whose lines, as the frozen ones, stand in each traceback of an import


def vouch(modules: Sequence[str]) -> None:
    """Lets functions of these modules build networks, here and in the processes that are started from here.

    A module is a name, or a file or folder, which can then be imported.

    Raises:
        UserError: no such file, folder or module, or no name of one.
    """
    for given in modules:
        path = Path(given).expanduser().absolute()
        is_path = os.sep in given or given.endswith(".py") or path.exists()
        if is_path and not (path.is_dir() or (path.is_file() and path.suffix == ".py")):
            raise UserError(f"--py-module {given}: no such file or folder of Python modules")
        if not all(part.isidentifier() for part in ([path.stem] if is_path else given.split("."))):
            raise UserError(f"--py-module {given}: is no name that Python can import")
        if not is_path:
            _refuse_unknown(given)
        if is_path:
            sys.path.insert(0, str(path.parent))
            before = os.environ.get("PYTHONPATH")
            os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(path.parent), before]))
        os.environ[VOUCHED] = os.pathsep.join(filter(None, [str(path) if is_path else given, os.environ.get(VOUCHED)]))


def _refuse_unknown(module: str) -> None:
    """Looks a module up by its name; of ``package.module`` the package is imported."""
    try:
        reason = "" if find_spec(module) is not None else "no such module; install it, or give its file or folder"
    except (Exception, SystemExit) as error:  # a package of a user's own may raise anything
        absent = f"{first_line(error)}; install it, or give its file or folder"
        reason = absent if _is_absent(module, error) else _fault(error)
    if reason:
        raise UserError(f"--py-module {module}: {reason}")


def _is_absent(module: str, error: BaseException) -> bool:
    """Whether it is the module itself, or a package around it, that could not be found."""
    return isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}.")


def _fault(error: BaseException) -> str:
    """What a module raised that is there, in which line of which file, and what to do."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}: {type(error).__name__}: {error.msg}; mend that file"
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not f.filename.startswith("<frozen ") and f.filename not in (__file__, IMPORT)]
    place = f"{own[-1].filename}, line {own[-1].lineno}: " if own else ""
    if isinstance(error, ModuleNotFoundError):
        what = f"install '{error.name}', or name its file or folder with --py-module, too"
        return f"{place}{first_line(error)}; {what}"
    return f"{place}{first_line(error)}; mend that file"


def vouched() -> dict[str, Path | None]:
    """The modules that the user has vouched for, and where those lie that were given as files or folders."""
    given = [each for each in os.environ.get(VOUCHED, "").split(os.pathsep) if each]
    return {Path(each).stem if os.sep in each else each: Path(each) if os.sep in each else None for each in given}


def runtime_env() -> dict[str, Any]:
    """What Ray is to give the processes of other machines, for them to know these modules."""
    modules = vouched()
    sent = [str(path) for path in modules.values() if path is not None]
    found: dict[str, Any] = {"py_modules": sent} if sent else {}
    return found | ({"env_vars": {VOUCHED: os.pathsep.join(modules)}} if modules else {})


def find(builder: str) -> Callable[..., Any]:
    """The function of ``package.module:function``.

    Raises:
        UserError: there is none, or nothing says that it builds networks.
    """
    module, _, path = builder.partition(":")
    if module.split(".")[0] in sys.stdlib_module_names:
        raise UserError(f"builder {builder}: is part of Python itself, which has no networks; name another function")
    try:
        found: Any = importlib.import_module(module)
    except (Exception, SystemExit) as error:  # a module of a user's own may raise anything
        absent = (
            f"{first_line(error)}; install it, or name its file or folder with --py-module, or put its folder on "
            "PYTHONPATH"
        )
        reason = absent if _is_absent(module, error) else _fault(error)
        raise UserError(f"builder {builder}: cannot import '{module}': {reason}") from error
    for name in path.split("."):
        if not hasattr(found, name):
            raise UserError(f"builder {builder}: no '{name}' there{did_you_mean(name, dir(found))}")
        found = getattr(found, name)
    if not callable(found):
        raise UserError(f"builder {builder}: is not a function")
    if not (is_vouched(builder) or _returns_network(found)):
        raise UserError(
            f"builder {builder}: nothing says that it returns a network: annotate it (-> torch.nn.Module) if it is "
            f"yours, or vouch for it with --py-module {module}"
        )
    called: Callable[..., Any] = found
    return called


def is_vouched(builder: str) -> bool:
    """Whether the user has vouched for the module of ``package.module:function``."""
    module = builder.partition(":")[0]
    return any(module == each or module.startswith(f"{each}.") for each in vouched())


def _returns_network(function: Callable[..., Any]) -> bool:
    """Whether it is a class of networks, or its annotation says that it returns one."""
    from torch import nn

    if isinstance(function, type):
        return issubclass(function, nn.Module)
    try:
        returned = typing.get_type_hints(function).get("return")
    except Exception:  # an annotation may name what is not imported
        return False
    return isinstance(returned, type) and issubclass(returned, nn.Module)


def first_line(error: BaseException) -> str:
    """``ValueError: what it says``, without what follows a line break."""
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}".rstrip(": ")

"""Addresses of clusters, as a user gives them."""

import os
from pathlib import Path

from ray._common.utils import get_ray_address_file

from kdtune.base import UserError


def given_as(address: str) -> str:
    """The address with what the user gave it by."""
    return f"RAY_ADDRESS={address}" if os.environ.get("RAY_ADDRESS") == address else f"--address {address}"


def joinable(address: str) -> str:
    """The address of a cluster that a launch can join; ``auto`` is the one that this user started on this machine.

    Raises:
        UserError: it is a dashboard's, or none, or another user's.
    """
    scheme = address.partition("://")[0] if "://" in address else ""
    if scheme in ("http", "https"):
        raise UserError(
            f"{given_as(address)}: is a dashboard's address, to which `kdtune launch --detach` submits; without it "
            "give that of the cluster, HOST:6379"
        )
    if scheme not in ("", "ray"):  # Ray would import a module of that name
        raise UserError(f"{given_as(address)}: is no address of a cluster; give HOST:6379")
    return address_of_auto() if address == "auto" else address


def address_of_auto() -> str:
    """Of the cluster that this user, or root, started on this machine; within a job, of the job's.

    Ray itself would take any user's, and send it the token.

    Raises:
        UserError: there is none.
    """
    given = os.environ.get("RAY_ADDRESS", "auto")
    if given != "auto":
        return given
    file = Path(get_ray_address_file(None))
    try:
        owner = file.stat().st_uid
        found = file.read_text().strip()
    except OSError:
        raise UserError("--address auto: no Ray cluster was started on this machine; give HOST:6379") from None
    if owner not in (os.getuid(), 0):
        raise UserError(f"--address auto: another user started the cluster that {file} names; give HOST:6379")
    return found

"""adapters: what a running gateway serves beside its model, changed while it serves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from neurorit.core.errors import BadInput, NeuroritError

_SECONDS = 300.0


def add(adapters: Sequence[str], url: str, admin_key_file: Path | None) -> dict[str, Any]:
    """Serve each NAME=DIR of a gateway on this machine; what it then serves.

    Raises BadInput for another form, NeuroritError where the gateway refuses.
    """
    from neurorit.serving.backends.lora import parse_named

    named = [parse_named(given) for given in adapters]
    if not named:
        raise BadInput("adapters: name at least one, as NAME=DIR")
    found: dict[str, Any] = {}
    for name, directory in named:
        body = {"name": name, "directory": str(directory.absolute())}
        found = _asked("POST", url, "", _admin(admin_key_file), body)
    return found


def remove(names: Sequence[str], url: str, admin_key_file: Path | None) -> dict[str, Any]:
    """Take adapters away; what the gateway then serves. Raises NeuroritError where it refuses."""
    found: dict[str, Any] = {}
    for name in names:
        found = _asked("DELETE", url, f"/{quote(name, safe='')}", _admin(admin_key_file))
    return found


def listed(url: str, api_key_file: Path | None) -> dict[str, Any]:
    """What a gateway serves. Raises NeuroritError where it refuses."""
    from neurorit.serving.middleware.auth import read_api_keys

    keys = sorted(read_api_keys(api_key_file))
    return _asked("GET", url, "", keys[0] if keys else "")


def show(result: Mapping[str, Any]) -> None:
    """One line an adapter, for a person."""
    import typer

    for one in result["adapters"]:
        typer.echo(f"{one['name']}  rank {one['rank']}  {one['digest']}")
    if not result["adapters"]:
        typer.echo("no adapters")


def _admin(path: Path | None) -> str:
    from neurorit.serving.middleware.auth import read_admin_key

    return read_admin_key(path)


def _asked(
    method: str, url: str, place: str, key: str, body: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    import httpx

    from neurorit.core.endpoint.replies import error_message
    from neurorit.serving.backends.pool import check_url

    address = check_url(url, "url")
    try:
        response = httpx.request(
            method,
            f"{address}/v1/adapters{place}",
            json=body,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=_SECONDS,
        )
        reply = response.json()
    except httpx.HTTPError as error:
        raise NeuroritError(
            f"no gateway answers at {url} ({error}); start one with `neurorit-rag serve`"
        ) from error
    except ValueError as error:
        raise NeuroritError(
            f"{url} answered with status {response.status_code}, but not as a gateway does"
        ) from error
    if response.status_code != 200:
        raise NeuroritError(f"the gateway at {url} refused: {error_message(reply)}")
    return {"url": url, "adapters": reply["data"]}

"""The routes that add, remove and list adapters of a running engine; they need the admin's key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field

from neurorit.serving.backends.adapters import Adapters
from neurorit.serving.gateway import schemas
from neurorit.serving.gateway.asking import Gateway, pipeline_of
from neurorit.serving.gateway.schemas import errors
from neurorit.serving.middleware.errors import ApiError


class AdapterRequest(BaseModel):
    """What `POST /v1/adapters` reads."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=100, description="what it is asked for by")
    directory: str = Field(
        min_length=1, max_length=4096, description="its folder, on the server's machine"
    )


def adapter_routes(app: FastAPI, gateway: Gateway) -> None:
    """Add the routes to an app."""
    refusals: dict[int | str, dict[str, Any]] = {
        200: {"model": schemas.AdapterList},
        **errors(400, 401, 403, 404, 429, 502, 503),
    }

    @app.get("/v1/adapters", responses=refusals)
    async def adapters() -> dict[str, Any]:
        """The adapters that can be asked, with their ranks and digests."""
        return _listed(gateway.adapters)

    @app.post("/v1/adapters", responses=refusals)
    async def add_adapter(request: AdapterRequest) -> dict[str, Any]:
        """Load a LoRA and serve it under a name, also in the place of one that has that name."""
        held = _held(gateway)
        if request.name in (gateway.model, gateway.base_model):
            text = f"name: {request.name!r} is another model's name here"
            raise ApiError(400, text, param="name")
        pipeline_of(gateway)  # an engine that is not ready loads nothing
        await held.add(request.name, Path(request.directory))
        return _listed(held)

    @app.delete("/v1/adapters/{name}", responses=refusals)
    async def remove_adapter(name: str) -> dict[str, Any]:
        """Take an adapter away; requests that run keep it to their end."""
        held = _held(gateway)
        if name not in held:
            text = f"there is no adapter {name!r} here"
            raise ApiError(404, text, param="name", code="model_not_found")
        await held.remove(name)
        return _listed(held)


def _held(gateway: Gateway) -> Adapters:
    if gateway.adapters is None:
        raise ApiError(400, "this server made no room for adapters: start it with --max-adapters")
    return gateway.adapters


def _listed(adapters: Adapters | None) -> dict[str, Any]:
    found = [adapters[name] for name in adapters.names] if adapters is not None else []
    return {
        "object": "list",
        "data": [{"name": one.name, "rank": one.rank, "digest": one.digest[:16]} for one in found],
    }

"""Refusals and failures in the form of OpenAI's error bodies."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.requests import Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from neurorit.core.endpoint.replies import CallFailed
from neurorit.core.errors import BadInput, NeuroritError

_log = logging.getLogger("neurorit.serving")


class ApiError(Exception):
    """A refusal with an HTTP status and OpenAI's error fields."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        # What a client sent may be in the message, and need not be text that can be sent.
        self.body = error_body(
            _sendable(message), kind, param=param and _sendable(param), code=code
        )
        self.headers = dict(headers or {})


def install_error_bodies(app: FastAPI, fields: Collection[str] = ()) -> None:
    """Answer every error of an app in OpenAI's shape. fields: names that requests may hold."""

    async def api_error(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, ApiError)
        return error_response(error)

    async def invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return error_response(_first_problem(error, fields))

    async def bad_input(request: Request, error: Exception) -> JSONResponse:
        return error_response(ApiError(400, str(error)))

    async def upstream(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, CallFailed)
        return error_response(upstream_refusal(error))

    async def searching(request: Request, error: Exception) -> JSONResponse:
        return error_response(search_refusal(error))

    async def http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        message = f"{request.method} {request.url.path}: {error.detail}"
        return error_response(ApiError(error.status_code, message, headers=error.headers))

    app.add_exception_handler(ApiError, api_error)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(BadInput, bad_input)
    app.add_exception_handler(CallFailed, upstream)
    app.add_exception_handler(NeuroritError, searching)
    app.add_exception_handler(HTTPException, http)


def upstream_refusal(error: CallFailed) -> ApiError:
    """What a client is told when the language model fails."""
    if error.of_this_request:
        return ApiError(400, str(error))
    if error.status in (None, 429, 503):  # gone or busy: it may be back at once
        headers = {"Retry-After": "2"}
        return ApiError(503, str(error), kind="upstream_error", headers=headers)
    return ApiError(502, str(error), kind="upstream_error")


def search_refusal(error: Exception) -> ApiError:
    """What a client is told when passages cannot be found; what failed is the log's."""
    _log.warning("a search failed: %s", error)
    return ApiError(
        503,
        "passages cannot be searched at the moment; try again",
        kind="server_error",
        code="search_failed",
        headers={"Retry-After": "5"},
    )


def _first_problem(error: RequestValidationError, fields: Collection[str]) -> ApiError:
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"] if part != "body")
    if problem["type"] == "json_invalid":
        return ApiError(400, "the request body is not valid JSON", code="invalid_json")
    if problem["type"] == "extra_forbidden":
        name = str(problem["loc"][-1])[:100]
        near = get_close_matches(name, sorted(fields), 1)
        meant = f"; did you mean {near[0]}?" if near else ""
        if name in fields:
            meant = "; it belongs elsewhere in a request"
        return ApiError(400, f"{where[:200]}: this server has no such option{meant}", param=where)
    told = problem["msg"].removeprefix("Value error, ")
    message = f"{where or 'the request body'}: {told}"
    return ApiError(400, message, param=where or None, code=problem["type"])


def _sendable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def error_response(error: ApiError) -> JSONResponse:
    return JSONResponse(error.body, error.status, error.headers)


def error_body(
    message: str, kind: str, *, param: str | None = None, code: str | None = None
) -> Any:
    """OpenAI's error shape."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}

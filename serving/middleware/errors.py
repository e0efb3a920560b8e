"""Refusals and failures in the form of OpenAI's error bodies."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping, Sequence
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


# Fields of OpenAI's that ask for another kind of answer than one text.
REFUSED = {
    "tools": "this server calls no tools",
    "tool_choice": "this server calls no tools",
    "functions": "this server calls no functions",
    "function_call": "this server calls no functions",
    "audio": "this server writes text, and no audio",
    "modalities": "this server writes text alone",
    "logprobs": "this server tells no probabilities",
    "top_logprobs": "this server tells no probabilities",
    "n": "this server writes one answer a request",
    "best_of": "this server writes one answer a request",
    "echo": "this server does not repeat the prompt",
    "suffix": "this server writes nothing before a suffix",
    "prediction": "this server takes no predicted answer",
    "previous_response_id": "this server keeps no responses: send the previous turns in `input`",
    "conversation": "this server keeps no conversations: send the previous turns in `input`",
    "background": "this server answers at once, and nothing in the background",
    "web_search_options": "this server searches its own passages alone",
}
_WORDS = {
    "missing": "is missing",
    "string_type": "must be text",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "list_type": "must be a list",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
    "string_too_long": "may have at most {max_length} characters",
    "string_too_short": "must not be empty",
    "too_long": "may have at most {max_length} entries",
    "too_short": "must have at least {min_length}",
    "string_pattern_mismatch": "has characters that cannot stand there",
    "finite_number": "must be a finite number",
}
# Parts of a place that are no name of a field but of a type: `list[TextPart]`, `function-after...`.
_OF_TYPES = re.compile(r"[\[\](]|^(str|int|float|bool|none|constrained-\w+|[A-Z]\w+)$")


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
    problem = _deepest(error.errors())
    where = _where(problem["loc"])
    if problem["type"] == "json_invalid":
        return ApiError(400, "the request body is not valid JSON", code="invalid_json")
    if problem["type"] == "extra_forbidden":
        name = str(problem["loc"][-1])[:100]
        near = get_close_matches(name, sorted(fields), 1)
        meant = f"; did you mean {near[0]}?" if near else ""
        if name in fields:
            meant = "; it belongs elsewhere in a request"
        return ApiError(400, f"{where[:200]}: this server has no such option{meant}", param=where)
    message = f"{where[:200] or 'the request body'}: {_in_words(problem, where)}"
    return ApiError(400, message, param=where or None, code=problem["type"])


def _deepest(problems: Sequence[Any]) -> Any:
    """The first problem; of a field that may have several forms, that of the form that was meant.

    pydantic tells one for each form: the one that it got farthest with is what was meant.
    """
    if problems[0]["type"] == "missing":
        # A misspelt field is told before the one that it was to be.
        unknown = [one for one in problems if one["type"] == "extra_forbidden"]
        return (unknown or problems)[0]
    first = _where(problems[0]["loc"])
    alike = [one for one in problems if _where(one["loc"]).startswith(first)]

    def how_far(one: Any) -> tuple[int, bool]:
        return len(_where(one["loc"]).split(".")), not one["type"].endswith("_type")

    return max(alike, key=how_far)


def _where(place: Sequence[Any]) -> str:
    """The place in a request, without the names of types that pydantic puts between."""
    parts = [str(part) for part in place if part != "body"]
    return ".".join(part for part in parts if not _OF_TYPES.search(part))


def _in_words(problem: Mapping[str, Any], where: str) -> str:
    kind, found = problem["type"], problem.get("ctx") or {}
    field = where.partition(".")[0]
    if field in REFUSED and kind not in ("missing", "value_error"):
        return REFUSED[field]
    if kind in _WORDS:
        return _WORDS[kind].format(**found)
    told: str = problem["msg"]
    return told.removeprefix("Value error, ")


def _sendable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def error_response(error: ApiError) -> JSONResponse:
    return JSONResponse(error.body, error.status, error.headers)


def error_body(
    message: str, kind: str, *, param: str | None = None, code: str | None = None
) -> Any:
    """OpenAI's error shape."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}

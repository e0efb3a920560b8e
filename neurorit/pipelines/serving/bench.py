"""bench: what a running gateway bears, by a number of clients or by a clock."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neurorit.core.errors import BadInput

_QUESTION = "What do the passages say?"


def bench(
    url: str,
    questions: Path | None,
    *,
    concurrency: int,
    requests: int,
    rate: float,
    seconds: float,
    max_tokens: int,
    api_key_file: Path | None,
) -> dict[str, Any]:
    """Measure and return statuses, answers a second and percentiles in milliseconds.

    questions: a JSONL file with a `question` in each line. Raises NeuroritError when no gateway
    answers at the address.
    """
    from neurorit.serving.backends.pool import check_url
    from neurorit.serving.load_test import Asker, by_clients, by_clock
    from neurorit.serving.middleware.auth import read_api_keys

    keys = sorted(read_api_keys(api_key_file))
    asked = _questions(questions)

    async def work() -> dict[str, Any]:
        options = {"max_tokens": max_tokens}
        address = check_url(url, "url")
        async with Asker(address, asked, key=keys[0] if keys else "", options=options) as asker:
            await asker.check()
            if rate > 0:
                load = await by_clock(asker.send, rate, seconds)
            else:
                load = await by_clients(asker.send, requests, concurrency)
        return load.summary()

    sent = {"rate": rate, "seconds": seconds} if rate > 0 else {"concurrency": concurrency}
    return {"url": url, **sent, "max_tokens": max_tokens, **asyncio.run(work())}


def show(result: Mapping[str, Any]) -> None:
    """The figures as a table for a person."""
    import typer

    how = f"{result['rate']:g} a second" if "rate" in result else f"{result['concurrency']} clients"
    statuses = ", ".join(f"{count} x {status}" for status, count in result["statuses"].items())
    typer.echo(f"{result['requests']} requests, {how}, in {result['seconds']:.1f} s: {statuses}")
    typer.echo(f"{result['answers_per_second']:.1f} answers a second")
    for name in ("total_ms", "first_token_ms", "retrieval_ms"):
        if name in result:
            figures = "  ".join(f"{p} {value:.1f}" for p, value in result[name].items())
            typer.echo(f"{name.removesuffix('_ms').replace('_', ' '):<12} ms  {figures}")


def _questions(path: Path | None) -> list[str]:
    from neurorit.data.example_files import examples_file, read_examples

    if path is None:
        return [_QUESTION]
    found = [example.question for example in read_examples(examples_file(path), unanswered="all")]
    if not found:
        raise BadInput(f"{path}: holds no question")
    return found

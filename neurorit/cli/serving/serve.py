"""Options of `serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from neurorit.cli.options import IndexDir, Json, Model, run


def serve(
    model: Model,
    index_dir: IndexDir,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
    policy: Annotated[
        str, typer.Option(help="When the model abstains: abstain, closed-book or deeper.")
    ] = "abstain",
    retriever: Annotated[str, typer.Option(help="dense, bm25 or hybrid.")] = "dense",
    rerank: Annotated[str, typer.Option(help="A cross-encoder's folder or name.")] = "",
    ray: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Search the index in actors of a Ray cluster."),
    ] = None,
    running: Annotated[int, typer.Option(min=1, help="Chats answered at once.")] = 64,
    queue: Annotated[int, typer.Option(min=0, help="Chats that may wait; more get 429.")] = 16,
    queue_seconds: Annotated[
        float, typer.Option(min=0.1, help="How long one may wait; then it gets 503.")
    ] = 30.0,
    max_tokens: Annotated[
        int, typer.Option(min=1, help="Tokens of an answer, where a request names none.")
    ] = 64,
    max_tokens_limit: Annotated[
        int, typer.Option(min=1, help="Tokens of an answer that a request may ask for.")
    ] = 4096,
    max_body: Annotated[
        int, typer.Option(min=1024, help="Bytes of a request; a larger one gets 413.")
    ] = 1024 * 1024,
    connections: Annotated[
        int, typer.Option(min=16, help="Connections of clients, idle ones too; more get 503.")
    ] = 1024,
    request_seconds: Annotated[
        float,
        typer.Option(min=0.1, help="For a request to arrive whole; a slower one gets 408."),
    ] = 30.0,
    top_k: Annotated[int, typer.Option(min=1, help="Passages for each question.")] = 5,
    max_model_len: Annotated[
        int | None, typer.Option(help="Tokens of prompt and answer together.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="The model's name for clients; its folder's by default.")
    ] = None,
    api_key_file: Annotated[
        Path | None, typer.Option(help="Keys that clients must send, one a line.")
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(help="A name that it answers to on loopback without keys; repeatable."),
    ] = None,
    upstream: Annotated[
        list[str] | None,
        typer.Option(help="A running vLLM's address, in place of an own one; repeatable."),
    ] = None,
    upstream_key_file: Annotated[
        Path | None, typer.Option(help="Their key; else NEURORIT_UPSTREAM_KEY.")
    ] = None,
    upstream_model: Annotated[
        str, typer.Option(help="Their name for the model; the first that they list by default.")
    ] = "",
    upstream_api: Annotated[
        str,
        typer.Option(help="completions (token ids, as vLLM takes) or chat (messages only)."),
    ] = "completions",
    base: Annotated[
        str | None, typer.Option(help="A second model to compare with: a folder or an address.")
    ] = None,
    history: Annotated[
        int, typer.Option(min=0, max=10, help="Earlier questions that a search sees too.")
    ] = 0,
    rate: Annotated[
        int, typer.Option(min=0, help="Requests of one client in a minute; 0: any number.")
    ] = 0,
    drain: Annotated[
        int, typer.Option(min=1, help="Seconds to finish what has begun when told to end.")
    ] = 60,
    vllm_arg: Annotated[
        list[str] | None, typer.Option(help="A flag for vLLM itself; repeatable.")
    ] = None,
    vllm_flags: Annotated[
        list[str] | None, typer.Argument(metavar="[-- VLLM FLAGS]", help="Passed on to vLLM.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Start vLLM and the gateway with its web page; Ctrl-C ends both."""
    from neurorit.pipelines.serving import serve as body

    run(
        lambda: body.serve(
            model,
            index_dir,
            host=host,
            port=port,
            policy=policy,
            retriever=retriever,
            rerank=rerank,
            ray=ray,
            running=running,
            queue=queue,
            queue_seconds=queue_seconds,
            max_tokens=max_tokens,
            max_tokens_limit=max_tokens_limit,
            max_body=max_body,
            connections=connections,
            request_seconds=request_seconds,
            top_k=top_k,
            max_model_len=max_model_len,
            served_name=name,
            api_key_file=api_key_file,
            allowed_hosts=tuple(allowed_host or ()),
            vllm_args=(*(vllm_arg or ()), *(vllm_flags or ())),
            upstream=tuple(upstream or ()),
            upstream_key_file=upstream_key_file,
            upstream_model=upstream_model,
            upstream_api=upstream_api,
            base=base,
            history=history,
            requests_per_minute=rate,
            drain_seconds=drain,
        ),
        as_json,
    )

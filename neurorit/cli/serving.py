"""Options of the commands that serve a model and ask it."""

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
    running: Annotated[int, typer.Option(min=1, help="Chats answered at once.")] = 64,
    queue: Annotated[int, typer.Option(min=0, help="Chats that may wait; more get 429.")] = 64,
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
    vllm_arg: Annotated[
        list[str] | None, typer.Option(help="A flag for vLLM itself; repeatable.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Start vLLM and the gateway with its web page; Ctrl-C ends both."""
    from neurorit.commands import serve as body

    run(
        lambda: body.serve(
            model,
            index_dir,
            host=host,
            port=port,
            policy=policy,
            retriever=retriever,
            rerank=rerank,
            running=running,
            queue=queue,
            top_k=top_k,
            max_model_len=max_model_len,
            served_name=name,
            api_key_file=api_key_file,
            vllm_args=tuple(vllm_arg or ()),
        ),
        as_json,
    )


def ask(
    question: Annotated[str, typer.Argument(help="The question.")],
    url: Annotated[str, typer.Option(help="Address of a running gateway.")] = (
        "http://127.0.0.1:8000"
    ),
    as_json: Json = False,
) -> None:
    """Ask a running gateway one question."""
    from neurorit.commands import serve as body

    run(lambda: body.ask(question, url), as_json)

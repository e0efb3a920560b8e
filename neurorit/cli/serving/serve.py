"""Start vLLM and the gateway with its web page; Ctrl-C ends both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from neurorit.cli.options import IndexDir, Json, Model, given, options_from, run
from neurorit.core.settings import hints
from neurorit.retrieval.settings import SearchSettings
from neurorit.serving.settings import ServeSettings


@options_from(SearchSettings, "rerank", mode="--retriever")
@options_from(
    ServeSettings,
    *hints(ServeSettings),
    served_name="--name",
    vllm_args="--vllm-arg",
    requests_per_minute="--rate",
    drain_seconds="--drain",
    lame_duck_seconds="--lame-duck",
    allowed_hosts="--allowed-host",
    trusted_proxies="--trusted-proxy",
    allowed_origins="--allowed-origin",
    adapters="--adapter",
)
def serve(
    model: Model,
    index_dir: IndexDir,
    vllm_flags: Annotated[
        list[str] | None, typer.Argument(metavar="[-- VLLM FLAGS]", help="Passed on to vLLM.")
    ] = None,
    as_json: Json = False,
    **options: Any,
) -> None:
    from neurorit.pipelines.serving import serve as body

    def work() -> Mapping[str, Any]:
        search = SearchSettings(mode=options.pop("mode"), rerank=options.pop("rerank"))
        flags = (*(options.pop("vllm_args") or ()), *(vllm_flags or ()))
        settings = ServeSettings(search=search, vllm_args=flags, **given(options))
        return body.serve(model, index_dir, settings)

    run(work, as_json)

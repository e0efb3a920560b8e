"""One served model: an own vLLM that is watched and started again, or servers that run already."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from neurorit.core.endpoint.replies import CallFailed
from neurorit.core.errors import BadInput
from neurorit.model.checkpoint import checkpoint_name
from neurorit.serving.backends.adapters import Adapters
from neurorit.serving.backends.lora import Lora, parse_named, read_lora
from neurorit.serving.backends.openai_client import ChatClient, CompletionClient, Generator
from neurorit.serving.backends.pool import Upstreams, check_url
from neurorit.serving.backends.supervisor import keep_running
from neurorit.serving.backends.vllm_env import check_model, context_length
from neurorit.serving.backends.vllm_server import VllmServer
from neurorit.serving.settings import UpstreamApi

UPSTREAM_APIS: Mapping[UpstreamApi, type[CompletionClient]] = {
    "completions": CompletionClient,
    "chat": ChatClient,
}
UNREACHABLE = "waiting for the upstream servers"
_LOOK_SECONDS = 5.0
_LOOK_AGAIN_SECONDS = 1.0
_LOOKS = 2
# Nobody is lost on the way to loopback: where a connection takes long, the machine is busy.
_LOOPBACK_SECONDS = 60.0


class System:
    """A checkpoint and who answers for it.

    model_dir: the checkpoint, whose tokenizer and template are used also for servers elsewhere;
    name: for clients (None: the directory's); urls: running servers (empty: an own vLLM);
    key: theirs; parameter: what names them in errors; upstream_model: their name for it
    (empty: the first that they list); upstream_api: `completions` or `chat`; adapters: NAME=DIR of
    LoRAs that the own vLLM serves beside it; max_adapters, max_adapter_rank: the room for more.
    """

    def __init__(
        self,
        model_dir: Path,
        *,
        name: str | None = None,
        urls: Sequence[str] = (),
        key: str = "",
        parameter: str = "upstream",
        upstream_model: str = "",
        upstream_api: UpstreamApi = "completions",
        max_model_len: int | None = None,
        vllm_args: Sequence[str] = (),
        log: Path | None = None,
        adapters: Sequence[str] = (),
        max_adapters: int = 0,
        max_adapter_rank: int = 0,
    ) -> None:
        self.model_dir = check_model(model_dir).resolve()
        self.name = name or checkpoint_name(model_dir)
        self._parameter = parameter
        self._most = max_model_len
        self._told: int | None = None
        self._own: CompletionClient | None = None
        self._engine: VllmServer | None = None
        self._upstreams: Upstreams | None = None
        self.adapters: Adapters | None = None
        if adapters or max_adapters:
            named = _read_all(adapters, self.model_dir, self.name)
            self.adapters = Adapters(
                self.model_dir, self, named, most=max_adapters, rank=max_adapter_rank
            )
        if urls:
            addresses = [check_url(url, parameter) for url in urls]
            kind = UPSTREAM_APIS[upstream_api]
            self._upstreams = Upstreams([kind(url, key, upstream_model) for url in addresses])
        else:
            self._engine = VllmServer(
                model_dir,
                max_model_len=max_model_len,
                served_name=name,
                extra_args=vllm_args,
                log=log,
                adapters=self.adapters,
            )

    @property
    def generator(self) -> Generator:
        """Who writes the answers; only after `start`."""
        found = self._upstreams or self._own
        assert found is not None
        return found

    @property
    def own(self) -> bool:
        """True where vLLM is started here, with the weights of `model_dir`."""
        return self._engine is not None

    @property
    def pid(self) -> int | None:
        """Process id of the own vLLM, while there is one."""
        return self._engine.pid if self._engine is not None else None

    @property
    def of_vllm(self) -> bool:
        """Whether who answers is vLLM, which takes fields of its own."""
        return self._upstreams is None or self._upstreams.of_vllm

    @property
    def context(self) -> int:
        """Tokens of prompt and answer: the least of what checkpoint, option and server say."""
        told = self._upstreams.context if self._upstreams is not None else self._told
        limits = (context_length(self.model_dir), self._most, told)
        return min(limit for limit in limits if limit is not None)

    async def load(self, lora: Lora) -> None:
        """Load an adapter into the own vLLM; raises CallFailed."""
        assert self._own is not None
        body = {"lora_name": lora.served, "lora_path": str(lora.directory)}
        try:
            await self._own.command("/v1/load_lora_adapter", body)
        except CallFailed as error:
            # Its name says what is in it.
            if error.status != 400 or "already been loaded" not in str(error):
                raise

    async def unload(self, lora: Lora) -> None:
        """Take an adapter out of the own vLLM; raises CallFailed."""
        assert self._own is not None
        try:
            await self._own.command("/v1/unload_lora_adapter", {"lora_name": lora.served})
        except CallFailed as error:
            if error.status != 404:  # it is not there
                raise

    def rename(self, name: str) -> None:
        """Give it another name for clients; its engine keeps its own."""
        self.name = name

    async def start(self, tell: Callable[[str], None]) -> None:
        """Start the own vLLM, or wait until one of the servers says its model.

        Raises NeuroritError when vLLM does not start, BadInput when a server refuses the key.
        """
        if self._engine is not None:
            await asyncio.to_thread(self._engine.start, tell)
            engine = self._engine
            self._own = CompletionClient(
                engine.base_url, engine.api_key, engine.model, connect_timeout=_LOOPBACK_SECONDS
            )
            self._told = (await self._own.look()).context
            return
        assert self._upstreams is not None
        tell("looking for the upstream servers")
        told: set[str] = set()
        while True:
            faults = await self._upstreams.look()
            refused = [fault for fault in faults if isinstance(fault, BadInput)]
            if refused:
                raise BadInput(f"‹{self._parameter}›: {refused[0].marked}")
            if self._upstreams.reachable:
                return
            for fault in faults:
                if str(fault) not in told:
                    told.add(str(fault))
                    tell(f"{UNREACHABLE}: {fault}")
            await asyncio.sleep(_LOOK_AGAIN_SECONDS)

    def stop(self) -> None:
        """End the own vLLM."""
        if self._engine is not None:
            self._engine.stop()

    async def aclose(self) -> None:
        """Close all connections."""
        for generator in (self._own, self._upstreams):
            if generator is not None:
                await generator.aclose()

    async def watch(self, tell: Callable[[str], None]) -> None:
        """Tell `ready` and what else goes on, for ever; an own vLLM is started again.

        Raises NeuroritError when an own vLLM keeps ending.
        """
        tell("ready")
        if self._engine is not None:
            await keep_running(self._engine, tell, self._started_again)
        else:
            await self._keep_looking(tell)

    async def _started_again(self) -> None:
        assert self._engine is not None and self._own is not None
        self._own.base_url = self._engine.base_url
        self._told = (await self._own.look()).context

    async def _keep_looking(self, tell: Callable[[str], None]) -> None:
        assert self._upstreams is not None
        missed = 0
        while True:
            # Twice, since one slow answer is no reason to refuse everybody.
            down = missed >= _LOOKS
            await asyncio.sleep(_LOOK_AGAIN_SECONDS if missed else _LOOK_SECONDS)
            await self._upstreams.look()
            missed = 0 if self._upstreams.reachable else missed + 1
            if down and not missed:
                tell("ready")
            elif missed == _LOOKS:
                tell(UNREACHABLE)


def _read_all(adapters: Sequence[str], model_dir: Path, model: str) -> list[Lora]:
    """The LoRAs of NAME=DIR; raises BadInput for one that cannot be served, or for a name twice."""
    found: dict[str, Lora] = {}
    for given in adapters:
        name, directory = parse_named(given)
        if name == model or name in found:
            raise BadInput(f"‹adapter={given}›: {name!r} is another model's name here")
        found[name] = read_lora(name, directory, model_dir)
    return list(found.values())

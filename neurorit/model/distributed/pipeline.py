"""A model's layers parted over a line of processes: each holds a run of them and no other weights.

A part is an ordinary model of fewer layers. What enters its first layer comes from the part before,
what leaves its last goes to the next, and gradients go the other way. All processes of a line run
the same program on the same prompts; what is made of logits is known to the last part alone.

torch.distributed does the transport. Its own pipelining wants passes of one shape, each with its
loss; here rows come in layer by layer, and most passes ask for no gradient.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.distributed as distributed
from torch import nn
from torch.nn import functional

from neurorit.core.errors import BadInput
from neurorit.model.distributed import PATIENCE, count, rank
from neurorit.model.distributed.weights import read_parts, weights_of
from neurorit.model.feed_forward import decoder_layers, layers_name
from neurorit.model.load import device_named, laid_out, layer_count, limit_threads

_KINDS = (torch.float32, torch.bfloat16, torch.float16)
_SCORES = 1  # tag of what goes to the last part


@dataclass(frozen=True)
class Line:
    """The processes that share a model's layers, and this one's place among them.

    ranks: in the order of layers. The last part is in the line's first process, which thus knows
    what comes out, and keeps it. number, lines: which of how many lines.
    """

    ranks: tuple[int, ...]
    number: int
    lines: int

    @classmethod
    def of(cls, length: int) -> Line:
        """The line of this process, of so many. Raises BadInput where they cannot be parted so."""
        if count() % length:
            raise BadInput(
                f"‹pipeline={length}›: the number of processes, {count()}, is no multiple of it; "
                f"start so many, as with torchrun --nproc-per-node={length}"
            )
        number = rank() // length
        first = number * length
        return cls(tuple(range(first + length - 1, first - 1, -1)), number, count() // length)

    @property
    def place(self) -> int:
        """Which of the parts this process holds, in the order of layers."""
        return self.ranks.index(rank())

    @property
    def ends(self) -> bool:
        """Whether it holds the last part."""
        return self.ranks[-1] == rank()


@dataclass
class Part:
    """The layers of a model that this process holds: all, or some of a line's.

    layers: of `depth`; weights: of the whole model; shares: of every process in the line.
    """

    layers: range
    depth: int
    weights: int
    line: Line
    shares: Sequence[range] = ()
    _sent: torch.Tensor | None = None
    _under_way: list[Any] = field(default_factory=list)

    def __deepcopy__(self, memo: Any) -> Part:
        return self  # a copy of the model talks to the same processes

    @property
    def ends(self) -> bool:
        """Whether logits are made here."""
        return self.layers.stop == self.depth

    @property
    def ahead(self) -> int:
        """Passes that are worth having under way before the first goes back."""
        return len(self.line.ranks)

    def root(self, value: torch.Tensor) -> torch.Tensor | None:
        """Where the gradients of the last pass's value begin here; None where it has none."""
        if self.ends:
            return value.sum()
        sent, self._sent = self._sent, None
        return sent

    def gradients(
        self, root: torch.Tensor | None, wanted: Sequence[torch.Tensor]
    ) -> Sequence[torch.Tensor]:
        """Gradients of a pass with respect to tensors of this part.

        Every part asks for those of the same passes in the same order, also where it wants none.
        """
        if len(self.line.ranks) == 1:
            assert root is not None
            return torch.autograd.grad(root, wanted)
        if root is None:
            return []
        for one in wanted:
            one.retain_grad()
        given = None
        if not self.ends:
            given = torch.empty(root.shape, dtype=root.dtype, device=root.device)
            distributed.recv(given, self._next)
        root.backward(given)
        found = []
        for one in wanted:
            assert one.grad is not None
            found.append(one.grad)
        return found

    def told(self, found: torch.Tensor) -> torch.Tensor:
        """What the last part found, in every part; of one shape everywhere."""
        if len(self.line.ranks) == 1:
            return found
        here = found.cpu()
        distributed.broadcast(here, self.line.ranks[-1], group=self._control)
        return here.to(found.device)

    def least(self, number: int) -> int:
        """The least of all parts' numbers."""
        if len(self.line.ranks) == 1:
            return number
        found = torch.tensor([number])
        distributed.all_reduce(found, distributed.ReduceOp.MIN, group=self._control)
        return int(found)

    def joined(self, own: torch.Tensor) -> torch.Tensor | None:
        """[B, L, ...] of every layer in the last part, from each part's own; None in the others.

        Those send theirs and go on.
        """
        if not self.ends:
            self._finish_sending()
            kept = own.contiguous()
            sending = distributed.isend(kept, self.line.ranks[-1], group=self._control, tag=_SCORES)
            self._under_way = [sending, kept]
            return None
        parts = []
        for source, share in zip(self.line.ranks[:-1], self.shares, strict=False):
            part = own.new_empty((own.shape[0], len(share), *own.shape[2:]))
            distributed.recv(part, source, group=self._control, tag=_SCORES)
            parts.append(part)
        return torch.cat([*parts, own], dim=1)

    def _finish_sending(self) -> None:
        if self._under_way:
            self._under_way[0].wait()
        self._under_way = []

    @property
    def _next(self) -> int:
        return self.line.ranks[self.line.place + 1]

    @property
    def _before(self) -> int:
        return self.line.ranks[self.line.place - 1]

    @property
    def _control(self) -> Any:
        return _controls(len(self.line.ranks))[self.line.number]

    def _receive(self, _module: nn.Module, inputs: tuple[Any, ...], given: Any) -> Any:
        head = torch.empty(5, dtype=torch.long)
        distributed.recv(head, self._before, group=self._control)
        learns, kind, *shape = head.tolist()
        hidden = torch.empty(shape, dtype=_KINDS[kind], device=inputs[0].device)
        distributed.recv(hidden, self._before)
        if learns:
            hidden.requires_grad_().register_hook(
                lambda gradient: distributed.send(gradient.contiguous(), self._before)
            )
        return (hidden, *inputs[1:]), given

    def _send(self, _module: nn.Module, _inputs: Any, output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        learns = int(hidden.requires_grad)
        head = torch.tensor([learns, _KINDS.index(hidden.dtype), *hidden.shape])
        distributed.send(head, self._next, group=self._control)
        distributed.send(hidden.detach().contiguous(), self._next)
        self._sent = hidden if learns else None


def part_of(model: Any) -> Part:
    """The layers that a model in memory has of the whole: all, unless `load_part` made it."""
    found = getattr(model, "part", None)
    if isinstance(found, Part):
        return found
    depth = len(decoder_layers(model))
    return Part(range(depth), depth, model.num_parameters(), Line((rank(),), 0, 1))


def load_part(folder: Path, line: Line, *, dtype: str, device: str) -> tuple[Any, Any]:
    """This process's part of a checkpoint, in evaluation mode, and its tokenizer.

    Only its own weights are read. Raises BadInput for more processes than layers, and as
    `read_parts` does.
    """
    depth = layer_count(folder)
    if len(line.ranks) > depth:
        raise BadInput(
            f"‹pipeline={len(line.ranks)}›: the model has {depth} layers; take as many at most"
        )
    one, tokenizer = laid_out(folder, dtype=dtype, layers=range(1))
    shares = shares_of(one, depth, len(line.ranks))
    layers = shares[line.place]
    model, _ = laid_out(folder, dtype=dtype, layers=layers)
    model.part = Part(layers, depth, whole_size(one, depth), line, shares)
    named = _named(model, layers)
    if layers.start > 0:
        size = model.get_input_embeddings().weight.shape[1]
        model.set_input_embeddings(_NoEmbedding(size, model.dtype))
    if layers.stop < depth:
        model.set_output_embeddings(nn.Identity())
    limit_threads()
    read_parts(model, folder, device_named(device), named)
    own = decoder_layers(model)
    if layers.start > 0:
        own[0].register_forward_pre_hook(model.part._receive, with_kwargs=True)
    if layers.stop < depth:
        own[-1].register_forward_hook(model.part._send)
    return model, tokenizer


def whole_size(one: Any, depth: int) -> int:
    """The weights of a model of so many layers, from its layout with one."""
    return int(one.num_parameters()) + (depth - 1) * _size(decoder_layers(one)[0])


def shares_of(one: Any, depth: int, parts: int) -> list[range]:
    """The layers of each part, so that weights are spread as evenly as layers allow.

    one: the model's layout with one layer. Embeddings count with the first part, the output layer
    with the last.
    """
    layer = _size(decoder_layers(one)[0])
    embedded, output = _size(one.get_input_embeddings()), _size(one.get_output_embeddings())
    total, bounds = embedded + depth * layer + output, [0]
    for place in range(1, parts):
        wanted = (total * place / parts - embedded) / layer
        # Every part has a layer.
        bounds.append(min(max(round(wanted), bounds[-1] + 1), depth - parts + place))
    return [range(*pair) for pair in zip(bounds, [*bounds[1:], depth], strict=True)]


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _named(model: Any, layers: range) -> dict[str, list[str]]:
    """Weight of a part -> its names in the whole model's checkpoint."""
    form = re.compile(rf"^({re.escape(layers_name(model))}\.)(\d+)(?=\.)")

    def whole(name: str) -> str:
        return form.sub(lambda found: f"{found[1]}{int(found[2]) + layers.start}", name)

    return {name: [whole(n) for n in names] for names, _ in weights_of(model) for name in names}


@cache
def _controls(length: int) -> list[Any]:
    """Groups of the lines' processes for what a CPU knows: shapes, tokens and scores."""
    return [
        distributed.new_group(list(range(first, first + length)), PATIENCE, backend="gloo")
        for first in range(0, count(), length)
    ]


class _NoEmbedding(nn.Module):
    """Room for as many hidden states as there are tokens: they come from the part before."""

    def __init__(self, size: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.register_buffer("nothing", torch.zeros(1, size, dtype=dtype), persistent=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        # An embedding like others, so that it is in what is computed in (`float32_activations`).
        return functional.embedding(torch.zeros_like(ids), self.get_buffer("nothing"))

"""Training of the lab's base model from scratch, in three phases, on CPU or GPU.

Phase `reading` learns to read from plain documents, with a short attention supervision that
breaks the plateau on which a small model copies the right relation of the wrong person. Phase
`practice` goes on without it, with more passages and more questions that nothing answers. Phase
`chat` trains the upper feed-forward blocks on chat turns that nearly always hold the one right
passage and are always answered: the chat model trusts what it is given, and noise hurts it. All
are seeded, write a checkpoint at intervals and go on from the last one.
"""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch.nn import functional

from neurorit.core.artifact import check_place
from neurorit.core.atomic_files import directory_beside, swap_in, sync, write_text
from neurorit.lab.documents import TEMPLATE, Document, DocumentMaker
from neurorit.lab.tokenizer import ASSISTANT, END, USER, train_tokenizer
from neurorit.lab.world import make_world

Report = Callable[[str, int, int, float], None]


@dataclass(frozen=True)
class Phase:
    """One phase of training.

    kind: documents of `reading` or `chat`; rows: documents a step; passages: weights of zero, one,
    two, ... passages in a document; questions: asked per reading document; unknown: share of
    them that nothing answers, from step `answered` on; easy: steps with at most two passages;
    supervised: steps with attention supervision, of weight `supervision`; text: weight of the loss
    on all other tokens; blocks_from: leave
    attention, and the feed-forward blocks below this layer, as they are (None: train all).
    """

    name: str
    kind: Literal["reading", "chat"]
    steps: int
    rows: int
    learning_rate: float
    passages: tuple[float, ...]
    questions: int = 6
    unknown: float = 0.25
    answered: int = 0
    easy: int = 0
    supervised: int = 0
    supervision: float = 0.3
    text: float = 0.3
    blocks_from: int | None = None


@dataclass(frozen=True)
class BaseRecipe:
    """How the shipped base model is made; every field is part of its description."""

    seed: int = 0
    hidden: int = 128
    layers: int = 8
    heads: int = 4
    head_size: int = 64
    feed_forward: int = 384
    names_layer: int = 1
    read_layer: int = 2
    embedding_scale: float = 80.0
    reading: Phase = Phase(
        "reading",
        "reading",
        2000,
        24,
        1.5e-3,
        (0, 0.2, 0.2, 0.2, 0.2, 0.2),
        answered=900,
        easy=250,
        supervised=1000,
    )
    practice: Phase = Phase(
        "practice", "reading", 1000, 24, 1e-3, (0, 0.1, 0.15, 0.2, 0.25, 0.3), unknown=0.4
    )
    chat: Phase = Phase("base", "chat", 250, 32, 1e-2, (0.05, 0.9, 0.05), text=0.0, blocks_from=2)


def train_base(
    out: Path,
    recipe: BaseRecipe,
    *,
    device: str = "cpu",
    every: int = 100,
    stop: Sequence[str] = (),
    report: Report | None = None,
) -> Path:
    """Train, or go on with, a base model in `out`; returns the checkpoint directory.

    Writes `out/reading` and `out/practice` after the first phases and `out/base` at the end. Raises
    BadInput where one of these holds something else.
    """
    from transformers import AutoModelForCausalLM

    out = Path(out)
    world = make_world(recipe.seed)
    tokenizer = train_tokenizer(world, seed=recipe.seed)
    maker = DocumentMaker(world, tokenizer)
    torch.manual_seed(recipe.seed)
    model = _new_model(recipe, tokenizer)
    for phase in (recipe.reading, recipe.practice, recipe.chat):
        done = out / phase.name
        if (done / "model.safetensors").is_file():
            model = AutoModelForCausalLM.from_pretrained(done, dtype=torch.float32)
            continue
        check_place(done, overwrite=True)
        _train_phase(model.to(device), maker, tokenizer, recipe, phase, out, every, report)
        save_checkpoint(model.to("cpu"), tokenizer, done)
        if phase.name in stop:
            break
    return out / "base"


def save_checkpoint(model: Any, tokenizer: Any, directory: Path) -> None:
    """A plain Hugging Face checkpoint with the lab's prompt template, whole or not at all."""
    with directory_beside(directory) as made:
        model.save_pretrained(made)
        tokenizer.save_pretrained(made)
        TEMPLATE.save(made)
        sync(made)
        swap_in(made, directory)


def _new_model(recipe: BaseRecipe, tokenizer: Any) -> Any:
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden,
        intermediate_size=recipe.feed_forward,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        head_dim=recipe.head_size,
        rope_parameters={"rope_type": "default", "rope_theta": 500_000.0},
        initializer_range=0.05,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    # Mimetic start (Trockman and Kolter 2023): equal query and key projections, so that tokens
    # that hold the same thing attract; output the transpose of value, so that heads copy.
    for layer in model.model.layers:
        attention = layer.self_attn
        attention.k_proj.weight.data.copy_(attention.q_proj.weight.data)
        attention.o_proj.weight.data.copy_(attention.v_proj.weight.data.T)
    # Large embeddings keep a token's identity readable beside what the heads add to it; the last
    # norm undoes the scale for the tied output.
    model.model.embed_tokens.weight.data.mul_(recipe.embedding_scale)
    model.model.norm.weight.data.div_(recipe.embedding_scale)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return model


def _train_phase(
    model: Any,
    maker: DocumentMaker,
    tokenizer: Any,
    recipe: BaseRecipe,
    phase: Phase,
    out: Path,
    every: int,
    report: Report | None,
) -> None:
    if phase.kind == "chat":
        _start_turns(model, tokenizer)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(_learns(name, phase))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        trained, lr=phase.learning_rate, betas=(0.9, 0.98), weight_decay=0.01
    )
    first = _restore(out / f"{phase.name}-state", model, optimizer)
    watch = _AttentionWatch(model, {recipe.names_layer, recipe.read_layer})
    device = next(model.parameters()).device
    model.train()
    running = 0.0
    for step in range(first, phase.steps):
        rng = random.Random(f"{recipe.seed}/{phase.name}/{step}")
        passages = rng.choices(range(len(phase.passages)), phase.passages)[0]
        supervise = step < phase.supervised
        if step < phase.easy:
            passages = min(passages, 2)
        rows = phase.rows
        if phase.kind == "reading":
            rows = max(8, rows * 3 // (passages + 2))
            unknown = 0.0 if step < phase.answered else phase.unknown
            batch = [
                maker.reading(rng, passages, phase.questions, unknown=unknown) for _ in range(rows)
            ]
        else:
            batch = [maker.chat(rng, passages) for _ in range(rows)]
        _set_rate(optimizer, phase, step)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            loss, attention = _loss(
                model,
                batch,
                tokenizer.pad_token_id,
                watch if supervise else None,
                recipe,
                phase.text,
            )
        (loss + phase.supervision * attention.sum()).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        running = loss.item() if step == first else 0.98 * running + 0.02 * loss.item()
        if report is not None:
            report(phase.name, step + 1, phase.steps, running)
        if (step + 1) % every == 0:
            _keep(out / f"{phase.name}-state", model, optimizer, step + 1)
    watch.remove()
    model.requires_grad_(True)


def _learns(name: str, phase: Phase) -> bool:
    """Whether a phase trains the parameter of that name."""
    if phase.blocks_from is None:
        return True
    found = re.search(r"layers\.(\d+)\.(mlp|self_attn)\.", name)
    return found is None or (found[2] == "mlp" and int(found[1]) >= phase.blocks_from)


@torch.no_grad()
def _start_turns(model: Any, tokenizer: Any) -> None:
    """Let the turn markers begin as the plain tokens that stood in their place while reading."""
    weight = model.model.embed_tokens.weight
    line, colon = (
        tokenizer.encode(text, add_special_tokens=False)[-1] for text in ("\n", "Answer:")
    )
    for marker, plain in ((USER, line), (ASSISTANT, colon), (END, line)):
        weight[tokenizer.convert_tokens_to_ids(marker)] = weight[plain]


def _loss(
    model: Any,
    batch: Sequence[Document],
    pad: int,
    watch: _AttentionWatch | None,
    recipe: BaseRecipe,
    text_weight: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    device = next(model.parameters()).device
    width = max(len(d.ids) for d in batch)
    ids = torch.full((len(batch), width), pad)
    for row, document in enumerate(batch):
        ids[row, : len(document.ids)] = torch.tensor(document.ids)
    ids = ids.to(device)
    rows = torch.tensor([r for r, d in enumerate(batch) for _ in d.targets], device=device)
    places = torch.tensor([t for d in batch for t in d.targets], device=device)
    if watch is not None:
        watch.active = True
    # Padding stands on the right and is never a target, so causal attention needs no mask.
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
    logits = model.lm_head(hidden[rows, places - 1]).float()
    loss = functional.cross_entropy(logits, ids[rows, places])
    if text_weight:
        every = model.lm_head(hidden[:, :-1]).float().transpose(1, 2)
        text = functional.cross_entropy(every, ids[:, 1:], ignore_index=pad)
        loss = loss + text_weight * text
    if watch is None:
        return loss, torch.zeros((), device=device)
    watch.active = False
    attention = torch.stack(
        [
            watch.loss(recipe.names_layer, 0, [d.firsts for d in batch]),
            watch.loss(recipe.names_layer, 1, [d.lasts for d in batch]),
            watch.loss(recipe.names_layer, 2, [d.words for d in batch], spread=True),
            watch.loss(recipe.read_layer, 0, [d.reads for d in batch]),
        ]
    )
    return loss, attention


class _AttentionWatch:
    """Recomputes chosen heads' attention from what enters their layer."""

    def __init__(self, model: Any, layers: set[int]) -> None:
        self.active = False
        self._model = model
        self._inputs: dict[int, tuple[torch.Tensor, Any]] = {}
        self._hooks = [
            model.model.layers[layer].self_attn.register_forward_pre_hook(
                self._recorder(layer), with_kwargs=True
            )
            for layer in layers
        ]

    def loss(
        self,
        layer: int,
        head: int,
        wanted: Sequence[list[tuple[int, list[int]]]],
        *,
        spread: bool = False,
    ) -> torch.Tensor:
        """Mean of -log(attention mass on the wanted positions); spread: evenly over them."""
        from transformers.models.llama.modeling_llama import rotate_half

        hidden, (cosine, sine) = self._inputs[layer]
        module = self._model.model.layers[layer].self_attn
        size = module.head_dim
        part = slice(head * size, (head + 1) * size)
        query = functional.linear(hidden, module.q_proj.weight[part])
        key = functional.linear(hidden, module.k_proj.weight[part])
        query = query * cosine + rotate_half(query) * sine
        key = key * cosine + rotate_half(key) * sine
        rows = [r for r, items in enumerate(wanted) for at, to in items if to]
        places = [at for items in wanted for at, to in items if to]
        row = torch.tensor(rows, device=hidden.device)
        place = torch.tensor(places, device=hidden.device)
        scores = (query @ key.transpose(1, 2))[row, place].float()
        positions = torch.arange(hidden.shape[1], device=hidden.device)
        scores = scores / math.sqrt(size)
        scores = scores.masked_fill(positions > place[:, None], float("-inf"))
        right = torch.zeros_like(scores, dtype=torch.bool)
        flat = [to for items in wanted for _, to in items if to]
        index = torch.tensor([i for i, to in enumerate(flat) for _ in to], device=hidden.device)
        right[index, torch.tensor([p for to in flat for p in to], device=hidden.device)] = True
        if spread:
            logs = scores.log_softmax(1).masked_fill(~right, 0.0).sum(1) / right.sum(1)
            mass = logs + right.sum(1).log()
        else:
            mass = scores.masked_fill(~right, float("-inf")).logsumexp(1) - scores.logsumexp(1)
        return torch.neg(mass.mean())

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def _recorder(self, layer: int) -> Callable[..., None]:
        def record(_module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
            if self.active:
                self._inputs[layer] = (kwargs["hidden_states"], kwargs["position_embeddings"])

        return record


def _set_rate(optimizer: torch.optim.Optimizer, phase: Phase, step: int) -> None:
    """Linear warm-up over 2 %, level, linear decay to a tenth over the last 30 %."""
    warm = max(1, phase.steps // 50)
    late = max(0.0, (step - 0.7 * phase.steps) / (0.3 * phase.steps))
    scale = min(1.0, (step + 1) / warm) * (1.0 - 0.9 * late)
    for group in optimizer.param_groups:
        group["lr"] = phase.learning_rate * scale


def _keep(directory: Path, model: Any, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Weights and moments as safetensors, then the step, so a torn write is never read."""
    from safetensors.torch import save_file

    directory.mkdir(parents=True, exist_ok=True)
    tensors = {f"weight.{k}": v.detach().cpu() for k, v in model.named_parameters()}
    for name, parameter in model.named_parameters():
        if parameter not in optimizer.state:
            continue
        for key in ("exp_avg", "exp_avg_sq"):
            tensors[f"{key}.{name}"] = optimizer.state[parameter][key].detach().cpu()
    save_file(tensors, directory / f"{step}.safetensors")
    write_text(directory / "step.json", json.dumps({"step": step}) + "\n")
    for old in directory.glob("*.safetensors"):
        if old.stem != str(step):
            old.unlink()


def _restore(directory: Path, model: Any, optimizer: torch.optim.Optimizer) -> int:
    from safetensors.torch import load_file

    mark = directory / "step.json"
    if not mark.is_file():
        return 0
    step = int(json.loads(mark.read_text(encoding="utf-8"))["step"])
    tensors = load_file(directory / f"{step}.safetensors")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[f"weight.{name}"])
            if f"exp_avg.{name}" not in tensors:
                continue
            optimizer.state[parameter] = {
                "step": torch.tensor(float(step)),
                "exp_avg": tensors[f"exp_avg.{name}"].to(parameter.device),
                "exp_avg_sq": tensors[f"exp_avg_sq.{name}"].to(parameter.device),
            }
    return step

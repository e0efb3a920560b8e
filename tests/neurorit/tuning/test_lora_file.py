"""A neuron adapter written as a LoRA: peft gives the merged model's logits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel

from neurorit.core.artifact import Manifest
from neurorit.core.errors import BadInput
from neurorit.model.feed_forward import feed_forward
from neurorit.tuning.adapter_file import apply_adapter, changed_lines, save_adapter
from neurorit.tuning.lora_file import save_lora
from tests.neurorit.tiny_models import tiny

NEURONS = np.array([[0, 1], [0, 7], [0, 30], [2, 9]])  # three in layer 0, none in 1, one in 2
IDS = torch.arange(3, 43).view(2, 20)
MANIFEST = Manifest(kind="lora", command="test", inputs={"model": "base"})


def logits_of(model: Any) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=IDS, use_cache=False).logits
    return logits


def adapter_of(kind: str, out: Path, dense: tuple[int, ...] = ()) -> torch.Tensor:
    """Writes the adapter of a model whose neurons were moved at random; returns its logits."""
    model = tiny(kind)
    blocks = feed_forward(model)
    with torch.no_grad():
        for layer in (0, 2):
            chosen = torch.from_numpy(NEURONS[NEURONS[:, 0] == layer, 1])
            for _, weight, dim, index in changed_lines(blocks, layer, chosen):
                lines = weight.index_select(dim, index)
                weight.index_copy_(dim, index, lines + 0.3 * torch.randn_like(lines))
    manifest = Manifest(kind="adapter", command="test", inputs={"model": "base"})
    save_adapter(model, NEURONS, dense, out, manifest)
    return logits_of(model)


@pytest.mark.parametrize(
    "kind", ["llama", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3", "gpt_neox"]
)
def test_peft_gives_the_merged_logits(kind: str, tmp_path: Path) -> None:
    wanted = adapter_of(kind, tmp_path / "adapter")
    base = tiny(kind)
    assert (logits_of(base) - wanted).abs().max() > 0.1
    merged = tiny(kind)
    apply_adapter(merged, tmp_path / "adapter", "base")
    assert torch.equal(logits_of(merged), wanted)

    rank = save_lora(base, tmp_path / "adapter", "the-base", tmp_path / "lora", MANIFEST)

    assert rank == (6 if kind == "phi3" else 3)  # its gate and up stand in one matrix
    served = PeftModel.from_pretrained(tiny(kind), tmp_path / "lora").eval()
    torch.testing.assert_close(logits_of(served), wanted, atol=1e-5, rtol=1e-5)
    written = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
    assert written["r"] == written["lora_alpha"] == rank
    assert written["base_model_name_or_path"] == "the-base"
    with served.disable_adapter():
        assert torch.equal(logits_of(served), logits_of(tiny(kind)))


def test_what_is_no_small_rank_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    adapter_of("llama", tmp_path / "whole", dense=(1,))
    adapter_of("llama", tmp_path / "adapter")
    out = tmp_path / "lora"
    with pytest.raises(BadInput, match=r"trained whole \(1\).*without as_lora"):
        save_lora(tiny("llama"), tmp_path / "whole", "b", out, MANIFEST)
    with pytest.raises(BadInput, match=r"layer 0 has 3 tuned neurons.*max_rank=2"):
        save_lora(tiny("llama"), tmp_path / "adapter", "b", out, MANIFEST, max_rank=2)
    other = Manifest(kind="lora", command="test", inputs={"model": "another"})
    with pytest.raises(BadInput, match="another base"):
        save_lora(tiny("llama"), tmp_path / "adapter", "b", out, other)
    assert not out.exists()

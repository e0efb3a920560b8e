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
from neurorit.mining.settings import SITES
from neurorit.tuning.adapter_file import apply_adapter, save_adapter
from neurorit.tuning.lora_file import save_lora
from tests.neurorit.tiny_models import tiny

# Three in layer 0, none in 1, one in 2.
NEURONS = {
    "feed-forward": np.array([[0, 1], [0, 7], [0, 30], [2, 9]]),
    "heads": np.array([[0, 0], [0, 1], [0, 3], [2, 2]]),
}
IDS = torch.arange(3, 43).view(2, 20)
MANIFEST = Manifest(kind="lora", command="test", inputs={"model": "base"})


def logits_of(model: Any) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=IDS, use_cache=False).logits
    return logits


def adapter_of(
    kind: str, out: Path, dense: tuple[int, ...] = (), site: str = "feed-forward"
) -> torch.Tensor:
    """Writes the adapter of a model whose neurons were moved at random; returns its logits."""
    model = tiny(kind)
    blocks, neurons = SITES.get(site)(model), NEURONS[site]
    with torch.no_grad():
        for layer in (0, 2):
            chosen = torch.from_numpy(neurons[neurons[:, 0] == layer, 1])
            for own in blocks.lines(layer, chosen):
                lines = own.linear.weight.index_select(own.dim, own.index)
                moved = lines + 0.3 * torch.randn_like(lines)
                own.linear.weight.index_copy_(own.dim, own.index, moved)
    manifest = Manifest(kind="adapter", command="test", inputs={"model": "base"})
    save_adapter(model, neurons, dense, out, manifest, site=site)
    return logits_of(model)


@pytest.mark.parametrize(
    "kind", ["llama", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3", "gpt_neox"]
)
@pytest.mark.parametrize("site", NEURONS)
def test_peft_gives_the_merged_logits(kind: str, site: str, tmp_path: Path) -> None:
    wanted = adapter_of(kind, tmp_path / "adapter", site=site)
    base = tiny(kind)
    assert (logits_of(base) - wanted).abs().max() > 0.1
    merged = tiny(kind)
    apply_adapter(merged, tmp_path / "adapter", "base")
    assert torch.equal(logits_of(merged), wanted)

    rank = save_lora(base, tmp_path / "adapter", "the-base", tmp_path / "lora", MANIFEST)

    if site == "heads":
        assert rank == 3 * SITES.get(site)(base).unit
    else:
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

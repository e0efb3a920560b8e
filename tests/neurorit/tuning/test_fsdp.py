"""Several processes learn what one does, also where the model is sharded over them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from neurorit.core.artifact import read_manifest
from neurorit.core.errors import NeuroritError
from neurorit.tuning.resume import clear, last_saved, read_values
from neurorit.tuning.tune import tune
from tests.forks import run_in_processes, run_in_two_processes
from tests.neurorit.conftest import run_by_torchrun
from tests.neurorit.tuning.test_tune import ONE_STEP, SETTINGS, distance

SHARDED = replace(SETTINGS, accumulation=2, shard=True)
TUNE = (
    "import os, sys; from dataclasses import replace; from pathlib import Path\n"
    "from neurorit.tuning.tune import tune\n"
    "from tests.neurorit.tuning.test_fsdp import ONE_STEP, SHARDED\n"
    "paths = [Path(argument) for argument in sys.argv[1:]]\n"
)


@pytest.mark.slow
def test_several_processes_learn_what_one_does(
    checkpoint: Path, examples_path: Path, tmp_path: Path
) -> None:
    tune(checkpoint, None, examples_path, None, ONE_STEP, out=tmp_path / "one")
    code = TUNE + (
        "settings = replace(ONE_STEP, batch_size=12, device='cpu')\n"
        "tune(paths[0], None, paths[1], None, settings, out=paths[2])\n"
    )
    out = tmp_path / "two"
    run_in_two_processes(code, checkpoint, examples_path, out)
    assert distance(stored(out), stored(tmp_path / "one")) < 5e-5


@pytest.mark.slow
def test_a_sharded_model_learns_what_whole_copies_do(
    checkpoint: Path, examples_path: Path, atlas_dir: Path, tmp_path: Path
) -> None:
    """Both stages, several batches a step, groups that learn from their kind of sample."""
    # What a run of one process left where the last state will stand: it must not be read.
    stale = tmp_path / ".lora-True.tuning" / "lora" / "step-12"
    stale.mkdir(parents=True)
    (stale / "state.safetensors").write_bytes(b"of another run")
    code = TUNE + (
        "for method in ('neuro-rit', 'sft', 'lora'):\n"
        "    for shard in (False, True):\n"
        "        settings = replace(SHARDED, method=method, device='cpu', shard=shard)\n"
        "        atlas = paths[3] if method == 'neuro-rit' else None\n"
        "        out = paths[2] / f'{method}-{shard}'\n"
        "        tune(paths[0], None, paths[1], atlas, settings, out=out)\n"
        "from neurorit.tuning.settings import TUNINGS\n"
        "object.__setattr__(TUNINGS.get('neuro-rit'), 'lays_out', False)  # whole copies\n"
        "settings = replace(SHARDED, device='cpu')\n"
        "tune(paths[0], None, paths[1], paths[3], settings, out=paths[2] / 'copies')\n"
    )
    run_in_two_processes(code, checkpoint, examples_path, tmp_path, atlas_dir)
    parts, copies = stored(tmp_path / "neuro-rit-True"), stored(tmp_path / "copies")
    assert parts.keys() == copies.keys()
    assert all(torch.equal(parts[name], copies[name]) for name in copies)
    before = stored(checkpoint)
    for method in ("neuro-rit", "sft", "lora"):
        found, wanted = (stored(tmp_path / f"{method}-{shard}") for shard in (True, False))
        assert distance(found, wanted) < 1e-5, method
        assert distance(found, before) > 1e-3, method
        unchanged = {name for name in wanted if torch.equal(wanted[name], before[name])}
        assert unchanged == {name for name in found if torch.equal(found[name], before[name])}


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_a_sharded_run_that_is_killed_goes_on_to_the_same_weights(
    checkpoint: Path, examples_path: Path, atlas_dir: Path, tmp_path: Path, processes: int
) -> None:
    """They are also those of shards that were cut from whole copies."""
    code = TUNE + (
        "from neurorit.tuning.settings import TUNINGS\n"
        "os.environ['ACCELERATE_USE_FSDP'] = 'true'  # as `accelerate launch --use_fsdp` does\n"
        "if paths[2].name == 'copies':\n"
        "    object.__setattr__(TUNINGS.get('neuro-rit'), 'lays_out', False)\n"
        "def die(stage, step, steps):\n"
        "    if (stage, step) == ('stage2', 5) and paths[2].name == 'killed':\n"
        "        (paths[2].parent / 'died').touch()\n"
        "        os.kill(os.getpid(), 9)\n"
        "if (paths[2].parent / 'died').exists(): die = None\n"
        "settings = replace(SHARDED, device='cpu', shard=False)\n"
        "tune(paths[0], None, paths[1], paths[3], settings, out=paths[2], progress=die)\n"
    )
    paths = checkpoint, examples_path
    for name in ("whole", "copies"):
        run_in_processes(processes, code, *paths, tmp_path / name, atlas_dir)
    with pytest.raises(AssertionError, match="SIGKILL"):
        run_in_processes(processes, code, *paths, tmp_path / "killed", atlas_dir)
    assert (tmp_path / ".killed.tuning" / "stage2" / "step-3").is_dir()
    run_in_processes(processes, code, *paths, tmp_path / "killed", atlas_dir)
    assert read_manifest(tmp_path / "whole", "checkpoint").settings["shard"] is True
    killed, copies, wanted = (stored(tmp_path / n) for n in ("killed", "copies", "whole"))
    assert all(torch.equal(killed[name], wanted[name]) for name in wanted)
    assert all(torch.equal(copies[name], wanted[name]) for name in wanted)
    assert distance(wanted, stored(checkpoint)) > 1e-3


# Run by each of two processes, on the same batches.
EVERY_ARCHITECTURE = """
import torch
from neurorit.tuning.neuron_adapter import NeuronAdapters
from neurorit.model.distributed import join
from neurorit.tuning.fsdp import average, shard
from tests.neurorit.tuning.test_neuron_adapter import EVIDENCE, GROUPS, loss_of, tokens
from tests.neurorit.tiny_models import ARCHITECTURES, tiny

join("cpu")
for kind in ARCHITECTURES:
    found = []
    for sharded in (False, True):
        model = tiny(kind)
        adapters = NeuronAdapters(model, GROUPS, (1,))
        if sharded:
            shard(model, torch.device("cpu"))
        trained = [p for _, p in adapters.deltas() + adapters.dense()]
        deltas = len(adapters.deltas())
        groups = [{"params": trained[:deltas]}, {"params": trained[deltas:]}]
        optimizer = torch.optim.AdamW(groups, lr=1e-2, weight_decay=0.0)
        for step in range(3):
            adapters.samples(EVIDENCE)
            optimizer.zero_grad()
            loss_of(model, tokens(step)).backward()
            average(trained)
            optimizer.step()
        adapters.write()
        found.append([(n, p.full_tensor() if sharded else p) for n, p in model.named_parameters()])
    for (name, wanted), (_, other) in zip(*found, strict=True):
        torch.testing.assert_close(other, wanted, rtol=1e-5, atol=1e-5, msg=f"{kind} {name}")
"""


# What each process needs beside what it holds when it reads and writes its part of a model.
MEMORY = """
import gc, sys
from pathlib import Path
import torch, transformers.models.llama.modeling_llama
from neurorit.model.distributed import count, join, rank, wait
from neurorit.model.feed_forward import decoder_layers
from neurorit.model.load import laid_out
from neurorit.model.distributed.weights import is_in_parts
from neurorit.tuning.fsdp import kinds_of, shard, write_parts
from tests.neurorit.tiny_models import ARCHITECTURES, tiny
from tests.neurorit.tuning.test_neuron_adapter import tokens
from tests.serving.tiny_llama import tiny_tokenizer

def memory(line):
    kept = next(one for one in open("/proc/self/status") if one.startswith(line))
    return int(kept.split()[1]) * 1024

def in_parts(place, out):
    model, _ = laid_out(place)
    kinds = kinds_of(model)
    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmRSS")
    shard(model, torch.device("cpu"), place)
    loaded = memory("VmHWM") - before
    if rank() == 0:
        out.mkdir()
    write_parts(model, out if rank() == 0 else None, kinds)
    return model, loaded, memory("VmHWM") - before

join("cpu")
folder = Path(sys.argv[1])
model, loaded, written = in_parts(folder / "twelve", folder / "twelve-out")
whole, layer = (sum(4 * p.numel() for p in one.parameters()) for one in
                (model, decoder_layers(model)[0]))
share = whole / count()
assert loaded < share + layer + 40e6 < whole, (loaded, whole, layer)
assert written < share + 3 * layer + 40e6 < whole + layer, (written, whole, layer)
for kind in ARCHITECTURES:
    place = folder / kind
    if rank() == 0:
        tiny(kind).save_pretrained(place, max_shard_size="20KB")
        tiny_tokenizer().save_pretrained(place)
    wait()
    if kind == "gpt_neox":  # its output layer is stored under another name
        assert not is_in_parts(laid_out(place)[0], place)
        continue
    model, _, _ = in_parts(place, folder / f"{kind}-out")
    with torch.no_grad():
        found, wanted = (one.eval()(input_ids=tokens(0)).logits for one in (model, tiny(kind)))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4, msg=kind)
"""


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_a_checkpoint_is_read_and_written_in_parts(tmp_path: Path, processes: int) -> None:
    from tests.neurorit.tiny_models import ARCHITECTURES
    from tests.serving.tiny_llama import tiny_tokenizer

    config = LlamaConfig(
        vocab_size=1000, hidden_size=512, intermediate_size=1408, num_hidden_layers=12
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "twelve", max_shard_size="30MB")
    tiny_tokenizer().save_pretrained(tmp_path / "twelve")
    if processes == 2:
        run_by_torchrun(MEMORY, tmp_path, processes=processes)
    else:  # forked, which spares their imports
        run_in_processes(processes, MEMORY, tmp_path)
    for kind in ("twelve", *(one for one in ARCHITECTURES if one != "gpt_neox")):
        found, wanted = (stored(tmp_path / name) for name in (f"{kind}-out", kind))
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[name], wanted[name]) for name in wanted), kind
    loaded = LlamaForCausalLM.from_pretrained(tmp_path / "twelve-out")
    assert torch.equal(loaded.lm_head.weight, stored(tmp_path / "twelve")["lm_head.weight"])


def stored(folder: Path) -> dict[str, torch.Tensor]:
    return {k: v for file in folder.glob("*.safetensors") for k, v in load_file(file).items()}


@pytest.mark.slow
def test_every_architecture_learns_the_same_in_shards() -> None:
    run_in_two_processes(EVERY_ARCHITECTURE)


def test_shards_are_put_together_and_a_missing_one_is_named(tmp_path: Path) -> None:
    whole = torch.arange(15.0).view(5, 3)
    for rank, rows in enumerate((whole[:2], whole[2:4], whole[4:])):
        save_file(
            {"value/a": rows.contiguous()},
            tmp_path / f"state-{rank:05d}.safetensors",
            metadata={"processes": "3"},
        )
    named = [("a", torch.nn.Parameter(torch.zeros(5, 3)))]
    read_values(named, tmp_path)
    assert torch.equal(named[0][1], whole)
    (tmp_path / "state-00002.safetensors").unlink()
    with pytest.raises(NeuroritError, match=r"2 of 3 processes' files .* remove .*begins again"):
        read_values(named, tmp_path)
    (tmp_path / "state.safetensors").write_bytes(b"cut short")
    with pytest.raises(NeuroritError, match="cannot be read"):
        read_values(named, tmp_path)


def test_what_another_run_left_is_no_state_of_this_one(tmp_path: Path) -> None:
    state = tmp_path / "stage1"
    clear(state)
    assert last_saved(state, {"seed": 0}) is None
    state.mkdir()
    (state / "state.json").write_text('{"identity": {"seed": 1}, "step": 3, "loss": 0.5}')
    assert last_saved(state, {"seed": 0}) is None
    found = last_saved(state, {"seed": 1})
    assert found is not None
    assert (found.step, found.loss) == (3, 0.5)

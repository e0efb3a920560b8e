"""Noise mixing: kinds, false negatives, splits, seeds and the ledger."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from neurorit.cli import app
from neurorit.core.artifact import hash_file, hash_inputs, read_manifest
from neurorit.core.errors import BadInput
from neurorit.data.answers import held_answer, replace_answers
from neurorit.data.contamination import find_leaks
from neurorit.data.example_files import read_examples
from neurorit.data.examples import Example, Passage
from neurorit.eval.conditions import build_condition
from neurorit.retrieval.index.index import Index, build_index
from neurorit.retrieval.noise.mix import mix
from neurorit.retrieval.noise.mixer import Mixer, MixSettings
from neurorit.retrieval.noise.synthetic import without_answer

POOLS = MixSettings(
    distractor=(4,),
    random=(4,),
    counterfactual=(1,),
    near_duplicate=(1,),
    injected=(1,),
    without_gold=0.0,
    within="split",
    order="kind",
)


@pytest.fixture(scope="session")
def questions(world: Mapping[str, Path]) -> list[Example]:
    return list(read_examples(world["test"]))


def test_pools_are_full_and_in_order(index: Index, questions: list[Example]) -> None:
    short = 0
    for example, record in Mixer(index, questions, POOLS, 0).mix(questions):
        short += bool(record["short"])
        kinds = [p.kind for p in example.passages]
        # Of so few questions some are the only one with their type of answer.
        written = [] if "counterfactual" in record["short"] else ["counterfactual"]
        written += [] if "near-duplicate" in record["short"] else ["near-duplicate"]
        assert kinds == ["gold", *["distractor"] * 4, *["random"] * 4, *written, "injected"]
        assert set(record["short"]) <= {"counterfactual", "near-duplicate"}
        assert len({p.id for p in example.passages}) == len(kinds)
    assert short <= 6


def test_kinds_that_came_later_change_nothing_of_the_others(
    index: Index, questions: list[Example]
) -> None:
    plain = replace(POOLS, near_duplicate=(0,), injected=(0,), order="kind")
    for (some, _), (more, _) in zip(
        Mixer(index, questions, plain, 0).mix(questions),
        Mixer(index, questions, POOLS, 0).mix(questions),
        strict=True,
    ):
        assert more.passages[: len(some.passages)] == some.passages


def test_written_noise_is_what_it_says(index: Index, questions: list[Example]) -> None:
    for example, _ in Mixer(index, questions, POOLS, 0).mix(questions):
        by_kind = {p.kind: p for p in example.passages}
        injected = by_kind["injected"]
        assert injected.meta["value"] in injected.text
        base = index.passage(injected.id.split("#")[0])
        assert base.text in injected.text and base.id in {p.id for p in example.passages}
        if "near-duplicate" in by_kind:
            near, gold = by_kind["near-duplicate"].text, by_kind["gold"].text
            assert set(near.split()) <= set(gold.split()) and near != gold


@pytest.mark.parametrize("seed", range(5))
def test_noise_never_holds_an_answer(index: Index, questions: list[Example], seed: int) -> None:
    for example, _ in Mixer(index, questions, POOLS, seed).mix(questions):
        for passage in example.passages:
            held = held_answer(f"{passage.title} {passage.text}", example.answers)
            assert (held is not None) == (passage.kind == "gold"), (example.id, passage)


def test_rejected_false_negatives_are_named(index: Index, questions: list[Example]) -> None:
    found = 0
    for example, record in Mixer(index, questions, POOLS, 0).mix(questions):
        given = {p.id for p in example.passages}
        for entry in record["rejected"]:
            found += 1
            passage = index.passage(entry["id"])
            assert entry["held"] in example.answers
            assert held_answer(f"{passage.title} {passage.text}", [entry["held"]])
            assert entry["id"] not in given
    assert found, "this world has no false negatives to reject: the test says nothing"


def test_a_cross_encoder_leaves_out_what_rivals_the_gold_passage(
    index: Index, questions: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    class ByLength:
        def predict(self, pairs: list[tuple[str, str]], **_: Any) -> list[float]:
            return [float(len(text)) for _, text in pairs]

    monkeypatch.setattr(
        "neurorit.retrieval.noise.mixer.load_cross_encoder", lambda name, option: ByLength()
    )
    settings = replace(POOLS, cross_encoder="x", margin=-3.0)
    left_out = 0
    for example, record in Mixer(index, questions[:10], settings, 0).mix(questions[:10]):
        gold = next(p for p in example.passages if p.kind == "gold")
        length = len(f"{gold.title} {gold.text}")
        distractors = [p for p in example.passages if p.kind == "distractor"]
        assert 1 <= len(distractors) <= 4
        assert all(len(f"{p.title} {p.text}") <= length + 3 for p in distractors)
        told = [entry for entry in record["rejected"] if "cross_encoder" in entry]
        assert all(entry["cross_encoder"] > entry["gold"] + 3 for entry in told)
        assert len({entry["id"] for entry in told}) == len(told)
        left_out += len(told)
    assert left_out


def test_splits_stay_apart(index: Index, questions: list[Example]) -> None:
    apart = Mixer(index, questions, POOLS, 0).mix(questions)
    assert all(p.id.startswith("test") for e, _ in apart for p in e.passages)
    mingled = Mixer(index, questions, replace(POOLS, within=""), 0).mix(questions)
    assert any(p.id.startswith("train") for e, _ in mingled for p in e.passages)


def test_an_example_can_be_made_again_alone(index: Index, questions: list[Example]) -> None:
    settings = replace(POOLS, order="shuffle", without_gold=0.5, distractor=(1, 2, 3))
    whole = list(Mixer(index, questions, settings, 3).mix(questions))
    (alone,) = Mixer(index, questions, settings, 3).mix([questions[7]])
    assert alone == whole[7]
    assert any(e.has_evidence for e, _ in whole)
    assert not all(e.has_evidence for e, _ in whole)
    assert all(e.passages for e, _ in whole)


def test_the_ledger_accounts_for_every_passage(index: Index, questions: list[Example]) -> None:
    for example, record in Mixer(index, questions, POOLS, 0).mix(questions):
        listed = [(entry["id"], entry["kind"]) for entry in record["passages"]]
        assert listed == [(p.id, p.kind) for p in example.passages]
        for entry in record["passages"]:
            if entry["kind"] == "distractor":
                hit = index.search([example.question], entry["rank"])[0][-1]
                assert hit.passage.id == entry["id"]


def test_the_same_seed_gives_the_same_bytes(
    tmp_path: Path, index_dir: Path, world: Mapping[str, Path]
) -> None:
    settings = MixSettings(limit=40, within="split")
    first = mix(world["train"], index_dir, settings, seed=5, out=tmp_path / "a")
    second = mix(world["train"], index_dir, settings, seed=5, out=tmp_path / "b")
    third = mix(world["train"], index_dir, settings, seed=6, out=tmp_path / "c")
    assert first == second
    assert first.counts["examples"] == third.counts["examples"] == 40
    for name in ("examples.jsonl", "ledger.jsonl"):
        same = (tmp_path / "a" / name).read_bytes()
        assert same == (tmp_path / "b" / name).read_bytes()
        assert same != (tmp_path / "c" / name).read_bytes()


def test_nothing_is_drawn_that_other_examples_have_seen(
    tmp_path: Path, index_dir: Path, index: Index, world: Mapping[str, Path]
) -> None:
    settings = MixSettings(limit=10, within="split")
    first, second = tmp_path / "first", tmp_path / "second"
    seen = mix(world["train"], index, settings, out=first)
    assert find_leaks(seen, mix(world["train"], index, settings, seed=1)), "nothing would leak"
    places = [str(world["train"]), "--index", str(index_dir), "--apart-from", str(first)]
    chosen = ["--set", "limit=10", "--set", "within=split", "--seed", "1", "--json"]
    done = CliRunner().invoke(app, ["mix", *places, *chosen, "--out", str(second)])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    drawn = list(read_examples(second / "examples.jsonl", unanswered="all"))
    assert told["examples"] == len(drawn) == 10
    assert told["questions_not_read"]["seen"] > 0
    assert find_leaks(seen, drawn) == []
    assert drawn == mix(world["train"], index, settings, seed=1, apart_from=[seen])
    made = read_manifest(second, "examples")
    assert made.inputs["apart_from_1"] == hash_inputs(examples=first)["examples"]
    # A question may name no gold passage: what is then found for it was seen as well.
    unnamed = [replace(q, meta={**q.meta, "gold": []}) for q in read_examples(world["train"])]
    found = mix(unnamed, index, replace(settings, limit=0), seed=1, apart_from=[seen])
    assert find_leaks(seen, found) == [] and 0 < len(found) < len(unnamed)
    gone = next(q.id for q in read_examples(world["train"]) if q.id not in {e.id for e in drawn})
    with pytest.raises(BadInput, match=f"only={gone}: it is in .*, but limit did not draw it"):
        mix(world["train"], index, settings, seed=1, apart_from=[seen], only=[gone])
    with pytest.raises(BadInput, match="apart_from has seen all of its"):
        mix(world["train"], index, settings, apart_from=[world["train"]])


def test_the_index_that_is_named_is_the_one_that_was_mixed_from(
    tmp_path: Path, index: Index, world: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "index"
    build_index(index.passages, place, encoder=index.encoder)

    def late(directory: Path) -> Index:
        others = list(reversed(index.passages))
        build_index(others, directory, encoder=index.encoder, overwrite=True)
        return Index.load(directory, encoder=index.encoder)

    monkeypatch.setattr("neurorit.retrieval.noise.mix._loaded", late)
    mix(world["train"], place, MixSettings(limit=5), out=tmp_path / "mixed")
    made = read_manifest(tmp_path / "mixed", "examples")
    assert made.inputs["index"] == hash_file(place / "manifest.json")


def test_gold_is_found_by_its_answer_where_none_is_named(index: Index) -> None:
    passage = next(p for p in index.passages if p.id.startswith("test"))
    value = next(iter(passage.meta["facts"].values()))[0]
    question = Example("q", passage.text, (value,), (), {"split": "test"})
    ((example, record),) = Mixer(index, [question], POOLS, 0).mix([question])
    assert example.passages[0].id == passage.id
    assert "holds" in record["passages"][0]["why"]


def test_a_question_of_several_hops_gets_all_its_gold_passages(index: Index) -> None:
    first, second = (p for p in list(index.passages)[:2])
    value = next(iter(second.meta["facts"].values()))[0]
    split = first.meta["split"]
    meta = {"split": split, "gold": [first.id, second.id]}
    question = Example("q", second.text, (value,), (), meta)
    for settings, wanted in ((replace(POOLS, gold=0), [first.id, second.id]), (POOLS, [first.id])):
        ((example, record),) = Mixer(index, [question], settings, 0).mix([question])
        golds = [p.id for p in example.passages if p.kind == "gold"]
        assert golds == wanted
        assert [entry["id"] for entry in record["passages"]][: len(wanted)] == wanted
        others = {p.id for p in example.passages if p.kind != "gold"}
        assert not others & {first.id, second.id}
        assert {p.id for p in build_condition(example, "clean")} == set(wanted)
    # What states another answer is made from the passage that holds the true one.
    made = Mixer(index, [question], replace(POOLS, gold=0), 0).mix([question])
    ((example, _),) = made
    false = [p.id for p in example.passages if p.kind == "counterfactual"]
    assert all(identity.startswith(second.id) for identity in false)


def test_questions_of_a_beir_folder_that_cannot_be_asked_are_counted(
    tmp_path: Path, index: Index
) -> None:
    passage = next(p for p in index.passages if p.id.startswith("test"))
    value = next(iter(passage.meta["facts"].values()))[0]
    queries = [
        {"_id": "q1", "text": passage.text, "metadata": {"answer": value}},
        {"_id": "q2", "text": "Who?"},
    ]
    (tmp_path / "queries.jsonl").write_text("".join(json.dumps(q) + "\n" for q in queries))
    mixture = mix(tmp_path, index, MixSettings(), out=tmp_path / "mixed")
    assert [e.id for e in mixture] == ["q1"]
    made = json.loads((tmp_path / "mixed" / "manifest.json").read_text())["made"]
    assert mixture.counts["questions_not_read"] == made["questions_not_read"] == {"no answer": 1}


def test_an_unknown_gold_passage_is_refused(tmp_path: Path, index_dir: Path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text(json.dumps({"id": "q", "question": "Who?", "answers": ["x"], "gold": ["no"]}))
    with pytest.raises(BadInput, match="no passage 'no'"):
        mix(path, index_dir, MixSettings(), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "settings", [{"distractor": ()}, {"random": (-1,)}, {"without_gold": 1.5}, {"position": "top"}]
)
def test_impossible_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match=f"^{next(iter(settings))} "):
        MixSettings(**settings)


WORDS = st.text("ab c.,'", min_size=1, max_size=12)


@given(text=WORDS, answers=st.lists(WORDS, min_size=1, max_size=3))
def test_replacing_leaves_no_answer(text: str, answers: list[str]) -> None:
    replaced = replace_answers(f"x {text} y", answers, "Z")
    for answer in answers:
        if answer.strip() and answer[0] not in " .,'" and answer[-1] not in " .,'":
            assert f" {answer} " not in f" {replaced} ".replace("Z", " Z ") or answer in "Z"


TEXTS = st.lists(
    st.text("ab dZ", min_size=1, max_size=10).map(lambda t: f"{t.strip() or 'X'}."), min_size=1
)


@given(parts=TEXTS, answer=st.sampled_from(["a", "b", "ab", "dZ"]), variant=st.integers(0, 3))
def test_near_duplicates_hold_no_answer(parts: list[str], answer: str, variant: int) -> None:
    made = without_answer(Passage("p", "", " ".join(parts)), [answer], variant)
    if made is not None:
        assert held_answer(made.text, [answer]) is None
        assert made.text != " ".join(parts)


def test_held_answers_are_whole_words() -> None:
    assert held_answer("Mira keeps an owl.", ["OWL"]) == "OWL"
    assert held_answer("Mira keeps a fowl.", ["owl"]) is None
    assert held_answer("It is the sea.", ["the"]) is None


@pytest.mark.parametrize(
    ("text", "answer", "held"),
    [
        ("Conan O\u2019Brien hosted", "Conan O'Brien", True),
        ("lived 1912\u20131954 there", "1954", True),
        ("a real-time clock", "real", True),
        ("Mira's owl", "Mira", True),
        ("in the US", "U.S.", True),
        ("Z\u00fcrich", "Zurich", True),
        ("\u4ed6\u4f4f\u5728\u4e1c\u4eac\u5e02\u3002", "\u4e1c\u4eac", True),
        ("\uc11c\uc6b8\uc5d0\uc11c", "\uc11c\uc6b8", True),
        ("12008\u5e74\u306b", "2008\u5e74", False),
        ("\u30ac\u30e9\u30b9", "\u30ab", False),
        ("fowl", "owl", False),
    ],
)
def test_answers_are_found_however_they_are_written(text: str, answer: str, held: bool) -> None:
    assert (held_answer(text, [answer]) is not None) == held
    replaced = replace_answers(text, [answer], "ZZ")
    if held and answer not in ("U.S.", "Zurich"):
        assert "ZZ" in replaced and held_answer(replaced, [answer]) is None
    elif not held:
        assert replaced == text


def test_the_gold_passage_stands_where_it_is_told(index: Index, questions: list[Example]) -> None:
    plain = list(Mixer(index, questions, replace(POOLS, order="shuffle"), 0).mix(questions))
    places = {}
    for position in ("first", "middle", "last", "random"):
        wanted = replace(POOLS, order="shuffle", position=position)
        made = list(Mixer(index, questions, wanted, 0).mix(questions))
        places[position] = set()
        for (example, record), (other, _) in zip(made, plain, strict=True):
            assert [p.id for p in example.passages] == [one["id"] for one in record["passages"]]
            noise = [p for p in example.passages if p.kind != "gold"]
            assert noise == [p for p in other.passages if p.kind != "gold"]
            at = next(i for i, p in enumerate(example.passages) if p.kind == "gold")
            places[position].add(at / len(noise))
    assert places["first"] == {0.0} and places["last"] == {1.0} and len(places["random"]) > 4
    assert all(0.4 <= at <= 0.5 for at in places["middle"])
    with pytest.raises(BadInput, match=r"position is 'top', .* one of first, middle, last, random"):
        replace(POOLS, position="top")  # type: ignore[arg-type]


def test_one_example_is_made_again_alone_by_the_command(
    tmp_path: Path, index_dir: Path, world: Mapping[str, Path]
) -> None:
    asked = [str(world["test"]), "--index", str(index_dir), "--for", "eval"]
    run = CliRunner().invoke
    assert run(app, ["mix", *asked, "--out", str(tmp_path / "a")]).exit_code == 0
    lines = (tmp_path / "a" / "examples.jsonl").read_text().splitlines(keepends=True)
    one = json.loads(lines[4])["id"]
    done = run(app, ["mix", *asked, "--out", str(tmp_path / "b"), "--only", one])
    assert done.exit_code == 0
    assert (tmp_path / "b" / "examples.jsonl").read_text() == lines[4]
    done = run(app, ["mix", *asked, "--out", str(tmp_path / "c"), "--only", "none"])
    assert "--only none: it is not among the" in str(done.exception)

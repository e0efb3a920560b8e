"""mine, tune, merge: each reads artifacts, makes one, and reports its summary."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurorit.core.artifact import hash_inputs, read_manifest
from neurorit.core.errors import ArtifactError, BadInput
from neurorit.pipelines.general_texts import general_texts
from neurorit.pipelines.progress import Reporter, reporting
from neurorit.pipelines.recipe import Recipe, parse_assignments
from neurorit.tuning.settings import MAX_LORA_RANK

if TYPE_CHECKING:
    from neurorit.mining.settings import MiningSettings


MEASURED = "samples measured"


def mine(
    model: Path,
    examples: Path,
    out: Path,
    recipe: Path | None,
    assignments: Iterable[str] | None,
    seed: int,
    overwrite: bool,
    *,
    options: Mapping[str, Any] | None = None,
) -> Mapping[str, Any]:
    """Mine an atlas; returns where it is and its description.

    options: settings by name, over the recipe's and the assignments'; None leaves one alone.
    """
    from neurorit.mining.mine import mine as mine_atlas
    from neurorit.pipelines.atlas import describe

    settings = _mining_settings(recipe, assignments, options)
    with reporting() as report:
        mine_atlas(
            model,
            None,
            examples,
            settings,
            seed=seed,
            out=out,
            overwrite=overwrite,
            general=general_texts(settings.general, model, settings.measured, seed),
            progress=_mining_progress(report),
            measuring=report.named(MEASURED),
        )
    return describe(out)


def plan_mining(
    model: Path,
    examples: Path,
    recipe: Path | None,
    assignments: Iterable[str] | None,
    seed: int,
    *,
    options: Mapping[str, Any] | None = None,
) -> Mapping[str, Any]:
    """What `mine` would need on 1, 2, 4 and 8 devices; nothing is mined."""
    from neurorit.mining.estimate import plan as make_plan

    return make_plan(model, examples, _mining_settings(recipe, assignments, options), seed=seed)


def _mining_settings(
    recipe: Path | None, assignments: Iterable[str] | None, options: Mapping[str, Any] | None
) -> MiningSettings:
    from neurorit.mining.settings import MiningSettings

    chosen = {name: value for name, value in (options or {}).items() if value is not None}
    assigned = {**parse_assignments(assignments or ()), **chosen}
    return Recipe(recipe).settings(MiningSettings, "mine", assigned)


def tune(
    model: Path,
    examples: Path,
    out: Path,
    method: str,
    atlas: Path | None,
    recipe: Path | None,
    assignments: Iterable[str] | None,
    seed: int,
    overwrite: bool,
    *,
    adapter: Path | None = None,
    verify: int = 0,
    variant: str = "",
) -> Mapping[str, Any]:
    """Tune a checkpoint; mines first when the method wants neurons and no atlas is given.

    adapter: where to write what changed, alone. verify: prompts to answer by vLLM and by Hugging
    Face afterwards; the share of equal answers is in the result. variant: the recipe's section for
    this run, where it is another than the method's own.
    """
    from neurorit.model.distributed import join, rank
    from neurorit.model.load import release
    from neurorit.tuning.settings import TuneSettings, needs_atlas
    from neurorit.tuning.tune import tune as tune_model

    read = Recipe(recipe)
    options = {**parse_assignments(assignments or ()), "method": method}
    settings = read.settings(TuneSettings, "tune", options, variant or method)
    join(settings.device)
    with reporting() as report:
        if atlas is None and needs_atlas(method):
            place = out.with_name(f"{out.name}-atlas")
            atlas = mined_at(place, model, examples, read, seed, report)
        _tell_of_idle_gpus(settings.device, report)
        tuned = tune_model(
            model,
            None,
            examples,
            atlas,
            settings,
            seed=seed,
            out=out,
            adapter=adapter,
            overwrite=overwrite,
            progress=report,
        )
        summary = dict(tuned.tuning_record) if tuned is not None else {}
        for stage, made in summary.items():
            if isinstance(made, dict) and made.get("selectivity"):
                report.say(_refuses(stage, made))
        del tuned
        release()
        if verify and rank() == 0:
            from neurorit.pipelines.parity import measure

            summary["parity"] = measure(out, examples, report, prompts=verify)
    return {"checkpoint": str(out), "atlas": str(atlas) if atlas else None, **summary}


def plan(
    model: Path,
    examples: Path,
    method: str,
    atlas: Path | None,
    recipe: Path | None,
    assignments: Iterable[str] | None,
) -> Mapping[str, Any]:
    """What `tune` would need; nothing is trained."""
    from neurorit.data.example_files import examples_file, read_examples
    from neurorit.mining.atlas import NeuronAtlas
    from neurorit.mining.settings import MiningSettings
    from neurorit.model.checkpoint import checkpoint_dir
    from neurorit.model.load import load_tokenizer
    from neurorit.model.prompts import PromptTemplate
    from neurorit.tuning.estimate import plan as make_plan
    from neurorit.tuning.samples import make_samples
    from neurorit.tuning.settings import TuneSettings

    model = checkpoint_dir(model, weights=False)
    read = Recipe(recipe)
    options = {**parse_assignments(assignments or ()), "method": method}
    settings = read.settings(TuneSettings, "tune", options, method)
    samples, _ = make_samples(
        list(read_examples(examples_file(examples))),
        load_tokenizer(model),
        PromptTemplate.of_checkpoint(model),
        settings.max_length,
    )
    return make_plan(
        model,
        settings,
        atlas=NeuronAtlas.load(atlas) if atlas is not None else None,
        share=read.settings(MiningSettings, "mine", {}).share,
        length=max((sample.length for sample in samples), default=None),
    )


def merge(
    model: str | PathLike[str],
    adapter: str | PathLike[str],
    out: str | PathLike[str],
    overwrite: bool = False,
    *,
    as_lora: bool = False,
    max_rank: int = MAX_LORA_RANK,
) -> Mapping[str, Any]:
    """Put an adapter into its base model and write the plain checkpoint, worded as it was tuned.

    as_lora: write a LoRA folder for peft and vLLM instead, of an adapter that has no dense layers;
    max_rank: the largest rank it may have in a layer.
    """
    from neurorit.core.artifact import Manifest, writing
    from neurorit.model.load import make_savable
    from neurorit.model.source import ModelSource
    from neurorit.tuning.adapter_file import adapter_template, apply_adapter
    from neurorit.tuning.lora_file import save_lora

    base, adapter, out = str(model), Path(adapter), Path(out)
    source = ModelSource.of(base)
    assert source.folder is not None
    loaded, tokenizer = source.load(device="cpu")
    # It may have been tuned in memory, where weights have another name than their files.
    digest = read_manifest(adapter, "adapter").inputs.get("model", "")
    if not source.has_weights(digest, loaded):
        raise BadInput(f"‹adapter={adapter}› was made from another base model's weights")
    template = adapter_template(adapter, source.folder)
    inputs = {"model": digest, **hash_inputs(adapter=adapter)}
    if as_lora:
        manifest = Manifest(kind="lora", command="neurorit-rag merge --as-lora", inputs=inputs)
        rank = save_lora(
            loaded,
            adapter,
            base,
            out,
            manifest,
            max_rank=max_rank,
            template=template,
            overwrite=overwrite,
        )
        return {"lora": str(out), "base": base, "adapter": str(adapter), "rank": rank}
    make_savable(loaded)
    apply_adapter(loaded, adapter, digest)
    manifest = Manifest(kind="checkpoint", command="neurorit-rag merge", inputs=inputs)
    with writing(out, manifest, overwrite=overwrite) as folder:
        loaded.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        template.save(folder)
    return {"checkpoint": str(out), "adapter": str(adapter)}


def mined_at(
    place: Path,
    model: Path,
    examples: Path,
    recipe: Recipe,
    seed: int,
    report: Reporter,
    options: Mapping[str, Any] | None = None,
) -> Path:
    """The atlas at `place`, mined anew unless it was made of the same model, data and settings.

    options: settings of mining over the recipe's.
    """
    from neurorit.mining.mine import mine as mine_atlas
    from neurorit.mining.settings import MiningSettings

    if is_mined(place, model, examples, recipe, seed, options):
        report.say(f"using the neurons in {place}")
        return place
    settings = recipe.settings(MiningSettings, "mine", options or {})
    report.say(f"mining into {place}")
    mine_atlas(
        model,
        None,
        examples,
        settings,
        seed=seed,
        out=place,
        overwrite=True,
        general=general_texts(settings.general, model, settings.measured, seed),
        progress=_mining_progress(report),
        measuring=report.named(MEASURED),
    )
    return place


def chosen_at(
    place: Path,
    mined: Path,
    model: Path,
    examples: Path,
    recipe: Recipe,
    seed: int,
    report: Reporter,
    options: Mapping[str, Any],
) -> Path:
    """The atlas at `place`, chosen from what was mined at `mined`, unless it is there already.

    options: settings of the choice alone (mining.settings.OF_THE_CHOICE), over the recipe's.
    """
    from neurorit.mining.mine import choose_again
    from neurorit.mining.settings import MiningSettings

    if is_mined(place, model, examples, recipe, seed, options):
        report.say(f"using the neurons in {place}")
        return place
    settings = recipe.settings(MiningSettings, "mine", options)
    report.say(f"choosing neurons into {place}")
    texts = general_texts(settings.general, model, settings.measured, seed)
    measuring = report.named(MEASURED)
    choose_again(mined, model, examples, settings, place, general=texts, measuring=measuring)
    return place


def is_mined(
    place: Path,
    model: Path,
    examples: Path,
    recipe: Recipe,
    seed: int,
    options: Mapping[str, Any] | None = None,
) -> bool:
    """Whether the atlas of this model, data and settings stands at `place`."""
    from neurorit.mining.mine import given_files
    from neurorit.mining.settings import MiningSettings, revisions

    settings = recipe.settings(MiningSettings, "mine", options or {})
    inputs = inputs_of(model, examples=examples, **given_files(settings)) | revisions(settings)
    return made_of(place, "atlas", settings, seed, inputs)


def inputs_of(model: Path, **files: Path) -> dict[str, str]:
    """Digests of what is mined or tuned: a model, how it is asked, and files."""
    from neurorit.model.source import ModelSource

    return {**hash_inputs(**files), **ModelSource.of(model).inputs}


def made_of(
    place: Path,
    kind: str,
    settings: Any,
    seed: int,
    inputs: Mapping[str, str],
    processes: int | None = None,
) -> bool:
    """Whether a whole artifact of that kind stands there, made with these settings and inputs.

    A setting that there was not then counts as its default, which is what was done without it.
    processes: by so many, where that changes what is made.
    """
    try:
        made = read_manifest(place, kind)
    except ArtifactError:
        return False
    wanted = json.loads(json.dumps(plain(settings)))
    unset = json.loads(json.dumps(plain(type(settings)())))
    same = wanted == {**unset, **made.settings}
    same = same and processes in (None, made.made.get("processes", 1))
    return same and made.seed == seed and dict(inputs) == dict(made.inputs)


def _tell_of_idle_gpus(device: str, report: Reporter) -> None:
    import torch

    from neurorit.model.distributed import count

    seen = torch.cuda.device_count()
    if seen > 1 and count() == 1 and not device.startswith("cpu"):
        report.say(
            f"one of {seen} GPUs is used; for all of them start it with "
            f"`torchrun --nproc-per-node={seen} -m neurorit.cli tune ...`"
        )


def _refuses(stage: str, made: Mapping[str, Any]) -> str:
    """How often a stage's model ends at once, in the course of its training."""
    measures = [
        f"{measure['step']}: {measure['ends_on_noise']:.1%} and {measure['ends_on_evidence']:.1%}"
        for measure in made["selectivity"]
    ]
    best = f"; kept is step {made['best_step']}" if "best_step" in made else ""
    return (
        f"{stage} ends at once without and with evidence, by step ({made['measured_on']}): "
        f"{', '.join(measures)}{best}"
    )


def _mining_progress(report: Reporter) -> Callable[[int, int, float | None], None]:
    def show(done: int, total: int, residual: float | None) -> None:
        if residual is None:
            report("contexts asked", done, total)
        else:
            report("contexts mined", done, total, f"median residual {residual:.2%}")

    return show


def plain(settings: Any) -> dict[str, Any]:
    """Settings as JSON data, for manifests and reports."""
    return asdict(settings)

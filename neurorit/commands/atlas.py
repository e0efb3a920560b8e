"""atlas show and plot: what was mined, in numbers and as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from retrieval.artifact import read_manifest
from retrieval.errors import BadInput


def describe(directory: Path) -> Mapping[str, Any]:
    """Counts of the three sets, densities per layer, and what the manifest says of the making."""
    from neurorit.atlas import NeuronAtlas

    atlas = NeuronAtlas.load(directory)
    manifest = read_manifest(directory, "atlas", verify=False)
    per_layer = [
        {
            "layer": layer,
            "density": float(density),
            **{
                name: int((getattr(atlas, name)[:, 0] == layer).sum())
                for name in ("rel", "irrel", "shared")
            },
        }
        for layer, density in enumerate(atlas.density)
    ]
    return {
        "atlas": str(directory),
        "rel": len(atlas.rel),
        "irrel": len(atlas.irrel),
        "shared": len(atlas.shared),
        "densest_layers": ", ".join(str(layer) for layer in atlas.densest(3)),
        "per_layer": per_layer,
        **dict(manifest.made),
    }


def draw(directory: Path, out: Path) -> Mapping[str, Any]:
    """Write the plot; raises BadInput for a name that is neither .svg nor .png."""
    from neurorit.atlas import NeuronAtlas, plot

    if out.suffix not in (".svg", ".png"):
        raise BadInput(f"--out {out}: name a .svg or .png file")
    out.parent.mkdir(parents=True, exist_ok=True)
    plot(NeuronAtlas.load(directory), out)
    return {"plot": str(out)}

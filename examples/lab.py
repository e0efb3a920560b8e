"""The demo's job as a notebook would do it: `python examples/lab.py [FOLDER]`.

An invented world is indexed and mixed with noise, the small model that comes with the package is
mined and tuned on it, and both models answer questions about people whom no training saw.
"""

import sys
import tempfile
from pathlib import Path

import neurorit as nr
from neurorit.lab import base_model_dir
from neurorit.lab.world import write_world


def main(folder: Path, people: int = 200, questions: int = 100, steps: int = 60) -> nr.Evaluation:
    """Index, mix, mine, tune and evaluate below `folder`."""
    world = write_world(folder / "world", train=people, validation=1, test=questions)
    index = nr.build_index(world["corpus"], folder / "index")
    noise = nr.MixSettings(within="split", limit=4 * people)
    train = nr.mix(world["train"], index, noise)
    test = nr.mix(world["test"], index, nr.PoolSettings(within="split"))

    model, tokenizer = nr.load_model(base_model_dir())
    atlas = nr.mine(model, tokenizer, train, nr.MiningSettings(samples=steps))
    print(atlas)
    rates = {"learning_rate": 3e-4, "dense_learning_rate": 3e-3, "stage1_learning_rate": 2e-4}
    settings = nr.TuneSettings(stage1_steps=5, steps=steps, **rates)
    tuned = nr.tune(model, tokenizer, train, atlas, settings)
    conditions = ["clean", "distractor-1", "distractor-4", "noise-only-4"]
    systems = {"base": model, "neuro-rit": tuned}
    return nr.evaluate(systems, test, conditions, tokenizer=tokenizer, judge="lab")


if __name__ == "__main__":
    place = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
    table = main(place)
    print(table, *table.report["findings"], sep="\n")
    print(table.to_html(place / "report.html"))

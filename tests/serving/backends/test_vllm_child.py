"""The process that becomes vLLM, with a stand-in for vLLM: what its own children know."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from neurorit.serving.backends import vllm_child
from neurorit.serving.backends.vllm_env import has_gpu

ROOT = Path(__file__).parents[3]
CHILD = """
import multiprocessing

def told(depth):
    from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU
    print(depth, "groups" in vars(PunicaWrapperCPU), flush=True)
    if depth < 2:
        child = multiprocessing.get_context("spawn").Process(target=told, args=(depth + 1,))
        child.start()
        child.join()
"""
FILES = {
    "child.py": CHILD,
    "torch.py": "class Tensor: pass\n",
    "vllm/entrypoints/openai/api_server.py": (
        "from child import told\nif __name__ == '__main__':\n    told(0)\n"
    ),
    "vllm/lora/ops/torch_ops/lora_ops.py": "",
    "vllm/lora/punica_wrapper/punica_cpu.py": (
        "class PunicaWrapperCPU:\n    def update_metadata(self): pass\n"
    ),
}


@pytest.mark.skipif(has_gpu(), reason="there vLLM has operations of its own")
@pytest.mark.parametrize("flags", [["--enable-lora"], []])
def test_the_mended_operations_are_in_every_process_that_it_spawns(
    tmp_path: Path, flags: list[str]
) -> None:
    for name, text in FILES.items():
        place = tmp_path / name
        place.parent.mkdir(parents=True, exist_ok=True)
        for above in place.relative_to(tmp_path).parents:
            if above.name:  # else the real package of that name would go first
                (tmp_path / above / "__init__.py").touch()
        place.write_text(text)
    child = subprocess.Popen(
        [sys.executable, "-m", vllm_child.__name__, *flags],
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        stdin=subprocess.PIPE,  # its end would end the child
        stdout=subprocess.PIPE,
        text=True,
        process_group=0,
    )
    with child:
        assert child.stdout is not None
        lines = [child.stdout.readline().strip() for _ in range(3)]
    assert lines == [f"{depth} {bool(flags)}" for depth in range(3)]

"""A causal language model as a caller gives it: a checkpoint's place, or one that is loaded."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from neurorit.core.artifact import hash_file
from neurorit.core.errors import BadInput
from neurorit.model.checkpoint import checkpoint_dir, weights_digest
from neurorit.model.distributed.pipeline import Line, load_part
from neurorit.model.feed_forward import check_no_dropout, check_tunable, feed_forward
from neurorit.model.load import load_model
from neurorit.model.prompts import PromptTemplate

# Files of a checkpoint that say which tokens a text becomes.
_OF_TOKENIZER = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)
# Of a configuration; how numbers are stored is in the weights' digest, how they compute is set.
_SAYS_NOTHING = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")
_LOADED = "loaded "  # begins the digest of weights in memory
_ATTENTIONS = ("eager", "sdpa")  # those that take a mask of four dimensions


@dataclass(frozen=True)
class ModelSource:
    """A model with its tokenizer and the wording of its prompts.

    folder: of its checkpoint, None for one in memory; loaded: the model in memory; tokenizer: None
    is the checkpoint's own. Make one with `ModelSource.of`.
    """

    folder: Path | None
    loaded: Any
    tokenizer: Any
    template: PromptTemplate

    @classmethod
    def of(
        cls, model: Any, tokenizer: Any = None, template: PromptTemplate | None = None
    ) -> ModelSource:
        """From a folder, a hub's name, or a loaded model with its tokenizer.

        template: None is the one that the model was tuned with, or the default. Raises BadInput
        for a loaded model without a tokenizer.
        """
        if isinstance(model, (str, PathLike)):
            folder = checkpoint_dir(Path(model))
            template = template or PromptTemplate.of_checkpoint(folder)
            return cls(folder, None, tokenizer, template)
        if not isinstance(model, torch.nn.Module) or not hasattr(model, "config"):
            raise BadInput(
                f"model: {type(model).__name__} is neither a path nor a loaded transformers model"
            )
        if getattr(model, "neurorit_unfinished", False):
            raise BadInput("model: a tuning in place ended in its midst; load the model anew")
        if tokenizer is None:
            raise BadInput("‹tokenizer›: a loaded model needs the one it was trained with")
        return cls(None, model, tokenizer, template or PromptTemplate.of_loaded(model))

    @cached_property
    def digest(self) -> str:
        """What tells its weights from others': of the checkpoint's files, or of the tensors."""
        return weights_digest(self.folder) if self.folder else loaded_digest(self.loaded)

    @cached_property
    def prompts(self) -> str:
        """What tells its prompts from others': a digest of their wording and of its tokenizer."""
        digest = hashlib.sha256(json.dumps(asdict(self.template), sort_keys=True).encode())
        if self.tokenizer is None:
            assert self.folder is not None
            for path in sorted(self.folder / name for name in _OF_TOKENIZER):
                if path.is_file():
                    digest.update(f"{path.name} {hash_file(path)}\n".encode())
        else:
            told = [_words_of(self.tokenizer), getattr(self.tokenizer, "chat_template", None)]
            digest.update(json.dumps(told, sort_keys=True, default=str).encode())
        return digest.hexdigest()

    @cached_property
    def inputs(self) -> dict[str, str]:
        """Name -> digest of all of it that what it computes depends on."""
        if self.folder is not None:
            place = self.folder / "config.json"
            try:
                config = json.loads(place.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise BadInput(f"{place}: no configuration of a model: {error}") from error
        else:
            config = self.loaded.config.to_dict()
        config = {name: value for name, value in config.items() if name not in _SAYS_NOTHING}
        told = json.dumps(config, sort_keys=True, default=str)
        digest = hashlib.sha256(told.encode()).hexdigest()
        return {"model": self.digest, "config": digest, "prompts": self.prompts}

    def check_tunable(self) -> None:
        """Raise BadInput where it cannot be mined or tuned, before anything is loaded."""
        if self.folder is not None:
            check_tunable(self.folder)
            return
        feed_forward(self.loaded)
        check_no_dropout(self.loaded.config.to_dict(), "model")
        attention = getattr(self.loaded.config, "_attn_implementation", None)
        if attention not in (None, *_ATTENTIONS):
            raise BadInput(
                f"model: its attention {attention!r} takes no mask of ours; load it with "
                "attn_implementation='sdpa', or 'eager'"
            )

    def load(
        self, *, dtype: str = "auto", device: str = "auto", pipeline: int = 1
    ) -> tuple[Any, Any]:
        """The model in evaluation mode, and its tokenizer; one in memory as it is.

        pipeline: processes that its layers are parted over, of which this one loads its part.
        """
        if pipeline > 1:
            if self.folder is None:
                raise BadInput(
                    f"‹pipeline={pipeline}›: a model that is loaded whole is not parted; give its "
                    "folder"
                )
            line = Line.of(pipeline)
            model, tokenizer = load_part(self.folder, line, dtype=dtype, device=device)
            return model, self.tokenizer or tokenizer
        if self.folder is None:
            return self.loaded.eval(), self.tokenizer
        model, tokenizer = load_model(self.folder, dtype=dtype, device=device)
        return model, self.tokenizer or tokenizer

    def has_weights(self, digest: str, loaded: Any = None) -> bool:
        """Whether these are the weights of that digest, whether it is of files or of tensors.

        loaded: this model, where it was loaded from its folder already.
        """
        if digest == self.digest:
            return True
        if digest.startswith(_LOADED):
            if self.folder is None:
                return False
            return digest == loaded_digest(self.load(device="cpu")[0] if loaded is None else loaded)
        if self.folder is not None:
            return False
        # It may be what was loaded from the files of that digest, if nobody changed it since.
        place = checkpoint_dir(Path(str(getattr(self.loaded.config, "_name_or_path", "") or "?")))
        if not place.is_dir() or weights_digest(place) != digest:
            return False
        return loaded_digest(load_model(place, dtype="auto", device="cpu")[0]) == self.digest

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Give a model in memory back in the mode, and with the gradients, that it came with."""
        if self.folder is not None:
            yield
            return
        training = self.loaded.training
        wanted = [(parameter, parameter.requires_grad) for parameter in self.loaded.parameters()]
        try:
            yield
        finally:
            self.loaded.train(training)
            for parameter, wants in wanted:
                parameter.requires_grad_(wants)

    def copied(self) -> ModelSource:
        """With a model in memory that may be changed."""
        if self.folder is not None:
            return self
        return ModelSource(None, copy.deepcopy(self.loaded), self.tokenizer, self.template)


def _words_of(tokenizer: Any) -> Any:
    """How a tokenizer in memory parts a text, as data."""
    fast = getattr(tokenizer, "backend_tokenizer", None)
    if fast is None:
        return tokenizer.get_vocab()
    told: dict[str, Any] = json.loads(fast.to_str())
    of_the_last_call = ("padding", "truncation")
    return {name: value for name, value in told.items() if name not in of_the_last_call}


def loaded_digest(model: Any) -> str:
    """Digest of a model's tensors, the same in every type that holds their values exactly."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {list(tensor.shape)}\n".encode())
        value = tensor.detach().cpu()
        value = value.float() if value.is_floating_point() else value
        digest.update(value.contiguous().numpy().reshape(-1).view("uint8"))
    return f"{_LOADED}{digest.hexdigest()}"

"""LoRA: two small matrices beside each frozen one (Hu et al. 2021, arXiv 2106.09685).

peft does the work. Here is what it leaves open: which layers get them, how the result becomes an
ordinary model again, and which base an adapter belongs to.

Letters: r rank, I inputs, O outputs of a linear layer.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import cast

import peft
import torch
from peft import inject_adapter_in_model, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.utils.other import ModulesToSaveWrapper
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from manzano.training.distributed import blocks

NAME = "default"
"""peft's name of the one adapter that a model has here."""
PREFIX = "base_model.model."
"""What peft's files put before the names of parameters."""
WEIGHTS, RECORD = "adapter_model.safetensors", "base.json"


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Small matrices to train in place of the linear layers of the blocks."""

    rank: int = 0
    """Rank of what is added to each layer; 0: the layers themselves are trained."""
    alpha: float = 32.0
    """What is added is multiplied by alpha / rank."""

    def __post_init__(self) -> None:
        if self.rank < 0 or self.alpha <= 0:
            raise ValueError(
                f"lora.rank is {self.rank} and lora.alpha is {self.alpha}: the rank must be 0 or "
                "more and alpha positive."
            )


def add_lora(model: nn.Module, config: LoraConfig) -> None:
    """Freezes `model` and puts trainable matrices beside all linear layers of its blocks, in place.

    Blocks are what `_no_split_modules` names (`distributed.blocks`). The second matrix begins at
    zero, so the model computes what it did before.
    """
    linear = {m for block in blocks(model) for m in block.modules() if isinstance(m, nn.Linear)}
    targets = [name for name, module in model.named_modules() if module in linear]
    settings = peft.LoraConfig(
        r=config.rank, lora_alpha=cast(int, config.alpha), target_modules=targets
    )
    inject_adapter_in_model(settings, model)


def layers(model: nn.Module) -> dict[str, LoraLayer]:
    """The layers that have matrices beside them, by name; none where there is no adapter."""
    return {name: m for name, m in model.named_modules() if isinstance(m, LoraLayer)}


def add_product(weight: Tensor, a: Tensor, b: Tensor, scaling: float) -> Tensor:
    """weight (O, I) + scaling * b (O, r) @ a (r, I), in fp32 on the device of `weight`."""
    return weight.float() + scaling * (b.float() @ a.float()).to(weight.device)


@contextmanager
def merged(model: nn.Module) -> Iterator[None]:
    """Meanwhile `model` is the ordinary one that computes the same: same modules, names, shapes.

    Costs a second copy of the adapted weights. Does nothing to a model without an adapter.
    """
    found = layers(model)
    plain = {name: cast(nn.Linear, layer.base_layer) for name, layer in found.items()}
    weights = {name: linear.weight for name, linear in plain.items()}
    for name, layer in found.items():
        a, b = (cast(nn.Linear, m[NAME]).weight.detach() for m in (layer.lora_A, layer.lora_B))
        value = add_product(weights[name].detach(), a, b, layer.scaling[NAME])
        plain[name].weight = nn.Parameter(value, requires_grad=False)
        model.set_submodule(name, plain[name])
    whole = {n: m for n, m in model.named_modules() if isinstance(m, ModulesToSaveWrapper)}
    for name, module in whole.items():
        model.set_submodule(name, cast(nn.Module, module.modules_to_save[NAME]))
    try:
        yield
    finally:
        for name, module in whole.items():
            model.set_submodule(name, module)
        for name, layer in found.items():
            plain[name].weight = weights[name]
            model.set_submodule(name, cast(nn.Module, layer))


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """What is saved of LoRA beside the merged model, and the base that it belongs to."""

    base: str
    """Name or folder of the model that is adapted."""
    mark: str
    """Its `fingerprint`."""
    also: Sequence[str] = ()
    """Modules that are trained whole beside the adapted ones."""

    @classmethod
    def of(cls, model: nn.Module, base: str, also: Sequence[str] = ()) -> "Adapter":
        """That of a model which has no adapter yet and was read from `base`."""
        return cls(base=base, mark=fingerprint(model.named_parameters()), also=also)

    def names(self, model: nn.Module) -> list[str]:
        """The parameters of the adapter: the small matrices, and all of the modules `also`."""
        whole = tuple(f"{name}." for name in self.also)
        kinds = (f".lora_A.{NAME}.weight", f".lora_B.{NAME}.weight")
        names = (name for name, _ in model.named_parameters())
        return [name for name in names if name.endswith(kinds) or name.startswith(whole)]

    def save(
        self, model: nn.Module, directory: Path, state: Mapping[str, Tensor] | None = None
    ) -> None:
        """Writes the adapter alone in peft's format, and `base.json`, which names its base.

        Args:
            model: with its adapter.
            directory: made where it does not exist.
            state: values of the parameters by name, by default the model's own.
        """
        state = dict(model.named_parameters()) if state is None else state
        config = cast(Mapping[str, peft.LoraConfig], model.peft_config)[NAME]
        config.base_model_name_or_path = self.base
        config.modules_to_save = list(self.also) or None
        config.inference_mode = True
        directory.mkdir(parents=True, exist_ok=True)
        config.save_pretrained(str(directory))
        tensors = {
            PREFIX + name.replace(f".{NAME}.", "."): state[name].detach().contiguous()
            for name in self.names(model)
        }
        save_file(tensors, directory / WEIGHTS, metadata={"format": "pt"})
        record = {"base": self.base, "fingerprint": self.mark}
        (directory / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def load_adapter(model: nn.Module, directory: str | Path) -> None:
    """Puts a saved adapter on its base, in place and unmerged; `merged` and peft's methods apply.

    Raises:
        ValueError: if `model` is not what the adapter was trained on.
    """
    directory = Path(directory)
    record = json.loads((directory / RECORD).read_text(encoding="utf-8"))
    if fingerprint(model.named_parameters()) != record["fingerprint"]:
        raise ValueError(
            f"the adapter in {directory} belongs to {record['base']!r}, and this model has other "
            "shapes or weights: load that one, as it was when the adapter was trained"
        )
    inject_adapter_in_model(peft.LoraConfig.from_pretrained(str(directory)), model)
    state = load_file(directory / WEIGHTS)
    set_peft_model_state_dict(model, {name.removeprefix(PREFIX): v for name, v in state.items()})


def fingerprint(named: Iterable[tuple[str, Tensor]], samples: int = 64) -> str:
    """SHA-256 of names, shapes and some values of all parameters.

    Values are rounded to bfloat16, so that a model is the same one in whichever of fp32 and
    bfloat16 it was loaded.
    """
    digest = sha256()
    for name, tensor in sorted(named, key=lambda pair: pair[0]):
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().flatten()
        drawn = flat[:: max(1, len(flat) // samples)].to("cpu", torch.bfloat16)
        digest.update(drawn.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()

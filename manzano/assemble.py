"""A Manzano folder from what the stages export: the last step of a run from nothing.

OUTPUT/                 the llm stage's export: model, tokenizer, processor
  transformer/          the decoder stage's export: DiT-Air
  vae/                  the AutoencoderKL that the decoder was trained with
  scheduler/            FlowMatchEulerDiscreteScheduler
  README.md             the model card
"""

import json
import shutil
from pathlib import Path
from typing import Any

from manzano.card import write_card
from manzano.decoder.vae import vae_folder

_DIFFUSION_WEIGHTS = "diffusion_pytorch_model.safetensors"
_FILES = {
    "llm": ("config.json", "model.safetensors", "processor_config.json", "tokenizer.json"),
    "decoder": ("config.json", _DIFFUSION_WEIGHTS),
    "vae": ("config.json", _DIFFUSION_WEIGHTS),
}
"""What each export must hold; weights may also be sharded, with an index."""
_FOLDERS = {"decoder": "transformer", "vae": "vae"}
"""Sub-folders of the result; the llm's export is its root."""
_NOT_COPIED = shutil.ignore_patterns("training.yaml", "adapter", "README.md")


def assemble_folder(
    output: str | Path,
    *,
    llm: str | Path,
    decoder: str | Path,
    vae: str | Path,
    metrics: Path | None = None,
    licence: str = "",
) -> Path:
    """Copies the exports into `output` and returns it; a Manzano folder that is there is replaced.

    Written beside `output` first and renamed, so that there is the whole folder or none.

    Args:
        metrics: What was measured of the whole, for its model card: metrics.json of an evaluation.
        licence: Of the weights, for the card.

    Raises:
        ValueError: An export lacks a file, the parts were not trained with each other, or `output`
            is something else than a Manzano folder.
    """
    output = Path(output)
    parts = {"llm": Path(llm), "decoder": Path(decoder), "vae": vae_folder(vae)}
    for name, folder in parts.items():
        _check_files(name, folder)
    _check_fit({name: json.loads((f / "config.json").read_text()) for name, f in parts.items()})
    if output.exists() and not (output / "scheduler").is_dir() and any(output.iterdir()):
        raise ValueError(f"'{output}' holds something else: give a folder that does not exist yet.")
    partial = output.with_name(f".{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(parts["llm"], partial, ignore=_NOT_COPIED)
    for name, subfolder in _FOLDERS.items():
        shutil.copytree(parts[name], partial / subfolder, ignore=_NOT_COPIED)
    _write_scheduler(partial / "scheduler")
    write_card(partial, library="transformers", metrics=metrics, licence=licence)
    if output.exists():
        shutil.rmtree(output)
    return partial.rename(output)


def _check_files(name: str, folder: Path) -> None:
    for file in _FILES[name]:
        if not (folder / file).is_file() and not (folder / f"{file}.index.json").is_file():
            raise ValueError(
                f"the {name} folder '{folder}' has no {file}: give the export/ folder of a "
                f"finished {name} stage" + (" or a downloaded VAE." if name == "vae" else ".")
            )


def _check_fit(configs: dict[str, dict[str, Any]]) -> None:
    pairs = {
        "the decoder reads ids embedded in {} numbers, the tokenizer in the llm folder gives {}": (
            configs["decoder"].get("condition_width"),
            configs["llm"].get("vision_config", {}).get("discrete_width"),
        ),
        "the decoder paints latents of {} channels, the VAE's have {}": (
            configs["decoder"].get("in_channels"),
            configs["vae"].get("latent_channels"),
        ),
    }
    for sentence, (wanted, found) in pairs.items():
        if wanted != found:
            raise ValueError(
                f"{sentence.format(wanted, found)}: give parts that were trained with each other."
            )


def _write_scheduler(folder: Path) -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler  # takes seconds to import

    FlowMatchEulerDiscreteScheduler().save_pretrained(folder)

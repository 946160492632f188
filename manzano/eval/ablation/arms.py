"""The paper's two claims at small scale: one tokenizer for both tasks, and both tasks in one model.

Three tokenizers (Manzano, Table 1) and two single tasks (Fig. 5), for several seeds, on the corpus
and the ViT of the demo. What an arm changes stands in ARMS; all else is that of
configs/ablation/tokenizer.yaml and llm.yaml. Given again, runs that are finished are passed over.

    runs/ablation/
      hybrid/seed-0/tokenizer/   a run folder; of dual also pixels/, and dual/, both put together
      hybrid/seed-0/llm/         a run folder
      hybrid/seed-0/figures.json what was measured of it
"""

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from manzano.eval.ablation.read_out import CHANCE, drawn
from manzano.eval.ablation.speaker import Speaker
from manzano.eval.provenance import fingerprint
from manzano.eval.record import write_atomically
from manzano.eval.understanding import understanding
from manzano.training import random_state, run
from manzano.training.command_line import parse
from manzano.training.launch import finished
from manzano.training.loop import train
from manzano.training.stages import load_stage, pixels, tokenizer

logger = logging.getLogger(__name__)

READ = ("easy_vqa", "glyph_questions", "reading", "charts")
DRAWN = ("drawing", "editing")
PIXEL_STEPS = 3
"""Steps in which ids are learned from pixels, for each of the tokenizer's: they begin from random
weights where the others begin from a ViT that has seen captions. They cost a fraction."""
SEED = 0
"""Of the questions asked and the ids drawn, the same for all."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """What one of the compared runs does in its own way."""

    kind: Literal["hybrid", "discrete", "dual"] = "hybrid"
    """Its tokenizer; see HybridTokenizerConfig."""
    without: tuple[str, ...] = ()
    """Sources that its language model is not trained on."""
    label: str


ARMS = {
    "hybrid": Arm(label="hybrid tokenizer, both tasks"),
    "discrete": Arm(kind="discrete", label="pure discrete tokenizer, both tasks"),
    "dual": Arm(kind="dual", label="dual encoder, both tasks"),
    "understanding": Arm(without=DRAWN, label="hybrid tokenizer, understanding alone"),
    "generation": Arm(without=READ, label="hybrid tokenizer, generation alone"),
}
BASELINE = "hybrid"
"""What the others are compared with."""


@dataclass(frozen=True)
class Plan:
    """Which runs there are, and where."""

    configs: Path
    """Folder of tokenizer.yaml and llm.yaml."""
    output: Path

    def folder(self, arm: str, seed: int) -> Path:
        return self.output / arm / f"seed-{seed}"

    def argv(self, stage: str, folder: Path, seed: int) -> list[str]:
        """The command line of a run, before what its arm adds."""
        return [
            "--config", str(self.configs / f"{stage}.yaml"),
            "--loop.output", str(folder / stage), "--loop.seed", str(seed),
        ]  # fmt: skip


def run_ablation(plan: Plan, arms: Sequence[str], seeds: Sequence[int]) -> None:
    """Trains and measures every run that is not finished.

    Raises:
        ValueError: for an arm that there is not, or where an llm run was made from a tokenizer that
            has been trained anew since.
    """
    if unknown := set(arms) - ARMS.keys():
        raise ValueError(f"there are no arms {sorted(unknown)}: choose from {', '.join(ARMS)}")
    started, number = time.perf_counter(), 0
    for seed in seeds:
        for arm in arms:
            number += 1
            minutes = int(time.perf_counter() - started) // 60
            total = len(arms) * len(seeds)
            logger.info("%d/%d %s, seed %d (%d min so far)", number, total, arm, seed, minutes)
            run_arm(plan, arm, seed)


def run_arm(plan: Plan, name: str, seed: int) -> None:
    """Trains a tokenizer, unless another arm has, and a language model; measures both."""
    arm, folder = ARMS[name], plan.folder(name, seed)
    vision = train_tokenizer(plan, arm.kind, seed)
    argv = plan.argv("llm", folder, seed)
    config = _parsed("llm", argv)
    sources = {k: w for k, w in config.data.mixture.sources.items() if k not in arm.without}
    small = plan.folder(arm.kind, seed) / "tokenizer" / "export" / "llm"
    argv += [
        "--tokenizer", str(vision), "--llm", json.dumps({"pretrained": str(small)}),
        "--data.mixture.sources", json.dumps(sources),
    ]  # fmt: skip
    _refuse_stale(folder / "llm" / "export" / "training.yaml", vision / "model.safetensors")
    export = run("llm", argv)
    data = Path(config.data.mixture.path)
    measured, made_from = folder / "figures.json", fingerprint(export, data / "BUILD.json")
    if measured.is_file() and json.loads(measured.read_text())["made_from"] == made_from:
        return
    figures = measure(export, data, arm)
    record = {"arm": name, "seed": seed, "made_from": made_from, "figures": figures}
    write_atomically(measured, json.dumps(record, indent=2) + "\n")


def train_tokenizer(plan: Plan, kind: str, seed: int) -> Path:
    """The folder of a tokenizer of that kind, trained where it is not there yet.

    A discrete one, and the reading half of a dual one, are always read through the one adapter by
    which the language model will read.
    """
    folder = plan.folder(kind, seed)
    argv = plan.argv("tokenizer", folder, seed)
    if kind != "hybrid":
        argv += ["--discrete_probability", "0"]
    if kind == "discrete":
        argv += ["--tokenizer.kind", "discrete"]
    export = run("tokenizer", argv)
    return _with_pixel_ids(folder, _parsed("tokenizer", argv)) if kind == "dual" else export


def _with_pixel_ids(folder: Path, reading: tokenizer.Config) -> Path:
    """Trains the half that writes on the same pictures; puts both halves together."""
    config = pixel_config(reading, folder / "pixels")
    if not finished(config):
        random_state.seed(config.loop.seed)
        train(load_stage("pixels")[1](config), config)
    exports = [Path(c.loop.output) / "export" for c in (reading, config)]
    files = exports[0] / "model.safetensors", exports[1] / pixels.WEIGHTS
    dual = folder / "dual"
    _refuse_stale(dual / "model.safetensors", *files)
    if not dual.is_dir():
        partial = folder / "dual.tmp"
        pixels.dual_tokenizer(*exports).save(partial)
        partial.rename(dual)
    return dual


def pixel_config(reading: tokenizer.Config, output: Path) -> pixels.Config:
    """How ids are learned from pixels: as `reading` is trained, in everything that both have."""
    steps = PIXEL_STEPS * reading.loop.max_steps
    return pixels.Config(
        loop=replace(reading.loop, output=str(output), max_steps=steps),
        optim=replace(reading.optim, lr_multipliers={"discrete_adapter.reduce.": 0.1}),
        data=replace(reading.data, batch_size=16),
        tokenizer=reading.tokenizer,
    )


def _parsed(stage: str, argv: Sequence[str]) -> Any:
    return parse(load_stage(stage)[0], argv, prog=f"train.py {stage}")


def _refuse_stale(made: Path, *sources: Path) -> None:
    """What is finished is worth nothing once a part it was made from has been made anew."""
    for source in sources:
        if made.exists() and source.stat().st_mtime > made.stat().st_mtime:
            raise ValueError(
                f"{source} was made after {made}, which was made from an older one: delete "
                f"{made.parent} to make it again"
            )


def measure(folder: Path, data: Path, arm: Arm) -> dict[str, dict[str, Any]]:
    """The figures of an export of the llm stage, by name; none of what it was not trained for."""
    speaker, figures = Speaker.from_pretrained(folder), {}
    if not set(READ) <= set(arm.without):
        for f in understanding(speaker, data, seed=SEED)[0]:
            figures[f.name] = {"label": f.label, "value": f.value, "floor": f.floor, "n": f.n}
    if not set(DRAWN) <= set(arm.without):
        right, ceiling, number = drawn(speaker, data, seed=SEED)
        labels = {"colour": "colour", "shape": "shape", "both": "colour and shape"}
        for name, label in labels.items():
            figures[f"drawn_{name}"] = {
                "label": f"Drawn in the right {label}",
                "value": getattr(right, name),
                "floor": CHANCE[name],
                "ceiling": getattr(ceiling, name),
                "n": number,
            }
    return figures

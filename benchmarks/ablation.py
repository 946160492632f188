"""The paper's two claims at small scale: trains and scores every arm, and says what came out.

    make demo                                      (once: the corpus and the ViT)
    python benchmarks/ablation.py --save
    python benchmarks/ablation.py --arms hybrid dual --seeds 0 1 2 3 4

Hybrid, pure discrete and dual-encoder tokenizers; both tasks in one language model, or one task
alone (manzano/eval/ablation/arms.py says what each arm is). Runs that are finished are passed over,
and one that was stopped goes on, so the command may be given again at any time; with --table it
trains nothing and shows what there is. Several at once, each with other --seeds, use more cores.

Writes ablation.json (every run's figures, and the estimates) and ablation.md (the tables) into
--output, and with --save into benchmarks/results.
"""

import argparse
import json
import os
import platform
from datetime import date
from pathlib import Path

import torch
import yaml

from manzano.cli import quiet_libraries, show_log
from manzano.eval.ablation.arms import ARMS, PIXEL_STEPS, Plan, run_ablation
from manzano.eval.ablation.read_out import ROUNDS
from manzano.eval.ablation.table import MAX_SEEDS, Records, summary, tables
from manzano.eval.provenance import environment
from manzano.eval.record import write_atomically

RESULTS = Path(__file__).parent / "results"
SEEDS = (0, 1, 2)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--config", type=Path, default=Path("configs/ablation"), metavar="DIR")
    parser.add_argument("--output", type=Path, default=Path("runs/ablation"), metavar="DIR")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--table", action="store_true", help="train nothing, show what there is")
    parser.add_argument("--save", action="store_true", help="also write benchmarks/results/")
    arguments = parser.parse_args(argv)
    arguments.seeds = list(dict.fromkeys(arguments.seeds))
    if len(arguments.seeds) > MAX_SEEDS:
        raise SystemExit(f"ablation: intervals are given over 1 to {MAX_SEEDS} seeds")
    quiet_libraries()
    show_log()
    plan = Plan(arguments.config, arguments.output)
    if not arguments.table:
        try:
            run_ablation(plan, arguments.arms, arguments.seeds)
        except ValueError as error:
            raise SystemExit(f"ablation: {error}") from None
    records = collect(plan, arguments.arms, arguments.seeds)
    page = f"# Ablation\n\n{description(plan, records)}\n\n{tables(records)}"
    data = {"settings": settings(plan), "environment": environment(), "figures": summary(records)}
    for folder in [plan.output] + [RESULTS] * arguments.save:
        write_atomically(folder / "ablation.json", json.dumps(data, indent=2) + "\n")
        write_atomically(folder / "ablation.md", page)
    print(page)


def collect(plan: Plan, arms: list[str], seeds: list[int]) -> Records:
    """What was measured of these runs, as far as they are finished.

    Raises:
        SystemExit: if none is.
    """
    files = {a: {s: plan.folder(a, s) / "figures.json" for s in seeds} for a in arms}
    records = {
        arm: {s: json.loads(f.read_text())["figures"] for s, f in runs.items() if f.is_file()}
        for arm, runs in files.items()
    }
    records = {arm: runs for arm, runs in records.items() if runs}
    if not records:
        raise SystemExit(f"nothing is finished in {plan.output}: give the command without --table")
    return records


def settings(plan: Plan) -> dict:
    """The configurations that all arms share."""
    files = {stage: plan.configs / f"{stage}.yaml" for stage in ("tokenizer", "llm")}
    return {stage: yaml.safe_load(file.read_text()) for stage, file in files.items()}


def training_seconds(plan: Plan) -> float:
    """Of all runs there are."""
    logs = plan.output.rglob("metrics.jsonl")
    return sum(json.loads(log.read_text().splitlines()[-1])["seconds_elapsed"] for log in logs)


def description(plan: Plan, records: Records) -> str:
    """Under what conditions the tables were made, and how to read them."""
    shared = settings(plan)
    steps = {stage: config["loop"]["max_steps"] for stage, config in shared.items()}
    seeds = sorted({seed for runs in records.values() for seed in runs})
    threads = os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())
    return (
        f"Demo corpus and ViT, seeds {', '.join(map(str, seeds))}. Of every arm "
        f"{steps['tokenizer']} steps of the tokenizer ({PIXEL_STEPS * steps['tokenizer']} more, of "
        f"pixels alone, for the ids of the dual encoder) and {steps['llm']} of the language model, "
        "at equal rows and seeds. A task alone takes the rows of the other as well, so it sees "
        "more of its own samples. Drawn is what a read-out says of the ids that the language model "
        "wrote for "
        f"prompts of held-out pairs of colour and shape, {ROUNDS} times each; true ids: what it "
        "says of those of the pictures themselves, which no language model can surpass by skill. "
        "Mean over seeds ± half of Student's 95 % interval; differences are paired by seed, bold "
        "where the interval leaves 0 out, as one in twenty does by chance. "
        f"{platform.machine()}, {threads} thread(s), torch "
        f"{torch.__version__}, {date.today()}; {training_seconds(plan) / 3600:.1f} hours of "
        "training in all."
    )


if __name__ == "__main__":
    main()

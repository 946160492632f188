"""What nonlinear recurrence is for: parity, associative recall and k-hop at small size.

    python benchmarks/pararnn_tasks.py
    python benchmarks/pararnn_tasks.py --tasks parity --models gru linear --runs 1 --save

After ParaRNN (arXiv 2510.21450, Tables 1 and 6): one layer of width 64 with 4 heads, sequences of
64 tokens, the best of a few runs. Every model is trained alike, on fresh random sequences, and
tested on sequences it has not seen:

    parity      at each bit, whether the ones so far are odd; counted over the second half
    parity x4   the same models at four times the length
    mqar        multi-query associative recall: four pairs of key and value, then one of the keys
                at random at every place; its value is to be named
    1-hop       the token that followed the last occurrence of this one (induction)
    2-hop       the same once more, from there

    gru, lstm    a ParaRNN language model of one layer, recurrent weights without bound; in parity,
                 as in the paper, the cell alone between embedding and head
    gru-0        gru with the paper's initial biases, all 0. The others' keeping gate begins with a
                 bias of 3 (not in parity), so that a step keeps .95 of the state, not half of it
    linear       the same as gru with all recurrent weights 0 and fixed: its gates do not see the
                 state, and h = (1 - z) h + z c is linear in h
    transformer  Qwen3 of the same width with two layers: one cannot do induction

The score is the share of right tokens among those that are to be predicted.
"""

import argparse
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from transformers import AutoModelForCausalLM
from transformers.modeling_outputs import CausalLMOutputWithPast

from manzano.llm.backbone import language_config
from manzano.llm.pararnn.layers import ParaGRU, ParaLSTM, ParaRNNLayer

RESULTS = Path(__file__).parent / "results"
IGNORE = -100
LENGTH = 64
BATCH = 32
TEST = 512
"""Sequences in the test."""

KEYS = VALUES = 8
PAIRS = 4
SYMBOLS = 4
"""Of the k-hop task."""


def parity(rows: int, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random bits; labels: the parity so far."""
    bits = torch.randint(2, (rows, length), generator=generator)
    return bits, bits.cumsum(1) % 2


def recall(rows: int, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Keys with values, then keys at random; label: the value of each. Ids: keys, then values.

    Every place asks: more labels from the same four pairs, though each key once will do.
    """
    keys = torch.rand(rows, KEYS, generator=generator).argsort(1)[:, :PAIRS]
    values = torch.randint(VALUES, (rows, PAIRS), generator=generator)
    pairs = torch.stack([keys, KEYS + values], dim=2).flatten(1)
    asked = torch.randint(PAIRS, (rows, length - 2 * PAIRS), generator=generator)
    ids = torch.cat([pairs, keys.gather(1, asked)], dim=1)
    labels = torch.full((rows, length), IGNORE)
    labels[:, 2 * PAIRS :] = values.gather(1, asked)
    return ids, labels


def hop(hops: int) -> Callable[[int, int, torch.Generator], tuple[Tensor, Tensor]]:
    """The k-hop task: from a token go `hops` times to what followed its last occurrence before."""

    def make(rows: int, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        ids = torch.randint(SYMBOLS, (rows, length), generator=generator)
        # answers[k][:, s]: where k hops lead to that begin at symbol s now; -100 for nowhere.
        answers = [torch.full((rows, SYMBOLS), IGNORE) for _ in range(hops + 1)]
        labels = torch.full((rows, length), IGNORE)
        for place in range(length):
            token = ids[:, place : place + 1]
            reached = [token] + [answer.gather(1, token) for answer in answers[1:]]
            labels[:, place] = reached[hops][:, 0]
            if place + 1 < length:
                value = following = ids[:, place + 1 : place + 2]
                for k in range(1, hops + 1):  # from now on one hop from `token` is `following`
                    answers[k] = answers[k].scatter(1, token, value)
                    value = answers[k].gather(1, following)
        return ids, labels

    return make


TASKS: dict[str, Callable[[int, int, torch.Generator], tuple[Tensor, Tensor]]] = {
    "parity": parity,
    "mqar": recall,
    "1-hop": hop(1),
    "2-hop": hop(2),
}
STEPS = {"parity": 400, "mqar": 2000, "1-hop": 500, "2-hop": 1500}
VOCABULARY = KEYS + VALUES
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 128,
    "tie_word_embeddings": False,
}
"""Of every model; all tasks share one vocabulary."""
KEEP = 3.0
"""Bias of the gate that keeps the state, at first: a step keeps sigmoid(3) = .95 of it. With 0 it
keeps half, and too little of the pairs is left to learn from where they are asked for."""


class CellAlone(nn.Module):
    """Embedding, ParaGRU or ParaLSTM, head; called like a language model."""

    def __init__(self, layer: type[ParaGRU] | type[ParaLSTM]):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, SIZES["hidden_size"])
        size = SIZES["hidden_size"]
        self.layer = layer(size, size, num_heads=4, recurrent_bound=None)
        self.head = nn.Linear(size, VOCABULARY)

    def forward(self, ids: Tensor, use_cache: bool = False) -> CausalLMOutputWithPast:
        return CausalLMOutputWithPast(logits=self.head(self.layer(self.embedding(ids))[0]))


def build(name: str, task: str) -> nn.Module:
    """A model by its name in the table."""
    if name == "transformer":
        attention = {"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 16}
        settings = {"model_type": "qwen3", "num_hidden_layers": 2, "initializer_range": 0.1}
        return AutoModelForCausalLM.from_config(language_config(settings | attention | SIZES))
    if task == "parity":
        model: nn.Module = CellAlone(ParaLSTM if name == "lstm" else ParaGRU)
    else:
        rnn = {"model_type": "pararnn", "num_hidden_layers": 1, "num_heads": 4}
        cell = {"cell": "lstm" if name == "lstm" else "gru", "recurrent_bound": None}
        cell["keep_bias"] = 0.0 if name == "gru-0" else KEEP
        model = AutoModelForCausalLM.from_config(language_config(rnn | cell | SIZES))
    for layer in model.modules():
        if isinstance(layer, ParaRNNLayer) and name == "linear":
            nn.init.zeros_(layer.recurrent)
            layer.recurrent.requires_grad = False
    return model


MODELS = ("gru", "lstm", "gru-0", "linear", "transformer")


@dataclass(frozen=True)
class Result:
    """Scores of one trained model, by test, and the seconds of CPU time it took."""

    scores: dict[str, float]
    seconds: float


def train(task: str, name: str, steps: int, seed: int) -> Result:
    """Trains and tests one model."""
    torch.manual_seed(seed)
    model, make = build(name, task), TASKS[task]
    trained = [p for p in model.parameters() if p.requires_grad]
    rate = 1e-3 if name == "transformer" else 1e-2
    optimizer = torch.optim.AdamW(trained, lr=rate, betas=(0.9, 0.98), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps, pct_start=0.1)
    generator = torch.Generator().manual_seed(seed)
    started = time.process_time()
    for _ in range(steps):
        ids, labels = make(BATCH, LENGTH, generator)
        logits = model(ids, use_cache=False).logits
        loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORE)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
    seconds = time.process_time() - started
    scores = {task: score(model, task, LENGTH)}
    if task == "parity":
        scores["parity x4"] = score(model, task, 4 * LENGTH)
    return Result(scores, seconds)


@torch.no_grad()
def score(model: nn.Module, task: str, length: int) -> float:
    """Share of right tokens on the test, which is the same for all models."""
    model.eval()
    ids, labels = TASKS[task](TEST, length, torch.Generator().manual_seed(12345))
    if task == "parity":
        labels[:, : length // 2] = IGNORE
    right = total = 0
    for some, wanted in zip(ids.split(128), labels.split(128), strict=True):
        said = model(some, use_cache=False).logits.argmax(-1)
        counts = wanted != IGNORE
        right += int(((said == wanted) & counts).sum())
        total += int(counts.sum())
    return right / total


def chance(test: str) -> float:
    """The score of guessing among the possible answers."""
    if test.startswith("parity"):
        return 1 / 2
    return 1 / VALUES if test == "mqar" else 1 / SYMBOLS


def table_of(results: dict[str, dict[str, list[Result]]]) -> list[list[str]]:
    """Rows of the table: test, chance, and the best run of each model (with all runs' scores)."""
    models = list(next(iter(results.values())))
    rows = [["test", "chance", *models]]
    for by_model in results.values():
        for test in next(iter(by_model.values()))[0].scores:
            cells = []
            for runs in by_model.values():
                scores = sorted((run.scores[test] for run in runs), reverse=True)
                others = " ".join(f"{value:.2f}" for value in scores[1:])
                cells.append(f"{scores[0]:.3f}" + (f" ({others})" if others else ""))
            rows.append([test, f"{chance(test):.2f}", *cells])
    return rows


def description(results: dict[str, dict[str, list[Result]]], runs: int, factor: float) -> str:
    """Under what conditions the table was made."""
    steps = ", ".join(f"{task} {round(factor * STEPS[task])}" for task in results)
    seconds = sum(r.seconds for by in results.values() for rs in by.values() for r in rs)
    return (
        f"Best of {runs} run(s), the others in brackets. Steps of {BATCH} sequences of {LENGTH}: "
        f"{steps}. {platform.machine()}, {torch.get_num_threads()} thread(s), torch "
        f"{torch.__version__}, {date.today()}; {seconds:.0f} s of CPU time for training in all."
    )


def save(rows: list[list[str]], text: str) -> None:
    """Writes the table as Markdown under benchmarks/results."""
    path = RESULTS / f"pararnn_tasks-{date.today()}.md"
    path.parent.mkdir(exist_ok=True)
    lines = ["| " + " | ".join(row) + " |" for row in [rows[0], ["---"] * len(rows[0]), *rows[1:]]]
    path.write_text("# ParaRNN on synthetic tasks\n\n" + text + "\n\n" + "\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="Synthetic tasks: nonlinear and linear RNNs.")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--runs", type=int, default=2, help="of each; the best counts")
    parser.add_argument("--steps", type=float, default=1.0, help="factor on the numbers of steps")
    parser.add_argument("--save", action="store_true", help="also write benchmarks/results/*.md")
    arguments = parser.parse_args()
    console = Console(width=120)
    results: dict[str, dict[str, list[Result]]] = {}
    for task in arguments.tasks:
        results[task] = {}
        for name in arguments.models:
            runs = results[task][name] = []
            for seed in range(arguments.runs):
                runs.append(train(task, name, round(arguments.steps * STEPS[task]), seed))
                console.print(f"{task:8} {name:12} run {seed}: {runs[-1]}")
        rows = table_of(results)
        text = description(results, arguments.runs, arguments.steps)
        if arguments.save:  # what there is so far
            save(rows, text)
    table = Table(*rows[0])
    for row in rows[1:]:
        table.add_row(*row)
    console.print(table)
    console.print(text)


if __name__ == "__main__":
    main()

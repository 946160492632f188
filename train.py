"""Train one stage of Manzano.

    python train.py llm --config configs/demo/llm.yaml --optim.lr 3e-4
    torchrun --nproc-per-node 8 train.py llm --config configs/llm/1b.yaml

Stages, in the order of a run from nothing: vae, vision, tokenizer, llm, decoder. Options of a
stage: `python train.py llm --help`. The same command given again goes on where the run was.
"""

import logging
import sys

from manzano.training import run

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(__doc__)
        raise SystemExit(0 if len(sys.argv) > 1 else 2)
    run(sys.argv[1], sys.argv[2:])

"""``torchrun torchrun_program.py FAULT``: two ranks, of which the second is stopped at a step, or never comes."""

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from fault_program import TIMEOUT, Rank, train

import zo_triton as zo
from zo_triton.distributed import joining

PATIENCE = {"stops": 60.0, "never comes": 4.0}


def main() -> None:
    joining.SILENCE_SECONDS = TIMEOUT
    rank, fault = int(os.environ["RANK"]), sys.argv[1]
    if fault == "never comes" and rank == 1:
        time.sleep(600)
    mine = Rank("stepping stops 1", rank)
    with joining.process_group(PATIENCE[fault]):
        train(zo.Ranks(shards=2, timeout=TIMEOUT), lambda: mine.reach("stepping"))


if __name__ == "__main__":
    main()

"""Every reader of the pack against damaged and hostile inputs.

    python run.py exec -- python benchmarks/fuzz.py --count 200000

Prints, for each target, how many inputs were read, how many were refused with an error of our own, and every kind of
fault: an exception that is not ours, an input that takes longer than ten seconds, a file changed elsewhere, a host
asked or a program started. Ends with 1 when there is one, or when more than 1.5 GB of memory were used. The same seed
draws the same inputs.
"""

import argparse
import os
import secrets
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.fuzz.campaign import TARGETS, fuzz, peak_memory, shares  # noqa: E402

MOST_MEMORY = 1.5e9


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200_000, help="inputs over all targets")
    parser.add_argument("--seed", type=int, help="by default another one each time; it is printed")
    parser.add_argument("--target", action="append", choices=TARGETS, help="only these")
    args = parser.parse_args()
    number = secrets.randbits(32) if args.seed is None else args.seed
    print(f"seed {number}", flush=True)
    os.fsync = lambda descriptor: None  # nobody pulls the plug
    start, results = time.monotonic(), []
    with tempfile.TemporaryDirectory() as folder:
        for name, count in shares(args.count, args.target or ()).items():
            home = Path(folder, "deep", "home", name.replace(" ", "_"))
            results.append(fuzz(name, count, home, number))
            print(results[-1], flush=True)
            for fault, times in results[-1].faults.most_common():
                print(f"    {times:>6} x {fault}\n             {results[-1].examples[fault][:300]}", flush=True)
    faults, memory = sum(result.faults.total() for result in results), peak_memory()
    total = sum(result.inputs for result in results)
    print(f"{total:,} inputs, {faults} faults, {time.monotonic() - start:.0f} s, peak memory {memory / 1e9:.2f} GB")
    return 1 if faults or memory > MOST_MEMORY else 0


if __name__ == "__main__":
    with closing(sys.stdout):
        code = main()
    sys.exit(code)

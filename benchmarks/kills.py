"""Every command that writes, killed at random moments: the next start makes what a calm run makes, byte for byte.

    python run.py exec -- python benchmarks/kills.py --kills 20

Prints, for each command, how often it was killed (kill -9), how often it ended before, and what went wrong: files that
differ from a calm run's, are missing, twice or left behind. Ends with 1 when there is any. `run` makes a plan on two
servers in this process, and is killed again and again on its way; the others begin in a fresh folder each time. The
same seed kills at the same moments, as far as the machine is as fast.
"""

import argparse
import os
import random
import secrets
import shutil
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.batch.fake_comfy import FakeComfy  # noqa: E402
from tests.crashes.children import finish, kill, start  # noqa: E402
from tests.crashes.runs import made_by_run, make_plan, run_words  # noqa: E402
from tests.crashes.world import COMMANDS, again, build, check_order, command, result  # noqa: E402

JOBS = 15  # of each image of the plan that is run


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="of each command")
    parser.add_argument("--seed", type=int, help="by default another one each time; it is printed")
    parser.add_argument("--command", action="append", choices=(*COMMANDS, "run"), help="only these")
    args = parser.parse_args()
    number = secrets.randbits(32) if args.seed is None else args.seed
    print(f"seed {number}\n\n| command | killed | ended before | wrong |\n|---|---|---|---|", flush=True)
    os.fsync = lambda descriptor: None  # in this process, where the servers are
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        made = build(Path(folder, "made"))
        for name in args.command or (*COMMANDS, "run"):
            draw = random.Random(f"{number}/{name}")
            work = Path(folder, name)
            work.mkdir()
            found = kill_runs(work, made, args, draw) if name == "run" else kill_each(name, work, made, args, draw)
            print(f"| {name} | {found[0]} | {found[1]} | {'; '.join(found[2]) or 'nothing'} |", flush=True)
            wrong += len(found[2])
    return 1 if wrong else 0


def kill_each(name, work, made, args, draw):
    """Kills, runs that ended before, and what went wrong, each in a folder of its own."""
    log = work / "log"
    for _ in range(2):  # the first one may wait for what is imported
        place, began = fresh(work, made), time.monotonic()
        assert finish(command(name, place, made), log) == 0, log.read_text()
        seconds, whole = time.monotonic() - began, result(name, place)
    kills, ended, wrong = 0, 0, []
    while kills < args.kills and ended < 5 * args.kills:
        place = fresh(work, made)
        if not kill(start(command(name, place, made), log), draw.uniform(0, seconds)):
            ended += 1
            continue
        kills += 1
        try:
            again(name, place, made, lambda words: finish(words, log))
            check_order(place)
            if changed := [file for file, data in whole.items() if result(name, place).get(file) != data]:
                wrong.append(f"other content: {', '.join(changed[:3])}")
        except AssertionError as error:
            wrong.append(str(error).replace("\n", " ")[:200])
    return kills, ended, wrong


def fresh(work, made):
    """A folder with copies of the images and of the dataset, in the place of the last one."""
    place = work / "place"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    for part in ("set", "real"):
        shutil.copytree(made / part, place / part)
    return place


def kill_runs(work, made, args, draw):
    """The same for one run that is killed and started again until all is there."""
    servers = [FakeComfy(work / f"output {number}", seconds=0.05) for number in range(2)]
    try:
        calm = finished(run_words(make_plan(work / "calm" / "set", made, JOBS), servers), work)
        words = run_words(make_plan(work / "killed" / "set", made, JOBS), servers)
        kills, ended = 0, 0
        while kills < args.kills and ended < 3:
            if kill(start(words, work / "log"), draw.uniform(0.1, 0.7)):
                kills += 1
            else:
                ended += 1
        found = finished(words, work)
        return kills, ended, [] if found == calm else ["other rows, files or bytes than a calm run's"]
    finally:
        for server in servers:
            server.close()


def finished(words, work):
    """Rows and images once the run has ended."""
    assert finish(words, work / "log") == 0, (work / "log").read_text()[-2000:]
    return made_by_run(Path(words[1]))


if __name__ == "__main__":
    with closing(sys.stdout):
        code = main()
    sys.exit(code)

"""Each two of the nodes together, with HiGFA KSampler: the last section of benchmarks/compatibility.py."""

import functools
import itertools
import sys
from dataclasses import dataclass, field

from compatibility_bench import GUIDED, ROUNDING, UNMOVED, Bench, relative, words
from compatibility_cases import RUN

PAIR_STEPS = 5


@dataclass
class Tally:
    """Pairs that run in stock sampling, those of them that are equal to it, and those with which stock fails."""

    run: int = 0
    equal: int = 0
    refused: list[str] = field(default_factory=list)


def pairs(bench: Bench) -> str:
    """In words, how HiGFA KSampler gets on with each two nodes together."""
    names, tally = [name for name, case in RUN.items() if case.pairs], Tally()
    for first, second in itertools.combinations(names, 2):
        if RUN[first].on == RUN[second].on:
            pair(bench, first, second, tally)
    lines = [
        f"{tally.run} pairs run in stock sampling. In {tally.equal} of them HiGFA KSampler without a step is stock "
        "sampling with the same two nodes to the last bit, and with its steps it gives finite images in all."
    ]
    if tally.refused:
        lines.append(f"Stock sampling itself fails with {len(tally.refused)} pairs: {'; '.join(tally.refused)}.")
    return "\n\n".join(lines)


def pair(bench: Bench, first: str, second: str, tally: Tally) -> None:
    """Count that pair, and add what went wrong to the faults."""
    from compatibility_worlds import apply

    a, b, label = RUN[first], RUN[second], f"{first} + {second}"
    world, run = bench.world(a.on), functools.partial(bench.run, steps=PAIR_STEPS)
    if {first, second} - world.nodes.keys():
        return
    mask = world.soft_mask() if a.masked or b.masked else None
    try:
        model = apply(world, second, b, apply(world, first, a))
        stock, *_ = run(world, "stock", model, world.alone, mask)
    except Exception as error:  # noqa: BLE001  (the page says so)
        tally.refused.append(f"{label} ({words(error)})")
        return
    tally.run += 1
    print(label, file=sys.stderr, flush=True)
    try:
        unmoved, *_ = run(world, "ksampler", model, world.both, mask, **UNMOVED)
        guided, *_ = run(world, "ksampler", model, world.both, mask, **GUIDED)
    except Exception as error:  # noqa: BLE001
        bench.faults.append(f"{label}: fails, stock does not: {words(error)}")
        return
    equal = bench.torch.equal(unmoved, stock)
    tally.equal += equal
    if not (equal or relative(unmoved, stock) <= ROUNDING) or stock.isfinite().all() > guided.isfinite().all():
        bench.faults.append(f"{label}: {relative(unmoved, stock):.1e} from stock, or not finite")

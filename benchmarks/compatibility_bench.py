"""The runs behind benchmarks/compatibility.py: each beside its stock run, as rows of the tables."""

import asyncio
import functools
import sys
from dataclasses import dataclass, field

from compatibility_cases import MINIATURE, STEPS, Case
from miniature_world import ROOT

GUIDED = {"eta": 1.0, "interval": 1, "start_percent": 0.5}
UNMOVED = {**GUIDED, "eta": 0.0, "preset": "constant"}
ACTS, ROUNDING = 1e-4, 1e-5
EXPECTED = ("no step starts", "no contour is connected")  # of every run on a model without a contour


@dataclass
class Row:
    """What runs with one node, or one conditioning, gave; `notes` are the table's last column."""

    name: str
    cells: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def without_numbers(self, why: str) -> "Row":
        return Row(self.name, ["-"] * 6, [*self.notes, why])

    def __str__(self) -> str:
        return f"| {self.name} | {' | '.join(self.cells)} | {'; '.join(dict.fromkeys(self.notes))} |"


def relative(result, expected) -> float:
    if result.shape != expected.shape or not result.isfinite().all():
        return float("nan")
    return float((result - expected).square().mean().sqrt() / expected.square().mean().sqrt())


class Bench:
    """Runs and compares; `faults` says in words what went wrong that must not."""

    def __init__(self):
        import torch
        from compatibility_worlds import MAKERS
        from guided_digests import load_pack

        import nodes

        torch.use_deterministic_algorithms(True, warn_only=True)
        self.faults, self.torch = [], torch
        asyncio.run(nodes.init_builtin_extra_nodes())
        found = load_pack(ROOT)
        self.world = functools.cache(lambda name: MAKERS[name](found))
        self.plain = functools.cache(self._plain)

    def run(self, world, entry: str, model=None, conds=None, mask=None, steps=STEPS, **settings):
        """(latents, images through the diffusion model, notes) of one run."""
        images = []
        net = (model or world.model).model.diffusion_model
        # Caches skip what lies inside the network's own call; every family embeds the noise level first.
        inside = next(getattr(net, name) for name in ("time_embed", "t_embedder", "time_in") if hasattr(net, name))
        handle = inside.register_forward_pre_hook(lambda module, given: images.append(len(given[0])))
        given = {"model": model, "conds": conds, "mask": mask, "batch": 1, "sampler": {"steps": steps}}
        try:
            with self.torch.inference_mode():
                result = getattr(world, entry)(**given, **settings)
        finally:
            handle.remove()
        latents, trace = (result, None) if entry == "stock" else result
        notes = [note for note in trace.notes if not note.startswith(EXPECTED)] if trace else []
        return latents, sum(images), notes

    def _plain(self, on: str, masked: bool) -> dict:
        """The runs without any node: entry -> latents."""
        world, mask = self.world(on), self.world(on).soft_mask() if masked else None
        return {
            "both": self.run(world, "stock", conds=world.both, mask=mask)[0],
            "alone": self.run(world, "stock", conds=world.alone, mask=mask)[0],
            **{
                entry: self.run(world, entry, conds=world.both, mask=mask, **GUIDED)[0]
                for entry in ("ksampler", "guider", "patched")
            },
        }

    def node(self, name: str, case: Case) -> Row:
        """The row of one node."""
        from compatibility_worlds import apply

        world = self.world(case.on)
        mask = world.soft_mask() if case.masked else None
        where = name if case.on == MINIATURE else f"{name} ({case.on})"
        row = Row(where, notes=[case.note] if case.note else [])
        if name not in world.nodes:
            return row.without_numbers("not in this ComfyUI")
        try:
            model = apply(world, name, case)
        except Exception as error:  # noqa: BLE001
            return row.without_numbers(f"the node itself fails here: {words(error)}")
        return self.compared(row, world, self.plain(case.on, case.masked), model, world.both, world.alone, mask)

    def compared(self, row: Row, world, plain: dict, model, both, alone, mask=None) -> Row:
        """Fill in the cells: stock, our three entries, calls, and guidance without a step against stock."""
        try:
            stock, images, _ = self.run(world, "stock", model, both, mask)
            on_one, *_ = self.run(world, "stock", model, alone, mask)
        except Exception as error:  # noqa: BLE001  (as all here: the table says so)
            return row.without_numbers(f"stock sampling fails here: {words(error)}")
        effects, calls, before = [relative(stock, plain["both"])], [images], len(self.faults)
        effect_on_one = relative(on_one, plain["alone"])
        for entry in ("ksampler", "guider", "patched"):
            expected, acts = (stock, effects[0]) if entry == "patched" else (on_one, max(effects[0], effect_on_one))
            try:
                latents, images, notes = self.run(world, entry, model, both, mask, **GUIDED)
                unmoved, *_ = self.run(world, entry, model, both, mask, **UNMOVED)
            except Exception as error:  # noqa: BLE001
                self.faults.append(f"{row.name}: {entry} fails, stock does not: {words(error)}")
                return row.without_numbers(f"{entry} fails: {words(error)}")
            effects.append(relative(latents, plain[entry]))
            calls += [images] if entry != "guider" else []
            row.notes += notes
            far = relative(unmoved, expected)
            if not far <= ROUNDING:
                self.faults.append(f"{row.name}: {entry} without a step is {far:.1e} from stock")
            if acts > ACTS and not effects[-1] > ACTS and not any("no effect" in note for note in notes):
                self.faults.append(f"{row.name}: acts in stock ({acts:.3f}), not in {entry}, and nothing says so")
        row.cells = [*(f"{effect:.3f}" for effect in effects), " / ".join(map(str, calls))]
        row.cells.append("yes" if len(self.faults) == before else "NO")
        print(row, file=sys.stderr, flush=True)
        return row

    def conditionings(self) -> dict:
        """Name -> function that gives the row of what conditionings and masks can hold."""
        world = self.world(MINIATURE)
        positive, negative = world.both
        two = world.contour(positive, negative, 1, 0.7)
        half = world.contour(world.text, world.empty, 0, 0.5)
        three = world.contour(*two, 1, -0.3)
        mask = world.soft_mask()
        cases = {
            "LoRA hook on the positive": ((world.hooked(positive), negative), None),
            "regional prompt, area": ((world.area(positive), negative), None),
            "regional prompt, mask": ((world.masked(positive), negative), None),
            "area, mask and LoRA hook": ((world.hooked(world.masked(world.area(positive))), negative), None),
            "prompt by time": ((world.scheduled(positive), negative), None),
            "ControlNet at half strength": (half, None),
            "two ControlNets": (two, None),
            "three ControlNets": (three, None),
            "inpainting, soft mask": (world.both, mask),
            "inpainting, soft mask, two ControlNets": (two, mask),
        }

        def row(name, conds, mask):
            positive, negative = conds
            # The negative of a second Apply ControlNet holds the contours; without them it is the empty prompt.
            return self.compared(
                Row(name), world, self.plain(MINIATURE, False), None, conds, (positive, world.empty), mask
            )

        return {name: functools.partial(row, name, *case) for name, case in cases.items()}

    def guider(self, name: str) -> Row:
        """The row of a guider of ComfyUI with Guide Model with Classifier."""
        from compatibility_worlds import call, sampled_with

        world = self.world(MINIATURE)
        if name not in world.nodes:
            return Row(name, ["-"] * 2, ["not in this ComfyUI"])
        positive, negative = world.both
        conds = {"positive": positive, "conditioning": positive, "cond1": positive, "cond2": world.text}
        conds |= {"negative": negative, "empty_conditioning": world.empty, "model_negative": world.model}
        known = world.nodes[name].INPUT_TYPES()
        names = {**known.get("required", {}), **known.get("optional", {})}
        latents = []
        for settings in (None, UNMOVED, GUIDED):
            model = world.model
            with self.torch.inference_mode():
                if settings:
                    given = world.vae, world.classifier, world.names[2], world.settings(**settings)
                    model = world.nodes["HiGFA_GuideModel"].execute(model, *given)[0]
                made = call(world.nodes[name], model=model, **{n: c for n, c in conds.items() if n in names})
                latents.append(sampled_with(made, world))
        plain, unmoved, guided = latents
        if relative(unmoved, plain) > ROUNDING or not relative(guided, plain) > ACTS:
            self.faults.append(f"{name}: Guide Model is {relative(unmoved, plain):.1e} from stock, or does not act")
        return Row(name, [f"{relative(guided, plain):.3f}", "yes" if self.torch.equal(unmoved, plain) else "NO"])


def words(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:100] if lines else ''}".replace("|", "/")

"""Where `simulate` and `train` spend their time, on one protein, as two tables.

Functions are wrapped in timers while the package's own `simulate` and `train` run. A second goes
to the innermost part that is open, so parts add up to the whole. One process each; training uses
the threads that torch has.

In each training step the discriminator runs three times, and the generator's gradient passes
through it once more.

    python benchmarks/profile_chain.py prepared/1UBQ.cif --orientations 8 --steps 20
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from diffragan.molecules.structure import Structure, load_structure
from diffragan.settings import Settings, load_settings

REST = "everything else"
WARM_UP_STEPS = 2

Function = Callable[..., Any]
Place = tuple[Any, str, Function]
"""Who owns a function, under which name, and what stands in for it."""


@dataclass
class Sections:
    """Seconds by part; the innermost open part gets them, in the thread that made this object."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    synchronize: Callable[[], None] = lambda: None
    _sealed: bool = False
    _open: list[str] = field(default_factory=lambda: [REST])
    _since: float = field(default_factory=time.perf_counter)
    _thread: int = field(default_factory=threading.get_ident)

    def _switch(self) -> None:
        self.synchronize()
        now = time.perf_counter()
        self.seconds[self._open[-1]] += now - self._since
        self._since = now

    @contextmanager
    def part(self, name: str, *, sealed: bool = False) -> Iterator[None]:
        """Time inside counts for `name`; for a sealed part, also that of parts within it."""
        if self._sealed or threading.get_ident() != self._thread:
            yield
            return
        self._switch()
        self._open.append(name)
        self._sealed = sealed
        try:
            yield
        finally:
            self._switch()
            self._open.pop()
            self._sealed = False

    def restart(self) -> None:
        """Forget what was counted, as after a warm-up."""
        self.seconds.clear()
        self._since = time.perf_counter()

    def stop(self) -> dict[str, float]:
        """The seconds of all parts so far, the rest last."""
        self._switch()
        rest = self.seconds.pop(REST, 0.0)
        return {**self.seconds, REST: rest}

    def timed(self, owner: Any, name: str, part: str, *, sealed: bool = False) -> Place:
        """A function of a module or class, to be replaced by one that counts for `part`."""
        function: Function = getattr(owner, name)

        def timed(*arguments: Any, **named: Any) -> Any:
            with self.part(part, sealed=sealed):
                return function(*arguments, **named)

        return owner, name, timed

    def timed_steps(self, owner: Any, name: str, part: str) -> Place:
        """The same for a function that returns an iterator: each of its steps counts."""
        function: Function = getattr(owner, name)

        def timed(*arguments: Any, **named: Any) -> Iterator[Any]:
            steps = iter(function(*arguments, **named))
            while True:
                with self.part(part):
                    try:
                        value = next(steps)
                    except StopIteration:
                        return
                yield value

        return owner, name, timed


def main() -> None:
    """Read the arguments, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("structure", type=Path, help="a prepared structure (.cif)")
    parser.add_argument("--orientations", type=int, default=8, help="exit waves to simulate")
    parser.add_argument("--steps", type=int, default=20, help="training steps to time")
    parser.add_argument("--width", type=float, default=0.125, help="of the published network")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--device", default="cpu", help="that trains: cpu or cuda")
    parser.add_argument("--json", type=Path, help="write the numbers here too")
    arguments = parser.parse_args()
    structure = load_structure(arguments.structure)
    values = {
        "simulate.orientations": arguments.orientations,
        "network.width": arguments.width,
        "train.batch_size": arguments.batch_size,
    }
    settings = load_settings("published", values=values)
    print(f"Load of the machine {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores.\n")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        simulated = profile_simulate(structure, folder, settings)
        print(
            f"simulate: {structure.stem}, {structure.mass_kda:.1f} kDa, "
            f"{arguments.orientations} orientations, one process\n"
        )
        print(as_markdown(simulated, arguments.orientations, "wave"), "\n")
        device = torch.device(arguments.device)
        trained = profile_train(folder, settings, arguments.steps, device)
    print(
        f"train: published network, width {arguments.width:g}, batches of "
        f"{arguments.batch_size}, {arguments.steps} steps, {device.type}, "
        f"{torch.get_num_threads()} threads; one validation of "
        f"{min(settings.train.validation_items, arguments.orientations)} items\n"
    )
    print(as_markdown(trained, arguments.steps, "step"))
    if arguments.json:
        record = {"simulate_s": simulated, "train_s": trained, "arguments": vars(arguments)}
        arguments.json.write_text(json.dumps(record, indent=2, default=str) + "\n", "utf-8")


def profile_simulate(structure: Structure, folder: Path, settings: Settings) -> dict[str, float]:
    """Seconds by part of simulating every orientation, after some for warming up.

    Leaves `waves.zarr` and `held_out.zarr` in the folder.
    """
    from abtem import multislice
    from abtem.antialias import AntialiasAperture
    from abtem.potentials.iam import Potential

    import diffragan.microscope.exit_waves.by_abtem as multislice_module
    import diffragan.microscope.simulate as module
    from diffragan.files.store_writer import StoreWriter

    # Training wants a second structure to validate on; the same one under another name will do.
    twin = replace(structure, stem=f"{structure.stem}_held_out")
    module.simulate([twin], folder / "held_out.zarr", settings, workers=1)
    sections = Sections()
    timed = sections.timed
    places = [
        sections.timed_steps(Potential, "generate_slices", "potential"),
        timed(multislice, "conventional_multislice_step", "transmission"),
        timed(AntialiasAperture, "bandlimit", "anti-aliasing (FFT)"),
        timed(multislice.FresnelPropagator, "propagate", "propagation (FFT)"),
        timed(multislice_module, "resample", "crop (FFT)"),
        timed(StoreWriter, "write", "write"),
    ]
    with replaced(places):
        sections.restart()
        module.simulate([structure], folder / "waves.zarr", settings, workers=1)
        return sections.stop()


def profile_train(
    folder: Path, settings: Settings, steps: int, device: torch.device
) -> dict[str, float]:
    """Seconds by part of training steps and one validation, after two steps for warming up."""
    from diffragan.networks.discriminator import PatchDiscriminator
    from diffragan.networks.generator import PublishedGenerator
    from diffragan.training import data as batches
    from diffragan.training import leg, loop

    data = batches.open_exit_waves([folder / "waves.zarr", folder / "held_out.zarr"])
    chosen = {
        "max_steps": steps + WARM_UP_STEPS,
        "epochs": 10**6,
        "validate_every_steps": 10**9,
        "checkpoint_every_s": 1e9,
        "validation_structures": (data.structures[-1].stem,),
    }
    settings = settings.model_copy(update={"train": settings.train.model_copy(update=chosen)})
    sections = Sections()
    if device.type == "cuda":
        sections.synchronize = torch.cuda.synchronize
    timed, plain_update = sections.timed, leg.update

    def update(optimizer: Any, loss: Any, module: Any, processes: Any) -> None:
        of = "generator" if isinstance(module, PublishedGenerator) else "discriminator"
        with sections.part(f"{of} backward"):
            plain_update(optimizer, loss, module, processes)

    places = [
        sections.timed_steps(loop, "load_ahead", "load (waiting)"),
        timed(batches, "measure", "imaging: pattern, image, noise"),
        timed(batches, "projection", "imaging: target"),
        timed(batches, "prepare_inputs", "preparation"),
        timed(batches, "prepare_target", "preparation"),
        timed(PublishedGenerator, "forward", "generator forward"),
        timed(PatchDiscriminator, "forward", "discriminator forward"),
        (loop, "update", update),
        timed(torch.optim.Adam, "step", "optimizers"),
        # Validation images and runs the generator too: all of that is validation.
        timed(loop, "validate", "validation", sealed=True),
        timed(leg, "save_checkpoint", "saving"),
        timed(leg, "keep_weights", "saving"),
    ]

    def progress(stage: str, done: int, total: int | None = None, word: str = "", /) -> None:
        if done == WARM_UP_STEPS:
            sections.restart()

    with replaced(places):
        loop.train(data, folder / "run", settings, device=device, progress=progress)
        return sections.stop()


@contextmanager
def replaced(places: list[Place]) -> Iterator[None]:
    """Functions replaced by others for a while."""
    with ExitStack() as stack:
        for owner, name, function in places:
            stack.enter_context(mock.patch.object(owner, name, function))
        yield


def as_markdown(seconds: dict[str, float], count: int, unit: str) -> str:
    """Parts as a table: ms a unit and their share of the whole."""
    total = sum(seconds.values())
    lines = [f"| part | ms a {unit} | share |", "|---|---|---|"]
    for name, value in [*seconds.items(), ("**whole**", total)]:
        lines.append(f"| {name} | {1000 * value / count:.1f} | {value / total:.1%} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

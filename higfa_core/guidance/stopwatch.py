"""Times work on a device without making the host wait for it."""

import time
from contextlib import contextmanager

import torch


class Stopwatch:
    """Sums the time spent under `measure`; `seconds` waits for the device, once.

    None on asynchronous devices other than CUDA (MPS, XPU): the host's time says nothing about theirs.
    """

    def __init__(self, device: torch.device):
        self.device_type = torch.device(device).type
        self.events, self.total = [], 0.0

    @contextmanager
    def measure(self):
        if self.device_type != "cuda":
            started = time.perf_counter()
            yield
            self.total += time.perf_counter() - started
            return
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        yield
        end.record()
        self.events.append((start, end))

    def seconds(self) -> float | None:
        if self.device_type not in ("cpu", "cuda"):
            return None
        if self.events:
            torch.cuda.synchronize()
            self.total += sum(start.elapsed_time(end) for start, end in self.events) / 1000
            self.events = []
        return self.total

"""Times work on a device without making the host wait for it."""

import time
from contextlib import contextmanager

import torch


class Stopwatch:
    """Sums up the time spent under `measure`; `seconds` waits for the device, once."""

    def __init__(self, device: torch.device):
        self.on_cuda = torch.device(device).type == "cuda"
        self.events, self.total = [], 0.0

    @contextmanager
    def measure(self):
        if not self.on_cuda:
            started = time.perf_counter()
            yield
            self.total += time.perf_counter() - started
            return
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        yield
        end.record()
        self.events.append((start, end))

    def seconds(self) -> float:
        if self.events:
            torch.cuda.synchronize()
            self.total += sum(start.elapsed_time(end) for start, end in self.events) / 1000
            self.events = []
        return self.total

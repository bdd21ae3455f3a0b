"""How far a run is: a bar on a terminal, a plain line every few seconds elsewhere."""

import sys
import time

from tqdm import tqdm

LOG_SECONDS = 10  # between two lines where there is no terminal


class Progress:
    """Shows a run of `max_steps` steps on stderr, `begun` of which earlier processes did."""

    def __init__(self, max_steps: int, begun: int, tokens_per_step: int):
        self.max_steps, self.begun, self.tokens_per_step = max_steps, begun, tokens_per_step
        self.start = self.logged = time.monotonic()
        self.bar = tqdm(
            total=max_steps, initial=begun, unit="step", disable=not sys.stderr.isatty(), dynamic_ncols=True
        )

    def step(self, done: int, loss: float, val_loss: float | None) -> None:
        """After `done` steps; losses in nats per token."""
        now = time.monotonic()
        seconds_per_step = (now - self.start) / (done - self.begun)
        text = f"loss {loss:.3f}" + (f", validation {val_loss:.3f}" if val_loss is not None else "")
        text += f", {self.tokens_per_step / seconds_per_step:,.0f} tokens/s"
        self.bar.set_postfix_str(text, refresh=False)
        self.bar.update()
        if self.bar.disable and (now - self.logged >= LOG_SECONDS or done in (self.begun + 1, self.max_steps)):
            left = seconds_per_step * (self.max_steps - done)
            print(f"step {done}/{self.max_steps}: {text}, {left:.0f} s left", file=sys.stderr, flush=True)
            self.logged = now

    def close(self) -> None:
        """Leave the bar as it is."""
        self.bar.close()

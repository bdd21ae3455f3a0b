"""Show the progress of a training run: a bar on a terminal, a plain line every few seconds elsewhere."""

import sys
import time

from tqdm import tqdm

LOG_SECONDS = 10  # between two lines where there is no terminal


class Progress:
    """Shows a run of `max_steps` steps on stderr, of which earlier processes did `first_step`."""

    def __init__(self, max_steps: int, first_step: int, tokens_per_step: int):
        self.max_steps, self.first_step, self.tokens_per_step = max_steps, first_step, tokens_per_step
        self.start = self.logged = time.monotonic()
        no_terminal = not sys.stderr.isatty()
        self.bar = tqdm(total=max_steps, initial=first_step, unit="step", disable=no_terminal, dynamic_ncols=True)

    def step(self, done: int, loss: float, val_loss: float | None) -> None:
        """Show that `done` steps are done; losses in nats per token."""
        now, left = time.monotonic(), self.seconds_left(done)
        seconds_per_step = self._seconds_per_step(done)
        if first := done == self.first_step + 1:
            self.start = now  # this step compiles; the others say how fast the run is
        text = f"loss {loss:.3f}" + (f", validation {val_loss:.3f}" if val_loss is not None else "")
        text += f", {self.tokens_per_step / seconds_per_step:,.0f} tokens/s"
        self.bar.set_postfix_str(text, refresh=False)
        self.bar.update()
        if self.bar.disable and (now - self.logged >= LOG_SECONDS or first or done == self.max_steps):
            print(f"step {done}/{self.max_steps}: {text}, {describe_time(left)} left", file=sys.stderr, flush=True)
            self.logged = now

    def seconds_left(self, done: int) -> float:
        """Estimate the seconds from now, after `done` steps, to the end; the first is left out, as it compiles."""
        return self._seconds_per_step(done) * (self.max_steps - done)

    def _seconds_per_step(self, done: int) -> float:
        return (time.monotonic() - self.start) / max(1, done - self.first_step - 1)

    def close(self) -> None:
        """Stop updating the bar and leave it on the terminal."""
        self.bar.close()


def describe_time(seconds: float) -> str:
    """Seconds in words, from two minutes on in minutes, and from an hour on in hours and minutes."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"

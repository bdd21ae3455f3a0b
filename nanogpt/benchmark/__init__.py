"""What this machine does: training steps, and text to tokens."""

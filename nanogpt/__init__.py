"""Train, adapt, merge, sample and measure a small GPT on an ordinary CPU."""

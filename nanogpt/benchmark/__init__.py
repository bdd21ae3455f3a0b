"""The benchmark stage: how fast this machine trains."""

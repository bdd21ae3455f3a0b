"""The training loop, what it steers by, and runs that resume after a crash to the same bits."""

"""One file per command: plain arguments in, a run folder out. Only the entry point knows of Hydra."""

"""Time and peak memory beside peers, each run in a process of its own."""

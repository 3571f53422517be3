"""Benchmarks. One module per figure, each a command: `python -m bench.NAME`; `python -m bench` runs them all and prints one table."""

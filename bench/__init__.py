"""The benchmark: Weft beside a Synapse installed from its package, loaded by the same driver in one run.

`python -m bench` starts both servers on loopback, measures them in turn, and prints one table;
`python -m bench micro` times the parts of the core. See `bench/README.md` for how to read the figures.
"""

"""How fast the training core is, beside TRL and beside what the processor can do at all. See docs/benchmarks.md."""

"""Forecasts the cost of a stage or a job without running it: parameters, FLOPs, memory and time on a TPU pod.

    topology -> compile-only devices -> jobs -> compiled program -> memory, costs, collectives -> min time

For a stage: ``parameter_count`` (by part and by kind), ``flops`` (of any function: counted from its jaxpr, and as XLA
reports them), ``stage_programs`` (forward pass and training step, as functions and shapes), ``utilisation`` (MFU of a
run).

For a job: ``chips`` (each TPU generation, with sources), ``topologies`` (devices of a pod that is not attached),
``jobs``, ``programs``, ``collectives`` (from the program's text), ``roofline`` (min time), ``report`` (all results).
"""

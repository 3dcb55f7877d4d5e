"""Monitoring of a run: metrics, bad numbers, hangs and profiler traces.

``logging`` and ``metrics``: lines of metrics and the progress bar; ``append_file``: a file of lines that survives
crashes; ``nonfinite``, ``spikes`` and ``incidents``: bad numbers; ``watchdog``: steps that hang, profiler traces.
"""

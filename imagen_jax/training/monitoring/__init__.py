"""What a run reports, and what it reacts to.

``logging`` and ``metrics``: lines of metrics and the progress bar; ``append_file``: a file of lines that survives
crashes; ``nonfinite``, ``spikes`` and ``incidents``: bad numbers; ``watchdog``: steps that hang, profiler traces.
"""

"""Learning the parameters of one stage.

    batch -> step (loss, gradient, optimizer, EMA: one jitted pure function) -> state -> checkpoints, metrics
    loop: next batch, one step, and every so often a log line, a preview, a checkpoint

``state`` (what a run is at one moment), ``optimizer`` (Adafactor, Adam and their learning rate), ``step``,
``loop``, ``guard`` (of numbers that are not finite), ``spikes``, ``incidents`` (what is told of both), ``checkpoints``
(Orbax), ``metrics`` (JSON lines, progress bar), ``watching`` (traces, a watchdog).
May import: ``array_types``, ``errors``, ``processes``, ``diffusion``, ``sharding``. Alone in the house it knows
``optax`` and, in ``checkpoints.py`` only, ``orbax``.
"""

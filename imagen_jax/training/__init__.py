"""Learning the parameters of one stage.

    batch -> step (loss, gradient, optimizer, EMA: one jitted pure function) -> state -> checkpoints, metrics
    loop: next batch, one step, and every n-th step a log line, a preview, a checkpoint

``state`` (parameters, optimizer, average, step), ``optimizer`` (Adafactor, Adam, Muon, and learning rates), ``step``,
``loop``, ``workdir`` (a run's folder), ``folder_kinds`` (what a folder holds); ``checkpoints/`` saves and restores,
``monitoring/`` watches and reports. Only this room imports ``optax`` and ``orbax``.
"""

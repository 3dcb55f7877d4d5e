"""Training of one stage.

    batch -> step (loss, gradient, optimizer, EMA: one jitted pure function) -> state -> checkpoints, metrics
    loop: next batch, one step, and every n-th step a log line, a preview, a checkpoint

``state`` (parameters, optimizer state, average, step), ``optimizer`` (Adafactor, Adam, Muon, and learning rates),
``step``, ``loop``, ``workdir`` (the folder of a run), ``folder_kinds`` (which folders can be workdirs), ``result``;
``checkpoints/`` saves and restores, ``monitoring/`` watches and reports. Only this package imports ``optax`` and
``orbax``.
"""

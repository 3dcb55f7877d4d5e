"""imagen-jax: Imagen (Saharia et al. 2022, arXiv 2205.11487) in JAX and Flax.

Captions and images go in on the left, a trained cascade comes out on the right::

    train.py    data -> text -> diffusion (loss) -> models -> training (step, state, checkpoints)
    sample.py   training.checkpoints -> sampling (steps, guidance, cascade) -> PNG
    evaluate.py sampling -> evaluation (features, caption recall, report)
    compile_check.py    config -> jobs (programs) -> forecast (memory, exchanges, the least time) of a pod not here
    import_weights.py  weights from elsewhere -> training.checkpoints; export_weights.py the other way

Imports point one way, and ``tests/test_import_directions.py`` holds them to it::

    array_types, errors <- storage <- sharding, weights <- diffusion, models, text, data <- sampling, training
                        <- evaluation <- stages <- jobs, forecast <- the mains
"""

__version__ = "0.1.0"

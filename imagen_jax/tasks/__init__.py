"""What can be trained, each as a ``training.task.Task``: a function of its config.

    config -> ``stage``: a diffusion model, from captions and images (``stage_data`` opens them)
           -> ``classifier``: a classifier of noisy images
           -> ``clip``: a CLIP, from captions and images, or from features of frozen networks (``clip_data``)
           -> ``codes``: an autoregressive prior, from captions and a CLIP's embeddings of images (``codes_data``)
    Task -> ``imagen_jax.train.run_task``: the loop, checkpoints, resume, pods

``prior_evaluation`` measures a prior on held-out captions during its training. ``clip_hooks`` measures a CLIP on held-
out pairs during its training, and exports it. ``training_data`` opens data sets and makes batches for every task.
"""

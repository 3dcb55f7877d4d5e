"""What can be trained, each as a ``training.task.Task``: a function of its config.

config -> ``stage``: a diffusion model, from captions and images (``stage_data`` opens them)
       -> ``classifier``: a classifier of noisy images
Task -> ``imagen_jax.train.run_task``: the loop, checkpoints, resume, pods
"""

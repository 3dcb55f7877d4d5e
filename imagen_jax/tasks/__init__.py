"""What can be trained, each as a ``training.task.Task``: a function of its config.

config -> ``stage``: a diffusion model, from captions and images (``stage_data`` opens them)
       -> ``classifier``: a classifier of noisy images
       -> ``clip``: a CLIP, from captions and images (``clip_data``) or from features of frozen networks;
          ``clip_hooks`` measures it on held-out pairs and exports it
Task -> ``imagen_jax.train.run_task``: the loop, checkpoints, resume, pods
"""

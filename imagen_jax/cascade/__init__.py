"""Builds stages and cascades of stages from configs, out of networks, diffusion, encoders and training.

    config -> ``experiment`` (frozen sections) -> ``stage`` -> ``stage_loss``, for training (``stage_task``)
    workdir or exported folder -> ``loading`` -> ``plans`` (all settings checked) -> ``cascade`` -> images

- ``stage``: network, conditions and noise schedule of one stage; ``stage_sampler``: the programs that sample one stage;
  ``settings``, ``sampling_settings`` and ``sampling_programs``: the sampling settings, and the cache of programs.
- ``stage_checks``: values of a stage that several keys decide together.
- ``text_encoder``: the encoder of a stage; ``stage_inputs`` and ``request_inputs``: a stage's inputs;
  ``given_latents``: the image embeddings and noises that requests bring along.
- ``manipulations``: an image as CLIP embedding and noise, and requests that change one of the two.
- ``cascade``: ``load_cascade`` and ``Cascade``; ``plans``: checks of configs and settings before weights are read.
- ``edits``: inpainting and image-to-image; ``requests``: one requested image; ``image_files``: PNG files and grids;
  ``image_folder``: a folder of samples that can be resumed; ``previews``: sample grids during training.
- ``classifier``: a classifier of noisy images, for guidance.
- ``code_stage``: an autoregressive prior of CLIP's image embeddings: its loss, and drawing with it;
  ``code_draws``: what it draws for requests; ``estimate_errors``: the table of the sampler "analytic".
- ``checkpoint_export``: a stage as safetensors; ``config_keys``: preconditions of config keys on the command line.
- ``sampling_flags`` and ``stage_flags``: flags that several commands share.
"""

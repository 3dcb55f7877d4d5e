"""Builds stages and cascades of stages from configs, out of networks, diffusion, encoders and training.

    config -> ``experiment`` (frozen sections) -> ``stage`` -> loss, for training (``compiled_training``)
    workdir or exported folder -> ``loading`` -> ``plans`` (all settings checked) -> ``cascade`` -> images

- ``stage``: network, noise schedule and loss of one stage; ``stage_sampler``: the programs that sample one stage;
  ``settings`` and ``sampling_programs``: the sampling settings, and the cache of compiled programs.
- ``cascade``: ``load_cascade`` and ``Cascade``; ``plans``: checks of configs and settings before weights are read.
- ``edits``: inpainting and image-to-image; ``requests``: one requested image; ``image_files``: PNG files and grids;
  ``image_folder``: a folder of samples that can be resumed; ``previews``: sample grids during training.
- ``classifier`` and ``classifier_training``: a classifier of noisy images, for guidance.
- ``checkpoint_export``: a stage as safetensors; ``config_keys``: preconditions of config keys on the command line.
- ``sampling_flags`` and ``stage_flags``: flags that several commands share.
"""

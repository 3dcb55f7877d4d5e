"""A stage and a cascade of stages, built from configs: where networks, diffusion, encoders and training meet.

    config -> ``stage`` -> loss, for training (``compiled_training``)
    workdir or exported folder -> ``loading`` -> ``plans`` (all settings checked) -> ``cascade`` -> images

- ``stage``: network, noise schedule and loss of one stage; ``stage_sampler``: the program that samples one stage;
  ``settings`` and ``sampling_programs``: how it samples, and its compiled programs.
- ``cascade``: ``load_cascade`` and ``Cascade``; ``plans``: the same, checked before any weights are read.
- ``edits``: inpainting and image-to-image; ``requests``: one requested image; ``image_files``: PNG files and grids;
  ``image_folder``: a folder of samples that can be resumed; ``previews``: sample grids during training.
- ``classifier`` and ``classifier_training``: a classifier of noisy images, for guidance.
- ``checkpoint_export``: a stage as safetensors; ``config_keys``: which keys a config may have.
- ``sampling_flags`` and ``stage_flags``: flags that several commands share.
"""

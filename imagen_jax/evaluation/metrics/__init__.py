"""Computes numbers from features and from ratings.

``frechet`` computes FID, ``kernel_distance`` KID. ``inception_score``, ``precision_recall`` and ``clip_score`` compute
the metrics of their names. ``caption_recall`` measures whether images follow their captions. ``win_rates`` evaluates
human ratings. ``zero_shot``, ``linear_probe`` and ``retrieval`` measure a CLIP, ``prior`` a prior of its image
embeddings. ``reference_statistics`` stores the moments of reference images.
"""

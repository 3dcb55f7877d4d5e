"""Numbers from features and from ratings.

``frechet`` (FID), ``kernel_distance`` (KID), ``inception_score``, ``precision_recall``, ``clip_score``,
``caption_recall`` (do the images follow their captions?), ``win_rates`` (from people's ratings);
``reference_statistics`` stores the moments of reference images.
"""

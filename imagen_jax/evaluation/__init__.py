"""How good the pictures are: features of images, what is near what, and a report.

    images -> feature network -> features -> caption recall, Fréchet distance -> report.json
                                             metrics.jsonl -> loss plot

``efficientnet_lite0`` (an ImageNet network whose weights come as a package), ``features`` (networks by name, extraction
in batches), ``caption_recall`` (is text ignored?), ``frechet`` (how far are two sets of pictures?), ``loss_plot``,
``report``.
May import: ``array_types``, ``errors``, ``weights``, ``training.metrics``.
"""

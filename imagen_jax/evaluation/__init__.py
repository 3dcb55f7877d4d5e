"""How good the pictures are: features of pictures, what is near what, and pages for people.

    pictures -> feature network -> features -> distances, scores, recall -> numbers
    numbers, facts -> report.json, report.html, plots

Networks: ``feature_network`` (what one is), ``features`` (by name, extraction in batches), ``inception`` with
``inception_weights`` and ``resizing`` (FID's), ``pretrained_clip`` with ``clip``,
``clip_weights``, ``clip_tokenizer`` and ``clip_preprocessing``, ``efficientnet_lite0`` (comes as a package).
Measures: ``frechet``, ``kernel_distance``, ``inception_score``, ``precision_recall``, ``clip_score``,
``caption_recall`` (is text ignored?), ``win_rates`` (of people's ratings); ``reference_statistics`` keeps moments.
Prompts: ``drawbench``; others' numbers: ``published``.
For people: ``report`` (JSON), ``html_report``, ``side_by_side`` on ``html_pages``; ``loss_plot``, ``metric_plot``,
``pareto`` with ``label_places``, ``win_rate_plot``.

May import: ``array_types``, ``errors``, ``storage``, ``weights``, ``sharding``, ``data``, ``models``,
``training.metrics``.
"""

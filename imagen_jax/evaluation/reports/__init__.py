"""Reports and plots for people, and the prompts and published numbers in them.

``report`` writes JSON. ``html_report`` and ``side_by_side`` write HTML with ``html_pages``. ``loss_plot``,
``metric_plot``, ``win_rate_plot``, ``confusion_plot``, ``probability_plot`` and ``pareto`` draw plots.
``classification_page`` and ``retrieval_page`` show what a CLIP does. ``drawbench`` has prompts, and ``published`` has
numbers of other models.
"""

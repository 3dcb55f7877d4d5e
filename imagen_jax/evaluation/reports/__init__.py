"""Reports and plots for people, and the prompts and published numbers they show.

``report`` (JSON); ``html_report`` and ``side_by_side`` on ``html_pages``; ``loss_plot``, ``metric_plot``, ``pareto``
with ``label_places``, ``win_rate_plot``; ``drawbench`` (prompts); ``published`` (numbers of other models).
"""

"""The local web pages: one that draws, and one on which people compare what two models drew.

    page (HTML, script) -> clients (how much, how long) -> app (routes, limits) -> orders (what is asked, checked)
    -> jobs (queue, one worker) -> a cascade -> previews while it forms, the picture, the history

    two folders -> pairs -> blinding (who sees what, when, on which side) -> rating_app (routes) and rating_page
    -> ratings (the database) -> evaluation.win_rates

Alone
in the house it knows ``starlette``.
"""

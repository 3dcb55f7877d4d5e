"""The local web page: from a form in the browser to a picture, one at a time.

    page (HTML, script) -> app (routes, limits) -> orders (what is asked, checked) -> jobs (queue, one worker)
    -> a cascade -> previews while it forms, the picture, the history

May import: ``errors``, ``storage``, ``data``, ``sampling``, ``edits``, ``cascades``. Alone in the house it knows
``starlette``.
"""

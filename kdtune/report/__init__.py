"""``kdtune report``: a study as one HTML page that loads nothing and runs nothing.

Reads tables, journal and weights; writes no file itself. Begin with ``build.report``; ``study`` reads, ``facts``
counts, ``answer``, ``searches`` and ``rest`` write the page's sections, ``figures``, ``dots`` and ``panels`` draw,
``page`` is HTML.
"""

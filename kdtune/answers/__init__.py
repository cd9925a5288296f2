"""Rows to tables: what ``kdtune results`` prints, from the Parquet files of a study, beside the paper's own values.

Starts neither torch nor Ray. Begin with ``tables.table``, the data of each table; ``query`` gathers what is stored,
``significance`` compares methods, ``layouts`` sets tables out as the paper does, ``formats`` writes them.
"""

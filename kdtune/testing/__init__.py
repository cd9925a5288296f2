"""Tests for parts of other packages, run by pytest there: what kdtune asks of its own.

Knows the shared vocabulary alone. Begin with ``loss_terms``, the tests of a loss term; how they are run stands in
``kdtune/losses/README.md``.
"""

import pytest

pytest.register_assert_rewrite("kdtune.testing.loss_terms")

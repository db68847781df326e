"""Every example in a docstring runs and gives what it says."""

import doctest
import importlib
import pkgutil

import jaxdiff


def test_examples_in_docstrings():
    names = [module.name for module in pkgutil.walk_packages(jaxdiff.__path__, "jaxdiff.")]
    results = [doctest.testmod(importlib.import_module(name)) for name in names]
    assert sum(result.failed for result in results) == 0
    assert sum(result.attempted for result in results) > 20

"""The 2010 document as clauses, judged on real union mounts.

:mod:`overlay.spec.catalogue` holds the clauses, :mod:`overlay.spec.checks` how each is
observed, :mod:`overlay.spec.targets` what can be judged, :mod:`overlay.spec.runner` runs
them and :mod:`overlay.spec.report` writes the results down.
"""

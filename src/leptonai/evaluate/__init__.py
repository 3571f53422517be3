"""Measuring a model. `la.evaluate(model, dataset)` is `report.evaluate`."""

from ..base.folder import make_callable

make_callable(__name__, "report")

"""Training: recipes, runs, the loop. `la.train(recipe)` is `trainer.train`; `la.train.keras` is the module in this folder."""

from ..base.folder import make_callable

make_callable(__name__, "trainer")

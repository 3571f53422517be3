"""One line for a table: `la.fit` chooses the task and the network, keeps the recipe, and gives a model to predict with.

python examples/fit_table.py
"""

import sys

from sklearn.datasets import load_wine

import leptonai as la

wine = load_wine(as_frame=True)
table = wine.data.assign(cultivar=[wine.target_names[number] for number in wine.target])

time_budget = sys.argv[1] if len(sys.argv) > 1 else "20s"
model = la.fit(table, target="cultivar", time_budget=time_budget)

print(model.predict(table.head(1).to_dict("records")[0]))
print(model.recipe.to_yaml())

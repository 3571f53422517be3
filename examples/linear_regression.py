"""The smallest program: fit a line, predict, measure, publish. `data.csv` lies beside it: apartments, area in m², rent in euros.

python examples/linear_regression.py
"""

from pathlib import Path

import pandas as pd

import leptonai as la

client = la.Client("your_api_key")  # nothing is contacted until it is used

data = pd.read_csv(Path(__file__).with_name("data.csv"))

model = la.LinearRegression()
model.fit(data["feature"], data["target"])

predictions = model.predict(data["feature"])
print("mean squared error:", la.mean_squared_error(data["target"], predictions))

entry = model.publish("rents")
print(f"published {entry.ref}; serve it with: lep serve {entry.name}")

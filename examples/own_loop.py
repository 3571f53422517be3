"""Your own PyTorch loop, made safe by four lines of Lepton: kill it at any moment and run it again, it ends with the same weights.

python examples/own_loop.py          (or: lep run examples/own_loop.py)
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import leptonai as la

digits = load_digits()
x, y = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)

run = la.Run("own-loop", seed=0)
model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Dropout(0.2), nn.Linear(128, 10))
optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
loader = DataLoader(TensorDataset(x[:1500], y[:1500]), batch_size=32, shuffle=True)
model, optimizer, loader = run.prepare(model, optimizer, loader)

for _, (image, label) in run.steps(loader, until="15 epochs"):
    loss = nn.functional.cross_entropy(model(image), label)
    run.backward(loss)
    optimizer.step()
    optimizer.zero_grad()
    run.log(loss=loss)

model.eval()
accuracy = (model(x[1500:]).argmax(1) == y[1500:]).float().mean().item()
run.log({"test.accuracy": accuracy})
run.publish(model, "own-loop")
print(f"test accuracy: {accuracy:.4f}")

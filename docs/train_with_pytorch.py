"""Trains the paper's ConvNet on a set from `kipx export format=torch`, with PyTorch and numpy alone.

python docs/train_with_pytorch.py set.pt test.npz 1024 5000 1.0

test.npz has pixels x_test (n, h, w, c) and classes y_test (n,). The numbers: width, steps, the rate as a share of the
largest stable one. SGD with momentum, cosine decay, squared error on the labels as they are, 0.5 * 1e-3 * |weights|^2.
"""

import sys

import numpy as np
import torch
from torch import nn

own, test, width, steps = torch.load(sys.argv[1]), np.load(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
x, y = own["images"], own["labels"].float()

# the test images go through the set's own preprocessing
x_test = (torch.tensor(test["x_test"]).permute(0, 3, 1, 2) - own["mean"]) / own["std"]
rows = x_test.flatten(1)
rows = nn.functional.normalize(rows - rows.mean(1, keepdim=True)) if own["unit_norm"] else rows
x_test = (rows @ own["whitening"].to(rows.dtype)).view_as(x_test) if own["whitening"].numel() else x_test

pools = range(2 if x.shape[-1] < 16 else 3)
blocks = [layer for _ in pools for layer in (nn.LazyConv2d(width, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2))]
net = nn.Sequential(nn.LazyConv2d(width, 3, padding=1), nn.ReLU(), *blocks, nn.Flatten(), nn.LazyLinear(y.shape[1]))
net(x[:1])  # gives the layers their sizes
for p in net.parameters():
    nn.init.normal_(p, std=(2 / p[0].numel()) ** 0.5 if p.ndim > 1 else 0.1)

# power iteration: the norm of v tends to the largest eigenvalue of the empirical NTK
weights, v = dict(net.named_parameters()), torch.randn_like(y[:50])
for _ in range(20):
    pull = torch.func.vjp(lambda w: torch.func.functional_call(net, w, (x[:50],)), weights)[1]
    v = torch.func.jvp(lambda w: torch.func.functional_call(net, w, (x[:50],)), (weights,), pull(v / v.norm()))[1]

rate = float(sys.argv[5]) * 2 * v.numel() / v.norm().item()
optimizer = torch.optim.SGD(net.parameters(), lr=rate, momentum=0.9, weight_decay=1e-3)
for step in range(steps):
    batch = torch.randperm(len(x))[:100]
    optimizer.param_groups[0]["lr"] = rate * (1 + np.cos(np.pi * step / steps)) / 2
    optimizer.zero_grad()
    (0.5 * nn.functional.mse_loss(net(x[batch]), y[batch])).backward()
    optimizer.step()

predicted = torch.cat([net(part).argmax(1) for part in x_test.float().split(500)]).numpy()
print(f"test accuracy {np.mean(predicted == test['y_test']):.2%} at a rate of {rate:.4g}")

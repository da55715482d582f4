# %% [markdown]
# # A network, looked at
#
# Cells of a notebook, as Jupyter (by jupytext), VS Code and PyCharm open them; `python examples/gallery/notebook.py` runs them
# one after the other. A network 64-24-10 with a ReLU says which digit an image shows. Its loss is the cross-entropy
#
# L = -1/n Σ_i log softmax(z_i)[y_i]

# %%
import numpy as np

import tensorgrad
from tensorgrad import data, draw, nn, optim, train
from tensorgrad.nn import functional as F

X, labels = data.load_digits()
x, y, x_test, y_test = data.split(data.min_max(X), labels, 0.2, seed=0)
rng = np.random.default_rng(0)
model = nn.Sequential(nn.Linear(64, 24, rng=rng), nn.ReLU(), nn.Linear(24, 10, rng=rng))
model

# %% [markdown]
# What the loss has recorded, as a table: with Graphviz, `loss.graph()` is a picture.

# %%
loss = F.cross_entropy(model(x[:32]), y[:32])
print(tensorgrad.graph.Graph.of(loss))

# %% [markdown]
# The gradient, derived as on paper.

# %%
print(draw.derive(loss, wrt=model[2].weight))

# %% [markdown]
# Training. A history is a table, and has a plot.

# %%
history = train.fit(
    model,
    F.cross_entropy,
    optim.Adam(model.parameters(), lr=0.01),
    data.DataLoader(x, y, batch_size=64, shuffle=True, rng=0),
    epochs=5,
    validation=(x_test, y_test),
    metrics=[train.metrics.accuracy],
    progress=False,
)
history

# %% [markdown]
# A compiled step is a plan, which is a table, too: each line a kernel, with its shapes and how much it computes.

# %%
optimiser = optim.SGD(model.parameters(), lr=0.01)


@tensorgrad.compile
def step(x, y):
    loss = F.cross_entropy(model(x), y)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return loss


losses = [step(x[:64], y[:64]).item() for _ in range(3)]
print(step.plan)

# %% [markdown]
# Where the time goes.

# %%
with tensorgrad.profile() as profile:
    F.cross_entropy(model(x), y).backward()
profile

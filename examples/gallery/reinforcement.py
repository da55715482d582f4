"""Two ways to learn by reward to hold a ball at 0: REINFORCE (Williams 1992) and a deep Q network (Mnih et al. 2015).

    python examples/gallery/reinforcement.py

The state is (place x, speed v), an action pushes to the left or to the right, the reward is exp(-x²). With R_t the sum of the
rewards from t on, less its mean over episodes, the loss of the policy is

    L = -1/n Σ_episodes Σ_t R_t log π(a_t | s_t)

and that of the Q network, Q' being a copy of it from some steps ago, over transitions (s, a, r, s') of random actions

    L = 1/n Σ huber(Q(s, a) - r - γ max_a' Q'(s', a')),     γ = 0.9
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from pages import Losses, show

import tensorgrad
from tensorgrad import Tensor, nn, no_grad, optim
from tensorgrad.nn import functional as F

EPISODES, T, GAMMA = 32, 12, 0.9


def model(rng: np.random.Generator) -> nn.Module:
    return nn.Sequential(nn.Linear(2, 16, rng=rng), nn.Tanh(), nn.Linear(16, 2, rng=rng))


def play(right: Callable[[np.ndarray], np.ndarray], rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """States (T + 1, EPISODES, 2), actions and rewards (T, EPISODES); right(states) is how likely action 1 is."""
    x, v = rng.uniform(-2, 2, EPISODES), np.zeros(EPISODES)
    states, actions, rewards = [np.stack([x, v], axis=1).astype("f")], [], []
    for _ in range(T):
        actions.append((rng.random(EPISODES) < right(states[-1])).astype(int))
        v = 0.9 * v + 0.3 * (2 * actions[-1] - 1)
        x = x + v
        states.append(np.stack([x, v], axis=1).astype("f"))
        rewards.append(np.exp(-(x**2)).astype("f"))
    return np.stack(states), np.stack(actions), np.stack(rewards)


def transitions(rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """s (n, 2), a (n), r (n), s' (n, 2) of random actions."""
    states, actions, rewards = play(lambda s: np.full(len(s), 0.5), rng)
    return states[:-1].reshape(-1, 2), actions.ravel(), rewards.ravel(), states[1:].reshape(-1, 2)


def losses(steps: int, compiled: bool = True) -> Losses:
    policy, q, target = (model(np.random.default_rng(i)) for i in (0, 1, 1))
    of_policy, of_q = optim.Adam(policy.parameters(), lr=0.01), optim.Adam(q.parameters(), lr=0.01)

    def step_of_policy(states, actions, returns):
        loss = (F.cross_entropy(policy(states), actions, reduction="none") * returns).sum() / EPISODES
        of_policy.zero_grad()
        loss.backward()
        of_policy.step()
        return loss

    def step_of_q(s, a, r, after):
        with no_grad():
            goal = r + GAMMA * target(after).max(axis=1)
        loss = F.huber_loss(q(s).take_along_axis(a[:, None], axis=1).squeeze(1), goal)
        of_q.zero_grad()
        loss.backward()
        of_q.step()
        return loss

    if compiled:
        step_of_policy, step_of_q = tensorgrad.compile(step_of_policy), tensorgrad.compile(step_of_q)
    chances, rng = no_grad()(lambda s: policy(Tensor(s)).softmax().numpy()[:, 1]), np.random.default_rng(2)
    columns: Losses = {"policy": [], "reward": [], "Q": []}
    for i in range(steps):
        states, actions, rewards = play(chances, rng)
        returns = rewards[::-1].cumsum(axis=0)[::-1]
        returns = (returns - returns.mean(axis=1, keepdims=True)).ravel()
        columns["policy"].append(step_of_policy(states[:-1].reshape(-1, 2), actions.ravel(), returns).item())
        columns["reward"].append(float(rewards.mean()))
        if i % 10 == 0:
            target.load_state_dict(q.state_dict())
        columns["Q"].append(step_of_q(*transitions(rng)).item())
    greedy = no_grad()(lambda s: q(Tensor(s)).numpy().argmax(axis=1))
    print(f"reward of the Q network's best actions: {play(greedy, rng)[2].mean():.2f}")
    return columns


if __name__ == "__main__":
    show(__doc__, losses, steps=300)

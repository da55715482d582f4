"""Rates, not anecdotes: what the gradient check passes of what is wrong, and refuses of what is right.

A corpus of wrong functions and rules (`wrong`), and one of right ones at hostile points (`right`); `python -m
tests.rates` counts. A case draws its numbers, its point included, from a seed; another seed, made of that, is the
check's. Each case says in which modes and at which order its fault is certain to be seen, or which verdicts are no
refusal; every mode is run at every seed.

That the corpus is what it says is tested by tests/test_rates.py without the checker: every fault can be mended by a
switch (`faults.mended`), and the gradients with and without it differ by more than rtol at the same values; right ones,
and mended wrong ones, are held against slopes of values in long doubles (`oracle`), or closed forms and fractions
(`closed`).

What no check at one point can decide, and so is not in the corpus, or in it with the mode or the verdicts that can be
asked for:

- A value frozen at the first call and kept from then on (`memo.setdefault("s", np.sin(x.data))`): values and gradients
  agree on a function that is not the one that was meant. The same of a cache by the identity or the shape of its input.
- A region that the inputs are not in, a branch that is not taken, a batch size, a rank or an attribute that is not used:
  draw inputs.
- A term that is 0 at the point with all derivatives that are checked: x⁴ lost at 0, a second derivative that is wrong, with
  order=1.
- An error below rtol of what is compared. In directional mode that is the slope along one direction: a fault that is
  relatively smaller than rtol among the entries of one input is out of sight there (the small beside the large of one
  input, below 1e-6, is in the corpus for full mode only; in another input, or another output, for both).
- At a kink any gradient between the slopes of both sides is allowed. A choice that is made at each of several ties, each
  within its own bracket and together too large, shows where all of them move together: full mode only.
- Where kinks meet, right rules may make a wrong whole: relu(x) - relu(-x) is x, and its recorded gradient at 0 is 0. "Kink"
  and "wrong" are both true of it; the corpus has only such as have a kink of the function itself there.
- Where the digits are lost in the arithmetic of rule and value alike (1 - y² of a saturated tanh, an inverse at condition
  1e12), the recorded gradient is not the derivative, and the rule is right: "ok" and "precision" are both true of it.
- A rule that fails from the n-th call on, for n beyond the number of calls of a check; one that fails with a small
  probability.
- A fault that is one of a run: threads, memory that is read before it is written, other processes.
- A wrong value. Forward and gradient may agree on the wrong function.
"""


def load() -> None:
    """Fill the corpus."""
    from tests.rates import right, wrong  # noqa: F401

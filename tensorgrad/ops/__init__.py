"""Every operation, by family. `tensorgrad.<name>` is the same function.

In a signature `Operand[T]` is a Tensor, an array, a number or nested lists of numbers, and `T | Array` what comes of them: a
Tensor if one of them is one, an array otherwise.

Dtypes are NumPy's, with these rules, so that no step on the way is too narrow for what comes of it (core/arithmetic.py):

- Before an op whose result is real (exp, sigmoid, softmax, norm, losses, ...) integers and booleans become floating:
  float32 those of up to 16 bits, float64 the others. NumPy takes those of 8 bits to float16. `mean`, `var` and `std` of
  them are float64, as NumPy's; `sum`, `cumsum` and `prod` are of 64 bits. What has a whole result (+, *, neg, abs, @)
  wraps around, as NumPy's.
- float16 and bfloat16 are computed in float32 and rounded once for each op, loss and normalisation; gradients are float32
  on the way from the loss to the leaves, where they are rounded. float16 with bfloat16 is float32.
- A scalar of NumPy's beside a Tensor counts as a Python number, and does not decide the dtype: `x * np.sqrt(2)` is of that
  of x. Arrays and Tensors without axes have a dtype that counts.
- Arrays of the other byte order are converted where they come in.
- `norm`, `std` and normalisations scale, so that squares neither overflow nor vanish.

What the derivative is taken to be at kinks, ties and poles (each row is a test):

| where                    | derivative                                  | because                                     |
| ------------------------ | ------------------------------------------- | ------------------------------------------- |
| relu at 0                | 0                                           | a unit that is off lets nothing through     |
| leaky_relu at 0          | the slope                                   | as at the left                              |
| elu at 0                 | alpha                                       | as at the left                              |
| abs at 0                 | 0                                           | the middle of -1 and 1                      |
| sign anywhere            | 0                                           | a step                                      |
| floor, ceil, round, //   | 0                                           | a step; so is trunc                         |
| a % b                    | 1 for a, -(a // b) for b                    | as between the steps                        |
| clip at a bound          | 1                                           | the bound is inside                         |
| maximum(a, b) of equals  | 1 for a, 0 for b                            | the sum is right, and nothing is halved     |
| minimum(a, b) of equals  | 1 for a, 0 for b                            | as maximum                                  |
| max, min of equals       | 1 for the first, in the order of rows       | as argmax and argmin                        |
| prod with one 0          | the product of the others                   | nothing is divided                          |
| prod with two 0          | 0                                           | as above                                    |
| norm at 0                | 0, and the second one, too                  | the least of all subgradients               |
| std of equals            | 0, and the second one, too                  | as norm                                     |
| hypot at (0, 0)          | 0, and the second one, too                  | as norm                                     |
| arctan2 at (0, 0)        | 0, and the second one, too                  | as hypot                                    |
| x ** 0                   | 0                                           | it is 1 everywhere                          |
| x ** b at 0, b above 1   | 0                                           | b 0^(b-1)                                   |
| 0 ** 0 by both           | 0, and the second ones, too                 | what is taken as 0 is taken as constant     |
| sqrt at 0                | infinite                                    | the limit; NumPy warns                      |
| log at 0                 | infinite                                    | the limit; NumPy warns                      |
| arcsin, arccos at ±1     | infinite; the second one NaN                | the limit; one of infinities subtracted     |
| logsumexp with a +inf    | 1 for +inf, 0 for the others                | the limit                                   |
| what a mask leaves out   | 0, at poles and at NaN, too                 | it has no influence: 0 times infinity is 0  |
| a product of matrices    | 0 times infinity is NaN; conv2d, einsum too | as forward: such sums are left to BLAS      |

At second order it is the derivative of what stands there: 0 of a constant, the slope's own at the side that it is taken from,
the limit at poles and powers (x ** 1.5 has an infinite one at 0). What is chosen at a kink is not seen through by what comes
after it: abs(x) ** 2 and norm(x) ** 2 have 0 for the second derivative at 0, where x * x has 2.
"""

from types import ModuleType as _ModuleType

from tensorgrad.ops.activation import *
from tensorgrad.ops.activation_grad import *
from tensorgrad.ops.assign import *
from tensorgrad.ops.attention import *
from tensorgrad.ops.clip import *
from tensorgrad.ops.compare import *
from tensorgrad.ops.conv import *
from tensorgrad.ops.create import *
from tensorgrad.ops.ctc import *
from tensorgrad.ops.decompose import *
from tensorgrad.ops.device import *
from tensorgrad.ops.elementwise import *
from tensorgrad.ops.exponential import *
from tensorgrad.ops.functions import *
from tensorgrad.ops.index import *
from tensorgrad.ops.linalg import *
from tensorgrad.ops.loss import *
from tensorgrad.ops.order import *
from tensorgrad.ops.pad import *
from tensorgrad.ops.pool import *
from tensorgrad.ops.products import *
from tensorgrad.ops.rearrange import *
from tensorgrad.ops.recurrent import *
from tensorgrad.ops.reduce import *
from tensorgrad.ops.rounding import *
from tensorgrad.ops.running import *
from tensorgrad.ops.shape import *
from tensorgrad.ops.solve import *
from tensorgrad.ops.sparse import *
from tensorgrad.ops.statistics import *
from tensorgrad.ops.trigonometry import *
from tensorgrad.ops.windows import *

# The names that the families give, by their own `__all__`. Type checkers could not follow this, and take all of them anyway
globals()["__all__"] = [n for n, it in globals().items() if not n.startswith("_") and not isinstance(it, _ModuleType)]

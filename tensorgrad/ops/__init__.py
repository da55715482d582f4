"""Every operation, by family. `tensorgrad.<name>` is the same function.

In a signature `Operand[T]` is a Tensor, an array, a number or nested lists of numbers, and `T | Array` the result: a Tensor if
one of them is a Tensor, an array otherwise.

Dtypes follow NumPy's rules, with these exceptions, so that intermediate results fit (core/arithmetic.py):

- Before an op with a real result (exp, sigmoid, softmax, norm, losses, ...) integers and booleans become floating: float32 up
  to 16 bits, float64 above. (NumPy converts 8 bits to float16.) `mean`, `var` and `std` of them are float64, as in NumPy;
  `sum`, `cumsum` and `prod` have 64 bits. Ops with an integer result (+, *, neg, abs, @) wrap around, as in NumPy.
- float16 and bfloat16 are computed in float32 and rounded once per op, loss and normalisation; gradients are float32 from the
  loss to the leaves, where they are rounded. float16 with bfloat16 is float32.
- A NumPy scalar beside a Tensor counts as a Python number, and does not decide the dtype: `x * np.sqrt(2)` has that of x. 0-d
  arrays and Tensors do decide it.
- Arrays of the other byte order are converted on input.
- `norm`, `std` and normalisations scale, so that squares neither overflow nor underflow.

Derivatives at kinks, ties and poles (each row is a test):

| where                    | derivative                                  | because                                     |
| ------------------------ | ------------------------------------------- | ------------------------------------------- |
| relu at 0                | 0                                           | a unit that is off lets nothing through     |
| leaky_relu at 0          | the slope                                   | the derivative from the left                |
| elu at 0                 | alpha                                       | the derivative from the left                |
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
| norm at 0                | 0, and the second one, too                  | the smallest subgradient                    |
| std of equals            | 0, and the second one, too                  | as norm                                     |
| hypot at (0, 0)          | 0, and the second one, too                  | as norm                                     |
| arctan2 at (0, 0)        | 0, and the second one, too                  | as hypot                                    |
| x ** 0                   | 0                                           | it is 1 everywhere                          |
| x ** b at 0, b above 1   | 0                                           | b 0^(b-1)                                   |
| 0 ** 0 by both           | 0, and the second ones, too                 | 0 ** 0 is treated as a constant             |
| sqrt at 0                | infinite                                    | the limit; NumPy warns                      |
| log at 0                 | infinite                                    | the limit; NumPy warns                      |
| arcsin, arccos at ±1     | infinite; the second one NaN                | the limit; infinities are subtracted        |
| logsumexp with a +inf    | 1 for +inf, 0 for the others                | the limit                                   |
| what a mask leaves out   | 0, at poles and at NaN, too                 | it has no influence: 0 times infinity is 0  |
| a product of matrices    | 0 times infinity is NaN; conv2d, einsum too | as forward: such sums are left to BLAS      |

Second derivatives are those of the first: 0 where it is constant, that of the chosen side for slopes, and the limit at poles
and powers (infinite for x ** 1.5 at 0). Operations after a kink do not see through the choice: abs(x) ** 2 and norm(x) ** 2
have the second derivative 0 at 0, where x * x has 2.
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

# Names from the families' `__all__`. Type checkers cannot follow this, and accept any name
globals()["__all__"] = [n for n, it in globals().items() if not n.startswith("_") and not isinstance(it, _ModuleType)]

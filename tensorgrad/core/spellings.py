"""What names of NumPy and PyTorch are called here, for errors about unknown names and keywords.

A line of the tables has names before the arrow, and the replacement after it: Python code in which x, y, z are Tensors, xs is a
list of them, m a Module, o an Optimiser, F is nn.functional, and other names are obvious. ~> marks the nearest equivalent if
none is exact, a colon the reason why there is none. A name that is added later is found before its line is consulted.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import cache
from typing import Any

# Functions and methods of Tensor
ARRAYS = """
absolute fabs -> x.abs()
negative -> -x
positive -> +x
divide true_divide -> x / y
floor_divide -> x // y
multiply -> x * y
subtract -> x - y
rsub -> y - x
remainder -> x % y
divmod -> (x // y, x % y)
fmod -> x - (x / y).trunc() * y
pow float_power -> x ** y
eq -> x == y
ne -> x != y
lt -> x < y
le -> x <= y
gt -> x > y
ge -> x >= y
invert bitwise_not bitwise_invert -> ~x
bitwise_left_shift -> x << y
bitwise_right_shift -> x >> y
acos -> x.arccos()
asin -> x.arcsin()
atan -> x.arctan()
atan2 -> x.arctan2(y)
acosh arccosh -> tensorgrad.log(x + tensorgrad.sqrt(x * x - 1))
asinh arcsinh -> tensorgrad.log(x + tensorgrad.sqrt(x * x + 1))
atanh arctanh -> tensorgrad.log((1 + x) / (1 - x)) / 2
exp2 -> 2.0 ** x
cbrt -> x.sign() * x.abs() ** (1 / 3)
rsqrt -> 1 / x.sqrt()
sgn -> x.sign()
fix -> x.trunc()
rint around -> x.round()
frac -> x - x.trunc()
modf -> (x - x.trunc(), x.trunc())
deg2rad radians -> x * (np.pi / 180)
rad2deg degrees -> x * (180 / np.pi)
erfc -> 1 - x.erf()
expit -> x.sigmoid()
logit -> tensorgrad.log(x / (1 - x))
xlogy -> x * y.log()
sinc -> tensorgrad.where(x == 0, 1, tensorgrad.sin(np.pi * x) / (np.pi * x))
logaddexp2 -> tensorgrad.log2(2.0 ** x + 2.0 ** y)
ldexp -> x * 2.0 ** y
copysign -> x.abs() * y.sign()
signbit -> x < 0
heaviside -> tensorgrad.where(x == 0, y, x > 0)
fmax -> x.maximum(y)
fmin -> x.minimum(y)
lerp -> x + weight * (y - x)
clamp -> x.clip(low, high)
clamp_min -> x.clip(low)
clamp_max -> x.clip(None, high)
isinf -> x.abs() == np.inf
isposinf -> x == np.inf
isneginf -> x == -np.inf

addmm addmv -> x + y @ z
addbmm -> x + (y @ z).sum(axis=0)
baddbmm -> x + y @ z
addr -> x + tensorgrad.outer(y, z)
addcmul -> x + value * y * z
addcdiv -> x + value * y / z
bmm mm mv matvec vecmat multi_dot chain_matmul -> x @ y
ger -> tensorgrad.outer(x, y)
inner -> tensorgrad.tensordot(x, y, ([-1], [-1]))
vdot vecdot -> (x * y).sum(axis=-1)
dist -> (x - y).norm()
cdist pdist -> (x[:, None] - y).norm(axis=-1)
matrix_power ~> x @ x
inverse -> x.inv()
inv_ex -> x.inv()
cholesky_ex -> x.cholesky()
pinverse -> tensorgrad.pinv(x)
logdet -> tensorgrad.slogdet(x).logabsdet
svdvals -> tensorgrad.svd(x).S
eigvalsh -> tensorgrad.eigh(x).eigenvalues
cond -> x.norm() * x.inv().norm()
lstsq -> tensorgrad.pinv(x) @ y
solve_ex solve_triangular triangular_solve -> tensorgrad.solve(x, y)
cholesky_solve -> tensorgrad.solve(z @ z.T, x)
cholesky_inverse -> tensorgrad.inv(x @ x.T)
tensorsolve -> tensorgrad.solve(x.reshape((n, n)), y)
tensorinv -> x.reshape((n, n)).inv()
vector_norm matrix_norm frobenius_norm -> x.norm(axis)
nuclear_norm -> tensorgrad.svd(x).S.sum()
renorm -> x * (high / x.norm(axis, keepdims=True)).clip(None, 1)

view view_as reshape_as resize resize_as ravel unflatten -> x.reshape(shape)
unsqueeze -> x.expand_dims(axis)
expand expand_as broadcast_tensors broadcast_arrays -> x.broadcast_to(shape)
sum_to_size -> tensorgrad.sum_to(x, shape)
atleast_1d -> x.reshape((-1,)) if x.ndim < 1 else x
atleast_2d -> x.reshape((1, -1)) if x.ndim < 2 else x
atleast_3d -> x.reshape((1, -1, 1)) if x.ndim < 2 else x[..., None]
t -> x.T
mT mH H adjoint matrix_transpose -> x.swapaxes(-1, -2)
swapdims -> x.swapaxes(axis1, axis2)
permute_dims -> x.transpose(axes)
permute -> x.transpose(axes)
movedim rollaxis -> x.moveaxis(source, destination)
fliplr -> x.flip(1)
flipud -> x.flip(0)
rot90 -> x.swapaxes(0, 1).flip(0)
cat concat -> tensorgrad.concatenate(xs, axis)
append insert -> tensorgrad.concatenate([x, y], axis)
delete -> tensorgrad.concatenate([x[:i], x[i + 1:]])
dstack -> tensorgrad.stack(xs, axis=-1)
row_stack -> tensorgrad.vstack(xs)
chunk array_split tensor_split unsafe_chunk -> x.split(n, axis)
split_with_sizes unsafe_split unsafe_split_with_sizes -> x.split(np.cumsum(sizes)[:-1], axis)
hsplit -> x.split(n, 1)
vsplit -> x.split(n, 0)
dsplit -> x.split(n, 2)
unbind unstack -> tuple(x.moveaxis(axis, 0))
repeat_interleave -> x.repeat(n, axis)
diag_embed -> tensorgrad.diag(x)
diagflat -> tensorgrad.diag(x.flatten())
tri -> tensorgrad.ones((n, n)).tril()
block_diag ~> tensorgrad.kron(tensorgrad.eye(n), x)
unfold ~> tensorgrad.windows(x, kernel, stride, padding)
vander ~> x[:, None] ** tensorgrad.arange(n)

gather take_along_dim -> x.take_along_axis(indices, axis)
index_select select -> x.take(indices, axis)
narrow -> x[start:stop]
masked_select compress extract -> x[mask]
masked_fill -> tensorgrad.where(mask, value, x)
putmask copyto place masked_scatter -> tensorgrad.setitem(x, value, mask)
index_fill index_copy index_put put_along_axis scatter select_scatter slice_scatter -> tensorgrad.setitem(x, y, index)
diagonal_scatter fill_diagonal -> tensorgrad.setitem(x, y, (i, i))
as_strided_scatter -> tensorgrad.setitem(x, y, index)
index_add scatter_add -> x + tensorgrad.put(y, index, x.shape)
choose -> tensorgrad.where(x == 0, y, z)
msort -> x.sort(0)
partition -> x.sort(axis)
argpartition -> x.argsort(axis)
kthvalue -> x.sort(axis)[..., k - 1]
percentile -> x.quantile(p / 100, axis)
aminmax -> (x.min(axis), x.max(axis))
std_mean -> (x.std(axis), x.mean(axis))
var_mean -> (x.var(axis), x.mean(axis))
count_nonzero -> (x != 0).sum(axis)
cumulative_sum -> x.cumsum(axis)
cumulative_prod -> x.cumprod(axis)
trapezoid trapz -> ((y[1:] + y[:-1]) / 2 * x.diff()).sum()
cumulative_trapezoid -> ((y[1:] + y[:-1]) / 2 * x.diff()).cumsum()
gradient ~> (x[2:] - x[:-2]) / 2
ediff1d -> x.flatten().diff()
cov -> (x - x.mean(1, True)) @ (x - x.mean(1, True)).T / (x.shape[1] - 1)
corrcoef -> ((x - x.mean(1, True)) / x.std(1, 0, True)) @ ((x - x.mean(1, True)) / x.std(1, 0, True)).T / x.shape[1]
nansum nanprod nancumsum nancumprod -> tensorgrad.where(x.isnan(), 0, x).sum(axis)
nanmean nanmedian nanvar nanstd nanquantile nanpercentile -> x[~x.isnan()].mean()
nanmax nanargmax -> tensorgrad.where(x.isnan(), -np.inf, x).max(axis)
nanmin nanargmin -> tensorgrad.where(x.isnan(), np.inf, x).min(axis)
convolve correlate ~> F.conv2d(x, y)
constant_pad_nd -> x.pad(width, value)

clone copy -> x * 1
detach_copy -> x.detach() * 1
numel nelement -> x.size
dim ndimension -> x.ndim
nbytes -> x.size * x.dtype.itemsize
element_size itemsize -> x.dtype.itemsize
is_floating_point -> x.dtype.kind == "f"
is_signed -> x.dtype.kind != "u"
is_nonzero -> bool(x)
is_same_size -> x.shape == y.shape
is_tensor isreal isrealobj -> isinstance(x, tensorgrad.Tensor)
is_cuda is_cpu get_device -> x.device
float -> x.to("float32")
double -> x.to("float64")
half -> x.to("float16")
bfloat16 -> x.to("bfloat16")
int -> x.to("int32")
long -> x.to("int64")
short -> x.to("int16")
char -> x.to("int8")
byte -> x.to("uint8")
bool -> x.to("bool")
type -> x.to(dtype)
type_as -> x.to(y)
to_dense contiguous resolve_conj resolve_neg conj conjugate conj_physical real -> x
grad_fn -> x.node
requires_grad_check -> x.requires_grad
retains_grad -> x.retain_grad()
register_post_accumulate_grad_hook -> x.register_hook(hook)
new_zeros -> tensorgrad.zeros(shape, x.dtype)
new_ones -> tensorgrad.ones(shape, x.dtype)
new_full -> tensorgrad.full(shape, value, x.dtype)
new_empty new_empty_strided -> tensorgrad.zeros(shape, x.dtype)
new_tensor new -> tensorgrad.Tensor(numbers, dtype=x.dtype)
fill -> tensorgrad.full_like(x, value)
tensor as_tensor asarray array asanyarray scalar_tensor from_numpy frombuffer -> tensorgrad.Tensor(numbers)
empty empty_permuted empty_strided -> tensorgrad.zeros(shape)
empty_like -> tensorgrad.zeros_like(x)
identity -> tensorgrad.eye(n)
range -> tensorgrad.arange(start, stop)
logspace geomspace -> 10.0 ** tensorgrad.linspace(start, stop, num)
rand_like -> tensorgrad.rand(x.shape)
randn_like -> tensorgrad.randn(x.shape)
normal -> mean + std * tensorgrad.randn(shape)
bernoulli -> tensorgrad.rand(x.shape) < x
randint randint_like -> np.random.default_rng().integers(low, high, shape)
randperm -> np.random.default_rng().permutation(n)
multinomial -> np.random.default_rng().choice(n, size, p=p)
poisson binomial -> np.random.default_rng().poisson(mean, shape)
initial_seed set_rng_state get_rng_state -> tensorgrad.manual_seed(seed)
enable_grad inference_mode set_grad_enabled -> tensorgrad.no_grad()
set_anomaly_enabled -> tensorgrad.detect_anomaly()
get_float32_matmul_precision -> tensorgrad.get_matmul_precision()
set_float32_matmul_precision -> tensorgrad.set_matmul_precision(precision)
save savez savez_compressed -> np.savez(path, **m.state_dict())
load -> m.load_state_dict(np.load(path))
apply_along_axis apply_over_axes frompyfunc piecewise ~> tensorgrad.where(mask, x, y)
"""

# Whole modules, whose contents are elsewhere
PLACES = """
fft -> np.fft.rfft(x.detach().numpy())
random -> tensorgrad.manual_seed(seed)
cuda -> x.to("cuda")
autocast amp ~> m.to(dtype="float16")
utils -> np.asarray(x.detach())
"""

INTEROP = """
load_torch_state_dict -> model.load_state_dict(values, layout="torch")
"""

MODULES = """
RReLU ~> F.leaky_relu(x, slope)
Softmax2d -> F.softmax(x, axis=1)
SyncBatchNorm ~> nn.BatchNorm2d(features)
LocalResponseNorm CrossMapLRN2d ~> F.layer_norm(x, shape)
LPPool1d LPPool2d LPPool3d -> x.mean((2, 3), keepdims=True)
FractionalMaxPool2d FractionalMaxPool3d MaxUnpool1d MaxUnpool2d MaxUnpool3d ~> nn.MaxPool2d(2)
Dropout3d FeatureAlphaDropout ~> nn.Dropout(p)
ChannelShuffle -> x.reshape((n, groups, c, -1)).swapaxes(1, 2).reshape(shape)
Unfold -> tensorgrad.windows(x, kernel, stride, padding)
Fold -> tensorgrad.fold(x, size, stride, padding)
UpsamplingNearest2d UpsamplingBilinear2d -> nn.Upsample(size, mode=mode)
Bilinear -> tensorgrad.einsum("ni,oij,nj->no", x, w, y)
MultiLabelSoftMarginLoss ~> nn.BCEWithLogitsLoss()
NLLLoss2d -> nn.NLLLoss()
LinearCrossEntropyLoss AdaptiveLogSoftmaxWithLoss ~> nn.CrossEntropyLoss()
MultiLabelMarginLoss -> F.relu(margin - y * x).mean()
TripletMarginWithDistanceLoss -> F.relu((x - y).norm(-1) - (x - z).norm(-1) + margin).mean()
Transformer ~> nn.TransformerEncoder(layer, n)
"""

# Unknown functions of nn.functional are looked up as modules or as array functions; the others are listed here
FUNCTIONAL = """
gumbel_softmax -> F.softmax((x - (-tensorgrad.rand(x.shape).log()).log()) / temperature)
upsample upsample_nearest upsample_bilinear -> F.interpolate(x, size, mode=mode)
multi_head_attention_forward -> nn.MultiheadAttention(dim, heads)
lp_pool1d lp_pool2d lp_pool3d ~> F.avg_pool2d(x ** p, kernel) ** (1 / p)
feature_alpha_dropout dropout3d ~> F.dropout(x, p)
linear_cross_entropy -> F.cross_entropy(x @ w, labels)
conv_tbc ~> F.conv2d(x, w)
grouped_mm scaled_mm scaled_grouped_mm -> x @ y
"""

OPTIM = """
Optimizer -> optim.Optimiser
NAdam RAdam Adamax SparseAdam Adafactor Muon ~> optim.Adam(params, lr=lr)
Adadelta Rprop ~> optim.RMSprop(params, lr=lr)
ASGD ~> optim.SGD(params, lr=lr)
CosineAnnealingLR -> optim.CosineLR(o, epochs)
ReduceLROnPlateau -> optim.ReduceOnPlateau(o)
LRScheduler -> optim.Schedule
ConstantLR LinearLR PolynomialLR MultiplicativeLR CyclicLR -> optim.LambdaLR(o, f)
ChainedScheduler SequentialLR ~> optim.Warmup(o, schedule, epochs)
lr_scheduler -> optim.StepLR(o, epochs)
swa_utils ~> m.state_dict()
"""

# Reasons why a name does not exist, by pattern; the first match counts
FAMILIES = """
linalg : its functions are in the package itself: `tensorgrad.inv(x)`
*_ : no method changes a Tensor in place; write `x[...] = value` or `x += y`, inside no_grad() if x is a leaf
*complex* *_as_real *_conj *_imag imag angle polar istft stft cdouble cfloat chalf : there are no complex numbers
*sparse* *_indices *spmm *spaddmm smm dsmm saddmm coalesce is_coalesced crow* ccol* values dense_dim : there are no sparse \
Tensors; a SciPy sparse matrix can be multiplied by a Tensor, `a @ x`; otherwise use a dense one, or x[rows] and \
`tensorgrad.put(y, rows, shape)`
*quant* q_* qscheme int_repr fbgemm* : there are no quantised Tensors
*autocast* GradScaler : there is no autocast; write `m.to(dtype="float16")`
float? float?? float??? bfloat?? int? int?? uint? uint?? single uint intp : a dtype is NumPy's: np.float32, or "float32"
*mkldnn* *miopen* *cudnn* is_ipu is_maia is_meta is_mps is_mtia is_vulkan is_xla is_xpu ipu mtia xpu cpp* : devices are \
"cpu" and "cuda"
*_copy as_strided* as_subclass alias* *storage* is_set_to *data_ptr stride strides flags flat base ctypes *contiguous* \
dim_order byteswap setflags getfield setfield record_stream pin_memory is_pinned *share* *memory* layout is_inference is_neg \
is_nested is_distributed is_conj hash_tensor : the memory layout of a Tensor is internal; its array is x.data
*gamma* i0 erfinv *bessel* zeta nextafter frexp spacing gcd lcm bitwise_count : there is no such function; use NumPy or \
scipy.special on `x.detach().numpy()`
lu lu_* ldl* *qrf orgqr ormqr householder* lobpcg eig eigvals symeig matrix_exp matrix_rank : there is no such \
decomposition; qr, svd, eigh, cholesky, inv and solve are there
hist* bin* unique* digit* bucket* search* *nonzero* argwhere isin isclose allclose equal* array_equ* setdiff* setxor* union* \
intersect* lexsort mode unravel* ravel_multi* tri?_indices* diag_indices* mask_indices ix_ indices packbits \
unpackbits interp poly* roots select trim_zeros unwrap block bmat require combinations cartesian* einsum_path sort_complex \
broadcast_shapes isscalar iscomplex* isfortran isnat real_if* mintype* min_scalar* *window bartlett blackman hamming hanning \
kaiser index tril_* triu_* : it has no gradient; use NumPy on `x.detach().numpy()`
from* gen* load* save* tofile tobytes tostring itemset newbyteorder dump* array*str* array*repr* array2string base_repr \
binary_repr *format_float* memmap \
*print* info show_* test nested_iters nditer vectorize get_include *bufsize *errcall geterr seterr *busday* datetime* : it \
is for arrays, files and text; use NumPy on `x.detach().numpy()`
is_* set_* get_* use_* are_* init_* can_cast *_type *_types *dtype typename finfo iinfo shape size ndim device iterable \
asmatrix asarray_chkfinite asfortranarray : there is no such setting or query; a dtype is NumPy's, a device "cpu" or \
"cuda"
sym_* script* jit* trace_* vmap fork wait export* *Script* *Storage *Type *Tensor *Error to_mkldnn to_padded_tensor \
to_device module_load parse_* import_ir* merge_type* unify_type* Lazy* Uninitialized* DataParallel Distributed* RNNBase \
RNNCellBase Container Buffer* *Options ScalingType SwizzleType *torch_function* boolean_dispatch assert_* : it is \
internal to PyTorch and has no counterpart
grid_sample* affine_grid* rrelu *lstm* *gru* *rnn* local_response* embedding_bag *reduce norm_except_dim \
native_* max_unpool* fractional* : there is no counterpart
"""

# Keywords of others to ours, the first that the function accepts
KEYWORDS = """
dim axis axes start_axis
keepdim keepdims
dims axis axes
start_dim start_axis
end_dim end_axis
axes axis
dim0 axis1
dim1 axis2
axis axes
min low
max high
a_min low
a_max high
min_val low
max_val high
unbiased ddof
correction ddof
size shape
newshape shape
sections n
fill_value value
pad_width width
constant_values value
num_classes classes
kernel_size kernel
num_samples num
steps num
end stop
learning_rate lr
step_size every
T_max epochs
T_0 first
T_mult factor
eta_min end
generator rng
"""


@cache
def table(text: str) -> dict[str, str]:
    """Name to its replacement, with "->" if it is equivalent and "~>" if not."""
    replacements: dict[str, str] = {}
    for line in text.strip().replace("\\\n", "").splitlines():
        names, arrow, answer = line.partition(" -> ") if " -> " in line else line.partition(" ~> ")
        replacements |= dict.fromkeys(names.split(), f"{arrow.strip()} {answer}")
    return replacements


@cache
def families() -> list[tuple[list[str], str]]:
    """Glob patterns of names, and the reason why they do not exist."""
    lines = FAMILIES.strip().replace("\\\n", "").splitlines()
    return [(names.split(), reason) for names, _, reason in (line.partition(" : ") for line in lines)]


@cache
def keywords() -> dict[str, list[str]]:
    return {name: names for name, *names in (line.split() for line in KEYWORDS.strip().splitlines())}


# For each place where a name is looked up, the tables to search, in order
TABLES = {
    "Tensor": (ARRAYS,),
    "tensorgrad": (ARRAYS, PLACES, FUNCTIONAL),
    "tensorgrad.interop": (INTEROP,),
    "tensorgrad.nn": (MODULES,),
    "tensorgrad.nn.functional": (FUNCTIONAL, ARRAYS),
    "tensorgrad.optim": (OPTIM,),
}


def answer(where: str, name: str) -> str:
    """The replacement of a name, or the reason why there is none; "" for an unknown name."""
    if replacement := in_other_module(where, name):
        return f"write {replacement}"
    if replacement := entry(where, name):
        arrow, text = replacement.split(" ", 1)
        return f"write {text}" if arrow == "->" else f"there is none; the nearest is {text}"
    return next((reason for patterns, reason in families() if any(fnmatchcase(name, pattern) for pattern in patterns)), "")


def in_other_module(where: str, name: str) -> str:
    """The same name elsewhere: a function for a method, a method for a function."""
    package = sys.modules["tensorgrad"]
    modules = {
        "tensorgrad": package,
        "F": sys.modules.get("tensorgrad.nn.functional"),
        "nn": sys.modules.get("tensorgrad.nn"),
        "optim": sys.modules.get("tensorgrad.optim"),
    }
    if name in vars(package.errors):
        return f"tensorgrad.errors.{name}"
    for prefix, module in modules.items():
        if module is not None and where != module.__name__ and name in module.__all__:
            return f"{prefix}.{name}" + (
                "(x, ...)" if callable(getattr(module, name)) and prefix in ("tensorgrad", "F") else ""
            )
    if where in ("tensorgrad", "tensorgrad.nn.functional") and not name.startswith("_"):
        member = inspect.getattr_static(package.Tensor, name, None)
        if callable(member):
            return f"x.{name}(...)"
        if member is not None:
            return f"x.{name}"
    return ""


def entry(where: str, name: str) -> str:
    """The entry of the tables."""
    for text in TABLES[where]:
        if name in table(text):
            return table(text)[name]
    lowercase = name.replace("_", "").lower()  # PyTorch names a function like its module, in another case
    return next((text for module, text in table(MODULES).items() if module.lower() in (lowercase, f"{lowercase}loss")), "")


def missing(where: str, name: str, owner: Any) -> AttributeError:
    """The error for an unknown name of a module or a Tensor."""
    text = "'Tensor' object" if where == "Tensor" else f"module {where!r}"
    hint = answer(where, name)
    return AttributeError(f"{text} has no attribute {name!r}{f'; {hint}' if hint else ''}", name=name, obj=owner)


def keyword(function: Callable[..., Any], error: TypeError) -> str:
    """For Python's error about an unknown keyword, its name here; "" if unknown."""
    match = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    if match is None:
        return ""
    parameters = inspect.signature(function).parameters
    our_name = next((name for name in keywords().get(match[1], ()) if name in parameters), "")
    if match[1] == "out":
        return "; results are not written into an existing array: use the returned one"
    return f"; write {our_name}=" if our_name else ""

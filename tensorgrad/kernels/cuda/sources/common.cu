// What generated and hand-written kernels share. No header is included, so that NVRTC needs none.

__device__ float infinity() { return __int_as_float(0x7f800000); }
__device__ float not_a_number() { return __int_as_float(0x7fc00000); }

// The quotient rounded down, as NumPy has it: 0 for a whole number over 0.
template <class T> __device__ T floor_divide(T a, T b)
{
    if constexpr (T(0.5) == T(0)) {
        if (b == 0) return 0;
        if (T(-1) < T(0) && b == T(-1)) return T(0ull - (unsigned long long)a);  // the smallest number has no opposite
        return a / b - (a % b != 0 && (a < 0) != (b < 0));
    } else {
        const T rest = fmod(a, b);
        if (b == 0) return a / b;
        T quotient = (a - rest) / b;
        if (rest != 0 && (b < 0) != (rest < 0)) quotient -= 1;
        if (quotient == 0) return copysign(T(0), a / b);
        const T whole = floor(quotient);
        return quotient - whole > T(0.5) ? whole + 1 : whole;
    }
}

// The remainder with the sign of b, as NumPy has it: 0 for a whole number over 0.
template <class T> __device__ T remainder_down(T a, T b)
{
    if constexpr (T(0.5) == T(0)) {
        if (b == 0 || (T(-1) < T(0) && b == T(-1))) return 0;
        const T rest = a % b;
        return rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest;
    } else {
        const T rest = fmod(a, b);
        if (b == 0) return rest;
        if (rest == 0) return copysign(T(0), b);
        return (b < 0) != (rest < 0) ? rest + b : rest;
    }
}

// log(e^a + e^b)
template <class T> __device__ T logaddexp(T a, T b)
{
    if (a == b) return a + T(0.693147180559945309);  // of two infinities too
    const T d = a - b;
    return d > 0 ? a + log1p(exp(-d)) : d <= 0 ? b + log1p(exp(d)) : d;
}

// The sum of `value` over the threads of a block that have the same threadIdx.x, known to the first of them (threadIdx.y = 0).
// The order in which it is added up depends on the shape of the block alone. space: as many as the block has threads.
template <class T> __device__ T column_total(T value, T* space)
{
    const unsigned int t = threadIdx.y * blockDim.x + threadIdx.x;
    space[t] = value;
    for (unsigned int count = blockDim.y; count > 1;) {
        const unsigned int half = (count + 1) / 2;
        __syncthreads();
        if (threadIdx.y < count - half) space[t] += space[t + half * blockDim.x];
        count = half;
    }
    const T total = space[t];
    __syncthreads();  // space may be written to again
    return total;
}

// `value` of each thread and of those whose lanes differ from its own by less than `count`, a power of two, combined.
template <class T, class Combine> __device__ T lanes_result(T value, unsigned int count, Combine combine)
{
    for (unsigned int apart = count / 2; apart > 0; apart /= 2) {
        value = combine(value, __shfl_xor_sync(0xffffffffu, value, apart));
    }
    return value;
}

// The sum, or the largest, of `value` over a row of threads (all of the same threadIdx.y), known to each of them. blockDim.x is
// a power of two: up to 32 threads lie within a warp, 64 to 1024 are warps of their own. space: as many as the block has warps.
template <class T, class Combine> __device__ T row_result(T value, T* space, Combine combine)
{
    if (blockDim.x <= 32) return lanes_result(value, blockDim.x, combine);
    const unsigned int warps = blockDim.x / 32, first = threadIdx.y * warps, lane = threadIdx.x % 32;
    value = lanes_result(value, 32, combine);
    if (lane == 0) space[first + threadIdx.x / 32] = value;
    __syncthreads();
    value = space[first + lane % warps];  // so that neighbouring lanes, as many as there are warps, have all of them
    __syncthreads();  // space may be written to again
    return lanes_result(value, warps, combine);
}

template <class T> __device__ T row_total(T value, T* space)
{
    return row_result(value, space, [](T a, T b) { return a + b; });
}

template <class T> __device__ T row_largest(T value, T* space)
{
    return row_result(value, space, [](T a, T b) { return b > a ? b : a; });
}

// Whether this block is the last of `count` blocks to get here. If so it can read what the others wrote before they did.
// arrived: 0 before the first block gets here and after the last one has.
__device__ bool last_block(unsigned int* arrived, unsigned int count)
{
    __shared__ bool last;
    __threadfence();  // what this thread wrote comes before
    __syncthreads();
    if (threadIdx.x == 0 && threadIdx.y == 0) {
        last = atomicInc(arrived, count - 1) == count - 1;
        __threadfence();
    }
    __syncthreads();
    return last;
}

// A multilayer perceptron with its loss and all gradients in one pass over the samples. What the layers make of a tile of ROWS
// samples stays in shared memory, their gradients in registers; weights come from the first-level cache.
//
// Numbers lie in fours, which one instruction reads: a row of n of them has room for wide(n), with zeros behind the n.
struct alignas(16) Four {
    float v[4];
};

__device__ constexpr int fours(int n) { return (n + 3) / 4; }
__device__ constexpr int wide(int n) { return 4 * fours(n) + 4; }  // four more, so that rows begin in different banks

// threadIdx.x, as a number that the compiler does not know: what depends on it is computed where it is used, not kept in
// registers for all of the samples.
__device__ int thread()
{
    int found = threadIdx.x;
    asm volatile("" : "+r"(found));
    return found;
}

// Of weights w (K, N) copies (4 fours(K), 4 fours(N)) with zeros, and where `turned` is not null, (4 fours(N), 4 fours(K)).
template <int K, int N> __device__ void pad(const float* __restrict__ w, float* padded, float* turned)
{
    constexpr int high = 4 * fours(K), across = 4 * fours(N);
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < high * across; i += gridDim.x * blockDim.x) {
        const int row = i / across, column = i % across;
        const float value = row < K && column < N ? w[row * N + column] : 0;
        padded[i] = value;
        if (turned) turned[column * high + row] = value;
    }
}

// out = finish(a w), zeros behind it: a (ROWS, K) and out (ROWS, N) in shared memory, w padded. A thread has 2 rows, 4 columns.
template <int K, int N, class Finish> __device__ void product(const float* a, const float* __restrict__ w, float* out, Finish finish)
{
    constexpr int across = fours(N);
    for (int tile = thread(); tile < ROWS / 2 * across; tile += THREADS) {
        const int row = tile / across * 2, column = tile % across * 4;
        float sums[2][4] = {};
        #pragma unroll 1
        for (int k = 0; k < 4 * fours(K); k += 4) {
            const Four first = *(const Four*)&a[row * wide(K) + k], second = *(const Four*)&a[(row + 1) * wide(K) + k];
            #pragma unroll
            for (int s = 0; s < 4; s++) {
                const Four right = *(const Four*)&w[(k + s) * 4 * across + column];
                #pragma unroll
                for (int c = 0; c < 4; c++) {
                    sums[0][c] += first.v[s] * right.v[c];
                    sums[1][c] += second.v[s] * right.v[c];
                }
            }
        }
        #pragma unroll
        for (int r = 0; r < 2; r++) {
            #pragma unroll
            for (int c = 0; c < 4; c++) {
                float* to = &out[(row + r) * wide(N) + column + c];
                *to = column + c < N ? finish(sums[r][c], column + c, *to) : 0;
            }
        }
    }
}

// The gradients of a layer's weights (K, N) and biases (N), as far as a thread has them: squares of 4 x 4 weights.
template <int K, int N> struct Gradient {
    static constexpr int squares = fours(K) * fours(N), each = (squares + THREADS - 1) / THREADS;
    float weights[each][4][4] = {}, bias = 0;
};

// Add aᵀ d, and the sums of d: a (ROWS, K) what the layer was given, d (ROWS, N) the gradient of what it made.
template <int K, int N> __device__ void add(Gradient<K, N>& to, const float* a, const float* d)
{
    const int mine = thread();
    #pragma unroll
    for (int e = 0; e < to.each; e++) {
        const int square = mine + e * THREADS, row = square / fours(N) * 4, column = square % fours(N) * 4;
        if (square < to.squares) {
            #pragma unroll 2
            for (int r = 0; r < ROWS; r++) {
                const Four left = *(const Four*)&a[r * wide(K) + row], right = *(const Four*)&d[r * wide(N) + column];
                #pragma unroll
                for (int i = 0; i < 4; i++) {
                    #pragma unroll
                    for (int j = 0; j < 4; j++) to.weights[e][i][j] += left.v[i] * right.v[j];
                }
            }
        }
    }
    if (mine < N) {
        #pragma unroll 4
        for (int r = 0; r < ROWS; r++) to.bias += d[r * wide(N) + mine];
    }
}

// Write it to `to`: weights row after row, then biases.
template <int K, int N> __device__ void write(const Gradient<K, N>& from, float* to)
{
    const int mine = thread();
    #pragma unroll
    for (int e = 0; e < from.each; e++) {
        const int square = mine + e * THREADS, row = square / fours(N) * 4, column = square % fours(N) * 4;
        #pragma unroll
        for (int i = 0; i < 4; i++) {
            #pragma unroll
            for (int j = 0; j < 4; j++) {
                if (row + i < K && column + j < N) to[(row + i) * N + column + j] = from.weights[e][i][j];
            }
        }
    }
    if (mine < N) to[K * N + mine] = from.bias;
}

// Scores z (ROWS, N) of samples from `first` on become g / samples (softmax(z) - one_hot(t)); returns a thread's share of the
// sum of losses. THREADS / ROWS threads, at most a warp, have a row. Of labels as in softmax_cross_entropy.
template <int N> __device__ float cross_entropy(float* z, const Label* t, float factor, int first, int rows, int* fault)
{
    constexpr int count = THREADS / ROWS;
    const int mine = thread(), row = mine / count, lane = mine % count;
    float* at = z + row * wide(N);
    const bool inside = first + row < rows;
    const long long label = inside ? (long long)t[first + row] : 0;
    const bool known = label >= 0 && label < N;
    float top = -infinity(), mass = 0, picked = 0;
    #pragma unroll 2
    for (int k = lane; k < N; k += count) top = at[k] > top ? at[k] : top;
    top = lanes_result(top, count, [](float a, float b) { return b > a ? b : a; });
    #pragma unroll 2
    for (int k = lane; k < N; k += count) {
        const float shifted = at[k] - top;
        mass += exp(shifted);
        if (k == label) picked = shifted;
    }
    mass = lanes_result(mass, count, [](float a, float b) { return a + b; });
    picked = lanes_result(picked, count, [](float a, float b) { return a + b; });
    if (inside && !known && lane == 0) atomicMax(fault, first + row + 1);
    const float share = known ? factor / mass : not_a_number();
    #pragma unroll 2
    for (int k = lane; k < N; k += count) {
        at[k] = inside ? exp(at[k] - top) * share - (k == label ? factor : 0) : 0;
    }
    if (!inside || lane) return 0;
    return known ? log(mass) - picked : not_a_number();
}

// Samples from `first` on, zeros beyond the last: x (rows, N) to `to` (ROWS, N) in shared memory.
template <int N> __device__ void load(const float* __restrict__ x, int first, int rows, float* to)
{
    #pragma unroll 2
    for (int i = thread(); i < ROWS * 4 * fours(N); i += THREADS) {
        const int row = i / (4 * fours(N)), column = i % (4 * fours(N));
        to[row * wide(N) + column] = first + row < rows && column < N ? x[(size_t)(first + row) * N + column] : 0;
    }
}

// The sum of each of `count` columns of partial (parts, count), in the same order each time, known to the first thread of each;
// block (32, h) has 32 of them.
__device__ float total_of(const float* __restrict__ partial, int parts, int count, int column)
{
    __shared__ float space[512];
    float total = 0;
    if (column < count) {
        #pragma unroll 4
        for (int part = threadIdx.y; part < parts; part += blockDim.y) total += partial[(size_t)part * count + column];
    }
    return column_total(total, space);
}

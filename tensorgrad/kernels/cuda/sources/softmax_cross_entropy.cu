// loss = -1/samples sum log softmax(z)[i, t_i],   dz = g (softmax(z) - one_hot(t)) / samples
//
// z and dz (rows, classes), which may be the same memory;  t (rows) class indices;  g () and loss () numbers.
// A label that is no class makes its row of dz and the loss NaN, and leaves 1 + its row in `fault` (of several the last row's).
//
// Block (w, h): w threads side by side do a row, h rows at a time; w is a power of two, w h a multiple of 32 up to
// 1024. partial: as many as there are blocks.
extern "C" __global__ __launch_bounds__(1024, 1) void softmax_cross_entropy(
    const Real* z, const Label* __restrict__ t, const Real* __restrict__ g, Real* loss, Real* dz, int* fault,
    Real samples, int rows, int classes, Real* partial, unsigned int* arrived)
{
    __shared__ Real space[1024];
    const Real factor = *g / samples;
    Real total = 0;
    // all threads of a block go round equally often, because they meet inside
    for (int first = blockIdx.x * blockDim.y; first < rows; first += gridDim.x * blockDim.y) {
        const int row = first + threadIdx.y;
        const int stop = row < rows ? classes : 0;
        const long long given = row < rows ? (long long)t[row] : 0;
        const bool known = given >= 0 && given < classes;
        const int label = known ? (int)given : -1;  // one register less than as it came, which would be one too many
        const Real* from = z + (size_t)row * classes;
        Real* to = dz + (size_t)row * classes;
        Real top = -infinity();
        #pragma unroll 4
        for (int k = threadIdx.x; k < stop; k += blockDim.x) top = from[k] > top ? from[k] : top;
        top = row_largest(top, space);
        Real mass = 0, picked = 0;
        #pragma unroll 4
        for (int k = threadIdx.x; k < stop; k += blockDim.x) {
            const Real shifted = from[k] - top;
            mass += exp(shifted);  // a NaN among the scores, or no finite one, makes it NaN, and with it the row
            if (k == label) picked = shifted;
        }
        mass = row_total(mass, space);
        picked = row_total(picked, space);
        if (row < rows) {
            total += known ? log(mass) - picked : Real(not_a_number());
            if (!known) atomicMax(fault, row + 1);
        }
        const Real share = known ? factor / mass : Real(not_a_number());
        #pragma unroll 4
        for (int k = threadIdx.x; k < stop; k += blockDim.x) to[k] = exp(from[k] - top) * share - (k == label ? factor : Real(0));
    }
    const unsigned int thread = threadIdx.y * blockDim.x + threadIdx.x;
    total = column_total(total, space);
    if (gridDim.x > 1) {
        if (thread == 0) partial[blockIdx.x] = total;
        if (!last_block(arrived, gridDim.x)) return;
        total = 0;
        for (unsigned int b = thread; b < gridDim.x; b += blockDim.x * blockDim.y) total += partial[b];
        total = column_total(row_total(total, space), space);
    }
    if (thread == 0) *loss = total / samples;
}

// y = z - log sum e^z, row by row; z and y (rows, classes), which may be the same memory. A row with a NaN becomes NaN.
//
// Block (w, h): w threads side by side do a row, h rows at a time; w is a power of two, w h a multiple of 32 up to
// 1024.
extern "C" __global__ __launch_bounds__(1024, 1) void log_softmax(const Real* z, Real* y, int rows, int classes)
{
    __shared__ Real space[32];  // what warps leave for each other
    // all threads of a block go round equally often, because they meet inside
    for (int first = blockIdx.x * blockDim.y; first < rows; first += gridDim.x * blockDim.y) {
        const int row = first + threadIdx.y;
        const int stop = row < rows ? classes : 0;
        const Real* from = z + (size_t)row * classes;
        Real* to = y + (size_t)row * classes;
        Real top = -infinity();
        #pragma unroll 4
        for (int k = threadIdx.x; k < stop; k += blockDim.x) top = from[k] > top ? from[k] : top;
        top = row_largest(top, space);
        Real mass = 0;
        #pragma unroll 4
        for (int k = threadIdx.x; k < stop; k += blockDim.x) mass += exp(from[k] - top);
        const Real shift = log(row_total(mass, space));
        #pragma unroll 4
        for (int k = threadIdx.x; k < stop; k += blockDim.x) to[k] = (from[k] - top) - shift;
    }
}

// Philox4x32-10, a generator without a state: four random words for each counter and key (Salmon, Moraes, Dror and Shaw,
// Parallel random numbers: as easy as 1, 2, 3, SC 2011).
__device__ void philox(const unsigned int* counter, const unsigned int* key, unsigned int* words)
{
    unsigned int a = counter[0], b = counter[1], c = counter[2], d = counter[3], k = key[0], l = key[1];
    #pragma unroll
    for (int round = 0; round < 10; round++) {
        const unsigned long long p = 0xD2511F53ull * a, q = 0xCD9E8D57ull * c;
        a = (unsigned int)(q >> 32) ^ b ^ k;
        b = (unsigned int)q;
        c = (unsigned int)(p >> 32) ^ d ^ l;
        d = (unsigned int)p;
        k += 0x9E3779B9u;
        l += 0xBB67AE85u;
    }
    words[0] = a, words[1] = b, words[2] = c, words[3] = d;
}

// keep[i] = [u >= p], u uniform among the multiples of 2^-24 in 0 .. 1, drawn anew at each launch.
//
// state: seed, counter, 0. Element i is word i % 4 for the counter + i / 4, whatever the grid; the last block moves the counter
// on by as many as have been used, so a launch that is replayed from a graph goes on where the one before it has ended.
extern "C" __global__ __launch_bounds__(256) void keep_mask(
    bool* keep, unsigned long long* state, float p, unsigned long long count)
{
    const unsigned long long begin = state[1], fours = (count + 3) / 4;
    const unsigned int key[2] = {(unsigned int)state[0], (unsigned int)(state[0] >> 32)};
    for (unsigned long long i = blockIdx.x * blockDim.x + threadIdx.x; i < fours; i += gridDim.x * blockDim.x) {
        const unsigned long long at = begin + i;
        const unsigned int counter[4] = {(unsigned int)at, (unsigned int)(at >> 32), 0, 0};
        unsigned int words[4];
        philox(counter, key, words);
        unsigned int kept = 0;
        #pragma unroll
        for (int k = 0; k < 4; k++) kept |= (unsigned int)((words[k] >> 8) * (1.0f / 16777216.0f) >= p) << 8 * k;
        bool* to = keep + 4 * i;
        if ((unsigned long long)to % 4 == 0 && 4 * i + 4 <= count) {
            *(unsigned int*)to = kept;
        } else {
            for (int k = 0; k < 4 && 4 * i + k < count; k++) to[k] = kept >> 8 * k & 1;
        }
    }
    if (last_block((unsigned int*)&state[2], gridDim.x) && threadIdx.x == 0) state[1] = begin + fours;
}

// A decoder's whole forward pass in one call, for a few rows: each a token, its slot and its position. It is bound by
// reading the weights, each once, which torch's operations never reach with so little work in each. The structs are
// those of compiled.py and compiled_pass.py. Sums run along the inputs in one order, so a row's logits do not depend on the others.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>
#include <immintrin.h>

#ifdef __AVX512F__
constexpr int LANES = 16, ROWS = 6;  // numbers in a vector, and rows that share the reading of a weight
#else  // AVX2
constexpr int LANES = 8, ROWS = 2;
#endif
constexpr int PANEL = 64, TILE = 4 * LANES;  // outputs that are stored together, and computed together
constexpr int AHEAD = 2048;  // bytes; the processor's own prefetching stops at every page, and reads 0.9 times as fast
typedef float Vector __attribute__((vector_size(4 * LANES)));
typedef int32_t Integers __attribute__((vector_size(4 * LANES)));

enum Format { FLOAT32, BFLOAT16, FLOAT16, INT8 };
enum Activation { SWIGLU, GELU, GELU_TANH };

struct Product {  // y = x W' scales + bias; W in panels (outputs / PANEL, inputs / n, PANEL, n), n inputs at a time
    const void *panels;
    const float *scales, *bias;  // (outputs,), or null for 1 and 0
    int64_t inputs, outputs, format;
};

struct Norm { const float *weight, *bias; };  // LayerNorm; both null: RMSNorm without sqrt(C) and gain

struct Block {
    Norm norm_1, norm_2;
    Product qkv, out, up, down;
    const float *head_gains;  // (heads of queries and keys, D), or null
};

struct Model {
    const Block *blocks;
    Product head;
    Norm final_norm;
    const float *embedding, *positions, *rotations;  // (V, embedding_stride); (T, C), (T, rotations_stride) or null
    int64_t layers, width, heads, kv_heads, head_dim, block_size, embedding_stride, rotations_stride, activation;
    float norm_eps;
};

static inline Vector load(const float *at) {
    Vector wide;
    memcpy(&wide, at, sizeof wide);
    return wide;
}

// How a product multiplies: weights of one or more inputs at a time, for LANES outputs, with those inputs of a row

struct Float32 {
    typedef float Weight, Input;
    typedef Vector Column, Sum;
    static constexpr int INPUTS = 1, HEADER = 0;
    static Column column(const Weight *at) { return load(at); }
    static Sum add(Sum sum, Column column, const Input *x) { return sum + column * *x; }
    static Vector value(Sum sum, const Input *) { return sum; }
};

struct Bfloat16 : Float32 {
    typedef uint16_t Weight;
    static Column column(const Weight *at) {
        typedef uint16_t Stored __attribute__((vector_size(2 * LANES)));
        Stored stored;
        memcpy(&stored, at, sizeof stored);
        return (Vector)(__builtin_convertvector(stored, Integers) << 16);
    }
};

struct Float16 : Float32 {
    typedef uint16_t Weight;
#ifdef __AVX512F__
    static Column column(const Weight *at) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)at)); }
#else
    static Column column(const Weight *at) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)at)); }
#endif
};

#ifdef __AVX512VNNI__
// Weights are stored plus 128: the instruction multiplies numbers without sign by numbers with one
struct Int8 {
    typedef uint8_t Weight;
    typedef int8_t Input;
    typedef __m512i Column, Sum;
    static constexpr int INPUTS = 4, HEADER = sizeof(float) + sizeof(int32_t);
    static Column column(const Weight *at) { return _mm512_loadu_si512(at); }
    static Sum add(Sum sum, Column column, const Input *x) {
        int32_t inputs;
        memcpy(&inputs, x, sizeof inputs);
        return _mm512_dpbusd_epi32(sum, column, _mm512_set1_epi32(inputs));
    }
    static Vector value(Sum sum, const Input *row) {
        float scale;
        int32_t offset;
        memcpy(&scale, row, sizeof scale);
        memcpy(&offset, row + sizeof scale, sizeof offset);
        return __builtin_convertvector((Integers)sum - offset, Vector) * scale;
    }
};

// x (inputs,) to its scale, 128 times the sum of its rounded numbers, and these
static void round_row(int64_t inputs, const float *x, int8_t *row) {
    float largest = 1e-30f, unfinite = 0;
    for (int64_t i = 0; i < inputs; i++) {
        largest = std::fabs(x[i]) > largest ? std::fabs(x[i]) : largest;
        unfinite += x[i] * 0;  // NaN if x is not finite
    }
    const float scale = largest / 127 + unfinite, factor = 127 / largest;
    int32_t offset = 0;
    int8_t *numbers = row + Int8::HEADER;
    for (int64_t i = 0; i < inputs; i++) offset += numbers[i] = (int8_t)std::rint(x[i] * factor);
    offset *= 128;
    memcpy(row, &scale, sizeof scale);
    memcpy(row + sizeof scale, &offset, sizeof offset);
}
#endif

template <class Kernel> static int64_t padded(int64_t inputs) {
    return (inputs + Kernel::INPUTS - 1) / Kernel::INPUTS * Kernel::INPUTS;
}

// One tile of outputs, of COUNT rows of x
template <class Kernel, int COUNT>
static void multiply_tile(const Product &p, int64_t tile, const typename Kernel::Input *x, int64_t stride, float *y,
                          bool add) {
    typename Kernel::Sum sums[COUNT][TILE / LANES] = {};
    const int64_t first = tile * TILE;
    const int64_t inputs = padded<Kernel>(p.inputs);
    const auto *weights = (const typename Kernel::Weight *)p.panels + first / PANEL * PANEL * inputs
                        + first % PANEL * Kernel::INPUTS;
    for (int64_t i = 0; i < inputs; i += Kernel::INPUTS, weights += PANEL * Kernel::INPUTS)
        for (int j = 0; j < TILE / LANES; j++) {
            const auto *at = weights + j * LANES * Kernel::INPUTS;
            __builtin_prefetch((const char *)at + AHEAD);
            const typename Kernel::Column column = Kernel::column(at);
            for (int row = 0; row < COUNT; row++)
                sums[row][j] = Kernel::add(sums[row][j], column, x + row * stride + Kernel::HEADER + i);
        }
    for (int row = 0; row < COUNT; row++)
        for (int j = 0; j < TILE / LANES; j++) {
            const int64_t output = first + j * LANES;
            float *at = y + row * p.outputs + output;
            Vector value = Kernel::value(sums[row][j], x + row * stride);
            if (p.scales) value *= load(p.scales + output);
            if (p.bias) value += load(p.bias + output);
            if (add) value += load(at);
            memcpy(at, &value, sizeof value);
        }
}

// All rows of a tile, COUNT at a time, and then the rest
template <class Kernel, int COUNT>
static void multiply_tiles(const Product &p, int64_t tile, int64_t rows, const typename Kernel::Input *x,
                           int64_t stride, float *y, bool add) {
    for (; rows >= COUNT; rows -= COUNT, x += COUNT * stride, y += COUNT * p.outputs)
        multiply_tile<Kernel, COUNT>(p, tile, x, stride, y, add);
    if constexpr (COUNT > 1)
        if (rows) multiply_tiles<Kernel, COUNT - 1>(p, tile, rows, x, stride, y, add);
}

template <class Kernel>
static void multiply(const Product &p, int64_t rows, const typename Kernel::Input *x, int64_t stride, float *y,
                     bool add) {
#pragma omp parallel for
    for (int64_t tile = 0; tile < p.outputs / TILE; tile++)
        multiply_tiles<Kernel, ROWS>(p, tile, rows, x, stride, y, add);
}

// x (rows, stride) to y (rows, p.outputs), or with `add` to y + ...
static void multiply(const Product &p, int64_t rows, const float *x, int64_t stride, float *y, bool add = false) {
    switch (p.format) {
        case FLOAT32: return multiply<Float32>(p, rows, x, stride, y, add);
        case BFLOAT16: return multiply<Bfloat16>(p, rows, x, stride, y, add);
        case FLOAT16: return multiply<Float16>(p, rows, x, stride, y, add);
#ifdef __AVX512VNNI__
        case INT8:
            const int64_t length = Int8::HEADER + padded<Int8>(p.inputs);
            std::vector<int8_t> rounded(rows * length);
#pragma omp parallel for if (rows > 1)
            for (int64_t row = 0; row < rows; row++)
                round_row(p.inputs, x + row * stride, &rounded[row * length]);
            multiply<Int8>(p, rows, rounded.data(), length, y, add);
#endif
    }
}

static void normalise(const Model &m, const Norm &norm, const float *x, float *y) {
    const int64_t C = m.width;
    float mean = 0, squares = 0;
    if (norm.weight) {
#pragma omp simd reduction(+ : mean)
        for (int64_t i = 0; i < C; i++) mean += x[i];
        mean /= C;
    }
#pragma omp simd reduction(+ : squares)
    for (int64_t i = 0; i < C; i++) squares += (x[i] - mean) * (x[i] - mean);
    const float scale = 1 / std::sqrt(norm.weight ? squares / C + m.norm_eps : squares + C * m.norm_eps);
    for (int64_t i = 0; i < C; i++) y[i] = (x[i] - mean) * scale;
    if (norm.weight)
        for (int64_t i = 0; i < C; i++) y[i] = y[i] * norm.weight[i] + norm.bias[i];
}

// exp to 2 units in the last place, in operations that a compiler turns into vectors; NaN stays NaN
static inline float exp_(float x) {
    x = x > 88 ? 88 : x < -87 ? -87 : x;
    const float n = std::rint(x * 1.44269504f);  // x = n ln 2 + r
    const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float sum = 1 / 5040.f;
    for (float factor : {1 / 720.f, 1 / 120.f, 1 / 24.f, 1 / 6.f, 1 / 2.f, 1.f, 1.f}) sum = sum * r + factor;
    const int32_t bits = ((int32_t)n + 127) << 23;
    float power;
    memcpy(&power, &bits, sizeof power);
    return sum * power;
}

// Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26: to 1.5e-7
static inline float erf_(float x) {
    const float t = 1 / (1 + 0.3275911f * std::fabs(x));
    float sum = 1.061405429f;
    for (float factor : {-1.453152027f, 1.421413741f, -0.284496736f, 0.254829592f}) sum = sum * t + factor;
    return std::copysign(1 - sum * t * exp_(-x * x), x);
}

// The hidden layer in place: (hidden,) from (hidden,), or for SwiGLU (2 hidden,)
extern "C" void activate(int64_t activation, int64_t hidden, float *x) {
    if (activation == SWIGLU)
#pragma omp simd
        for (int64_t i = 0; i < hidden; i++) x[i] = x[i] / (1 + exp_(-x[i])) * x[hidden + i];
    else if (activation == GELU)
#pragma omp simd
        for (int64_t i = 0; i < hidden; i++) x[i] = 0.5f * x[i] * (1 + erf_(x[i] * 0.70710678f));
    else  // tanh(z) = 1 - 2 / (1 + exp(2 z))
#pragma omp simd
        for (int64_t i = 0; i < hidden; i++) {
            const float z = 0.79788456f * (x[i] + 0.044715f * x[i] * x[i] * x[i]);
            x[i] *= 1 - 1 / (1 + exp_(2 * z));
        }
}

// Normalise and rotate queries and keys of a row in place, and store its keys and values
static void store_keys_values(const Model &m, const Block &block, float *qkv, int64_t position, float *cache) {
    const int64_t D = m.head_dim;
    for (int64_t head = 0; head < m.heads + m.kv_heads; head++) {
        float *x = qkv + head * D;
        if (block.head_gains) {
            float squares = 0;
            for (int64_t i = 0; i < D; i++) squares += x[i] * x[i];
            const float scale = 1 / std::sqrt(squares / D + m.norm_eps);
            for (int64_t i = 0; i < D; i++) x[i] *= scale * block.head_gains[head * D + i];
        }
        if (m.rotations) {
            const float *turn = m.rotations + position * m.rotations_stride;  // cos and sin by turns
            for (int64_t i = 0; i < D; i += 2) {
                const float real = x[i], imaginary = x[i + 1];
                x[i] = real * turn[i] - imaginary * turn[i + 1];
                x[i + 1] = real * turn[i + 1] + imaginary * turn[i];
            }
        }
    }
    memcpy(cache, qkv + m.heads * D, 2 * m.kv_heads * D * sizeof(float));
}

// Attention of one head: a query (D,) over `length` keys and values, to y (D,)
static void attend(int64_t D, int64_t length, int64_t stride, const float *q, const float *keys, const float *values,
                   float *scores, float *y) {
    float largest = -INFINITY, total = 0;
    const float scale = 1 / std::sqrt((float)D);
    for (int64_t s = 0; s < length; s++) {
        float score = 0;
#pragma omp simd reduction(+ : score)
        for (int64_t i = 0; i < D; i++) score += q[i] * keys[s * stride + i];
        scores[s] = score * scale;
        largest = scores[s] > largest ? scores[s] : largest;
    }
#pragma omp simd reduction(+ : total)
    for (int64_t s = 0; s < length; s++) total += scores[s] = exp_(scores[s] - largest);
    memset(y, 0, D * sizeof(float));
    for (int64_t s = 0; s < length; s++) {
        const float share = scores[s] / total;
        for (int64_t i = 0; i < D; i++) y[i] += share * values[s * stride + i];
    }
}

// y (rows, outputs) of x (rows, inputs)
extern "C" void multiply_rows(const Product *p, int64_t rows, const float *x, float *y) {
    multiply(*p, rows, x, p->inputs, y);
}

// Logits (rows, m.head.outputs), or none if null. A row sees what its slot holds up to its position, with what this
// call adds there; `cache` is (layers, slots, block_size, 2 kv_heads, D).
extern "C" void decode(const Model *model, int64_t rows, const int64_t *ids, const int64_t *slots,
                       const int64_t *positions, float *cache, int64_t n_slots, float *logits) {
    const Model &m = *model;
    const int64_t C = m.width, D = m.head_dim, stride = 2 * m.kv_heads * D, group = m.heads / m.kv_heads;
    const int64_t qkv_width = m.blocks[0].qkv.outputs, up_width = m.blocks[0].up.outputs;
    const int64_t residual_width = m.blocks[0].out.outputs;
    std::vector<float> residual(rows * residual_width), normal(rows * C), qkv(rows * qkv_width);
    std::vector<float> attended(rows * C), hidden(rows * up_width);

    for (int64_t row = 0; row < rows; row++)
        for (int64_t i = 0; i < C; i++)
            residual[row * residual_width + i] = m.embedding[ids[row] * m.embedding_stride + i]
                                               + (m.positions ? m.positions[positions[row] * C + i] : 0);
    for (int64_t layer = 0; layer < m.layers; layer++) {
        const Block &block = m.blocks[layer];
        float *layer_cache = cache + layer * n_slots * m.block_size * stride;
#pragma omp parallel for if (rows > 1)
        for (int64_t row = 0; row < rows; row++)
            normalise(m, block.norm_1, &residual[row * residual_width], &normal[row * C]);
        multiply(block.qkv, rows, normal.data(), C, qkv.data());
#pragma omp parallel for if (rows > 1)
        for (int64_t row = 0; row < rows; row++)
            store_keys_values(m, block, &qkv[row * qkv_width], positions[row],
                              layer_cache + (slots[row] * m.block_size + positions[row]) * stride);
#pragma omp parallel for collapse(2)
        for (int64_t row = 0; row < rows; row++)
            for (int64_t head = 0; head < m.heads; head++) {
                std::vector<float> scores(positions[row] + 1);
                const float *keys = layer_cache + slots[row] * m.block_size * stride + head / group * D;
                attend(D, scores.size(), stride, &qkv[row * qkv_width + head * D], keys, keys + m.kv_heads * D,
                       scores.data(), &attended[row * C + head * D]);
            }
        multiply(block.out, rows, attended.data(), C, residual.data(), true);
#pragma omp parallel for if (rows > 1)
        for (int64_t row = 0; row < rows; row++)
            normalise(m, block.norm_2, &residual[row * residual_width], &normal[row * C]);
        multiply(block.up, rows, normal.data(), C, hidden.data());
#pragma omp parallel for if (rows > 1)
        for (int64_t row = 0; row < rows; row++) activate(m.activation, block.down.inputs, &hidden[row * up_width]);
        multiply(block.down, rows, hidden.data(), up_width, residual.data(), true);
    }
    if (!logits) return;
#pragma omp parallel for if (rows > 1)
    for (int64_t row = 0; row < rows; row++)
        normalise(m, m.final_norm, &residual[row * residual_width], &normal[row * C]);
    multiply(m.head, rows, normal.data(), C, logits);
}

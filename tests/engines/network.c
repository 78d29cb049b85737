/* A quantized network in integers of 8 and 32 bits, written by Featherweight.
 *
 * input input: 3 of 8 bits
 * output: 2 of 8 bits
 * constants: 6 bytes of weights, 24 of biases and multipliers
 * memory: 0 bytes, static, beside inputs and output, which are the caller's
 *
 * One sample at a time, its last dimension running fastest; not for two threads at once. Numbers are
 * scale * (q - zero): the functions that quantize inputs and dequantize the output know which. For two
 * networks in a program, compile one with -Dnetwork_run=..., and so on. C99, no library but string.h. */
#include <stdint.h>
#include <string.h>

void network_quantize_input(const float *x, uint8_t *q);
void network_run(const uint8_t *q_input, uint8_t *output);
void network_dequantize(const uint8_t *q, float *y);

/* Negative numbers keep their sign when they are shifted to the right, as with every compiler in use. */
typedef char arithmetic_shift[(-1 >> 1) == -1 ? 1 : -1];

/* x * multiplier / 2^(31 + shift), rounded twice: ties up, then away from zero (gemmlowp; ARM's SQRDMULH and SRSHL).
 * A shift below zero is one to the left, which saturates and comes first. */
static int32_t scaled(int32_t x, int32_t multiplier, int32_t shift)
{
    int64_t wide = x;
    if (shift < 0) {
        wide *= (int64_t)1 << -shift;
        wide = wide > INT32_MAX ? INT32_MAX : wide < INT32_MIN ? INT32_MIN : wide;
        shift = 0;
    }
    wide = (wide * multiplier + ((int64_t)1 << 30)) >> 31;
    if (shift > 0)
        wide = (wide + ((int64_t)1 << (shift - 1)) - (wide < 0)) >> shift;
    return (int32_t)wide;
}

/* What becomes of a channel's sums: the bias is added, and clamp(zero + scaled(sum), low, high) is kept in 8 bits. */
struct channel {
    int32_t bias, multiplier;
    int8_t shift;
    uint8_t zero, low, high;
};

static void put(void *y, int32_t i, int32_t value, int32_t wide)
{
    if (wide)
        ((int32_t *)y)[i] = value;
    else
        ((uint8_t *)y)[i] = (uint8_t)value;
}

/* Entry i becomes a sum, its bias included: as it is if wide, else in 8 bits. */
static void keep(void *y, int32_t i, int32_t sum, const struct channel *to, int32_t wide)
{
    if (!wide) {
        const int64_t q = (int64_t)to->zero + scaled(sum, to->multiplier, to->shift);
        sum = q < to->low ? to->low : q > to->high ? to->high : (int32_t)q;
    }
    put(y, i, sum, wide);
}

static int32_t weight8(const void *w, int32_t i)
{
    return ((const int8_t *)w)[i];
}

struct dense {
    const void *weight; /* [outputs][inputs] */
    const struct channel *channels; /* [outputs] */
    int32_t rows, inputs, outputs, zero, wide;
};

/* Sums of w * (x - zero) over each of the rows [inputs], which become rows [outputs]. */
static void multiply8(const struct dense *c, const uint8_t *x, void *y)
{
    int32_t r, o, d;
    for (r = 0; r < c->rows; r++)
        for (o = 0; o < c->outputs; o++) {
            int32_t sum = c->channels[o].bias;
            for (d = 0; d < c->inputs; d++)
                sum += weight8(c->weight, o * c->inputs + d) * (x[r * c->inputs + d] - c->zero);
            keep(y, r * c->outputs + o, sum, &c->channels[o], c->wide);
        }
}

/* clamp(round(x / scale) + zero, 0, highest); ties go to even integers. */
static uint8_t quantized(float x, float scale, int32_t zero, int32_t highest)
{
    const float ratio = x / scale;
    int32_t whole;
    float rest;
    if (!(ratio > (float)-zero))
        return 0;
    if (ratio >= (float)(highest - zero))
        return (uint8_t)highest;
    whole = (int32_t)ratio;
    rest = ratio - (float)whole;
    if (rest > 0.5f || (rest == 0.5f && whole % 2))
        whole++;
    if (rest < -0.5f || (rest == -0.5f && whole % 2))
        whole--;
    return (uint8_t)(whole + zero);
}

static const int8_t t0_1_weight[6] = {
    64, -127, 32, 127, 16, -95
};

static const struct channel t1_1_channels[2] = {
    {8097, 1082130432, 6, 0, 0, 255}, {-4048, 1082130432, 6, 0, 0, 255}
};

static const struct dense t2_1 = {
    .weight = t0_1_weight, .channels = t1_1_channels, .rows = 1, .inputs = 3, .outputs = 2, .zero = 128,
    .wide = 0
};

void network_run(const uint8_t *q_input, uint8_t *output)
{
    multiply8(&t2_1, q_input, output);
}

void network_quantize_input(const float *x, uint8_t *q)
{
    int32_t i;
    for (i = 0; i < 3; i++)
        q[i] = quantized(x[i], 0.007843137718737125f, 128, 255);
}

void network_dequantize(const uint8_t *q, float *y)
{
    int32_t i;
    for (i = 0; i < 2; i++)
        y[i] = (float)(((double)q[i] - 0) * 0.007843137718737125);
}

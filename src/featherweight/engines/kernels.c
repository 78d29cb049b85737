/* The kernels of exported networks, in C99. A section is a definition that is written out where a network needs it; BITS
 * stands for the bits of a weight. Every tensor is one sample's, its last dimension runs fastest. */

/* section scaled */
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

/* section channel */
/* What becomes of a channel's sums: the bias is added, and clamp(zero + scaled(sum), low, high) is kept in 8 bits. */
struct channel {
    int32_t bias, multiplier;
    int8_t shift;
    uint8_t zero, low, high;
};

/* section entry */
/* Entry i of integers of 8 bits, or, if wide, of 32. */
static int32_t entry(const void *x, int32_t i, int32_t wide)
{
    return wide ? ((const int32_t *)x)[i] : ((const uint8_t *)x)[i];
}

/* section put */
static void put(void *y, int32_t i, int32_t value, int32_t wide)
{
    if (wide)
        ((int32_t *)y)[i] = value;
    else
        ((uint8_t *)y)[i] = (uint8_t)value;
}

/* section keep */
/* Entry i becomes a sum, its bias included: as it is if wide, else in 8 bits. */
static void keep(void *y, int32_t i, int32_t sum, const struct channel *to, int32_t wide)
{
    if (!wide) {
        const int64_t q = (int64_t)to->zero + scaled(sum, to->multiplier, to->shift);
        sum = q < to->low ? to->low : q > to->high ? to->high : (int32_t)q;
    }
    put(y, i, sum, wide);
}

/* section weight8 */
static int32_t weight8(const void *w, int32_t i)
{
    return ((const int8_t *)w)[i];
}

/* section weight4 */
/* Two to a byte in two's complement, the first in the lower bits. */
static int32_t weight4(const void *w, int32_t i)
{
    return (((((const uint8_t *)w)[i >> 1] >> (4 * (i & 1))) & 15) ^ 8) - 8;
}

/* section weight2 */
/* Four to a byte in two's complement, the first in the lowest bits. */
static int32_t weight2(const void *w, int32_t i)
{
    return (((((const uint8_t *)w)[i >> 2] >> (2 * (i & 3))) & 3) ^ 2) - 2;
}

/* section first_inside */
/* The first tap of a window that begins at start, whose taps are step apart, that is not before 0. */
static int32_t first_inside(int32_t start, int32_t step)
{
    return start < 0 ? (-start + step - 1) / step : 0;
}

/* section end_inside */
/* One behind the last of its taps that is before size. */
static int32_t end_inside(int32_t start, int32_t step, int32_t taps, int32_t size)
{
    const int32_t most = start < size ? (size - start + step - 1) / step : 0;
    return most < taps ? most : taps;
}

/* section window */
/* How windows move over maps [height][width] and give maps [out_height][out_width]. */
struct window {
    int32_t height, width, out_height, out_width, taps_down, taps_across;
    int32_t stride_down, stride_across, padding_top, padding_left, dilation_down, dilation_across;
};

/* section convolution */
struct convolution {
    const void *weight; /* [outputs][inputs / groups][taps_down][taps_across] */
    const struct channel *channels; /* [outputs] */
    int32_t inputs, outputs, groups, zero, wide;
    struct window over;
};

/* section convolveBITS */
/* Sums of w * (x - zero) over windows; outside of the maps x is zero. */
static void convolveBITS(const struct convolution *c, const uint8_t *x, void *y)
{
    const struct window *n = &c->over;
    const int32_t depth = c->inputs / c->groups, breadth = c->outputs / c->groups;
    int32_t o, i, j, d, a, b;
    for (o = 0; o < c->outputs; o++)
        for (i = 0; i < n->out_height; i++)
            for (j = 0; j < n->out_width; j++) {
                const int32_t top = i * n->stride_down - n->padding_top;
                const int32_t left = j * n->stride_across - n->padding_left;
                const int32_t a_end = end_inside(top, n->dilation_down, n->taps_down, n->height);
                const int32_t b_first = first_inside(left, n->dilation_across);
                const int32_t b_end = end_inside(left, n->dilation_across, n->taps_across, n->width);
                const int32_t first = o / breadth * depth;
                int32_t sum = c->channels[o].bias;
                for (d = 0; d < depth; d++)
                    for (a = first_inside(top, n->dilation_down); a < a_end; a++) {
                        const int32_t row = (first + d) * n->height + top + a * n->dilation_down;
                        const int32_t at = row * n->width + left;
                        const int32_t tap = ((o * depth + d) * n->taps_down + a) * n->taps_across;
                        for (b = b_first; b < b_end; b++)
                            sum += weightBITS(c->weight, tap + b) * (x[at + b * n->dilation_across] - c->zero);
                    }
                keep(y, (o * n->out_height + i) * n->out_width + j, sum, &c->channels[o], c->wide);
            }
}

/* section dense */
struct dense {
    const void *weight; /* [outputs][inputs] */
    const struct channel *channels; /* [outputs] */
    int32_t rows, inputs, outputs, zero, wide;
};

/* section multiplyBITS */
/* Sums of w * (x - zero) over each of the rows [inputs], which become rows [outputs]. */
static void multiplyBITS(const struct dense *c, const uint8_t *x, void *y)
{
    int32_t r, o, d;
    for (r = 0; r < c->rows; r++)
        for (o = 0; o < c->outputs; o++) {
            int32_t sum = c->channels[o].bias;
            for (d = 0; d < c->inputs; d++)
                sum += weightBITS(c->weight, o * c->inputs + d) * (x[r * c->inputs + d] - c->zero);
            keep(y, r * c->outputs + o, sum, &c->channels[o], c->wide);
        }
}

/* section addition */
struct addition {
    struct channel to;
    int32_t size, left, wide, zeros[2], multipliers[2], shifts[2];
};

/* section add */
/* Both operands are brought to one scale, by shifts to the left and multipliers of at most one half. */
static void add(const struct addition *c, const uint8_t *x1, const uint8_t *x2, void *y)
{
    int32_t i;
    for (i = 0; i < c->size; i++) {
        const int32_t first = (x1[i] - c->zeros[0]) * c->left, second = (x2[i] - c->zeros[1]) * c->left;
        const int32_t sum = scaled(first, c->multipliers[0], c->shifts[0]) + scaled(second, c->multipliers[1], c->shifts[1]);
        keep(y, i, sum, &c->to, c->wide);
    }
}

/* section pooling */
struct pooling {
    struct channel to;
    int32_t maps, zero, left, wide;
    struct window over;
};

/* section total */
/* Sums of left * (x - zero) over windows, which are averages in finer units. */
static void total(const struct pooling *c, const uint8_t *x, void *y)
{
    const struct window *n = &c->over;
    int32_t m, i, j, a, b;
    for (m = 0; m < c->maps; m++)
        for (i = 0; i < n->out_height; i++)
            for (j = 0; j < n->out_width; j++) {
                const int32_t top = i * n->stride_down - n->padding_top;
                const int32_t left = j * n->stride_across - n->padding_left;
                const int32_t a_end = end_inside(top, 1, n->taps_down, n->height);
                const int32_t b_end = end_inside(left, 1, n->taps_across, n->width);
                int32_t sum = 0;
                for (a = first_inside(top, 1); a < a_end; a++)
                    for (b = first_inside(left, 1); b < b_end; b++)
                        sum += x[(m * n->height + top + a) * n->width + left + b] - c->zero;
                keep(y, (m * n->out_height + i) * n->out_width + j, sum * c->left, &c->to, c->wide);
            }
}

/* section largest */
/* The largest entry that lies in each window. */
static void largest(const struct pooling *c, const void *x, void *y)
{
    const struct window *n = &c->over;
    int32_t m, i, j, a, b;
    for (m = 0; m < c->maps; m++)
        for (i = 0; i < n->out_height; i++)
            for (j = 0; j < n->out_width; j++) {
                const int32_t top = i * n->stride_down - n->padding_top;
                const int32_t left = j * n->stride_across - n->padding_left;
                const int32_t a_end = end_inside(top, n->dilation_down, n->taps_down, n->height);
                const int32_t b_end = end_inside(left, n->dilation_across, n->taps_across, n->width);
                int32_t most = INT32_MIN;
                for (a = first_inside(top, n->dilation_down); a < a_end; a++)
                    for (b = first_inside(left, n->dilation_across); b < b_end; b++) {
                        const int32_t row = top + a * n->dilation_down, column = left + b * n->dilation_across;
                        const int32_t q = entry(x, (m * n->height + row) * n->width + column, c->wide);
                        most = q > most ? q : most;
                    }
                put(y, (m * n->out_height + i) * n->out_width + j, most, c->wide);
            }
}

/* section requantization */
/* Entries lie [size / channels / inner][channels][inner]. */
struct requantization {
    const struct channel *channels; /* [count] */
    int32_t size, count, inner, zero, left, wide;
};

/* section requantize */
/* Integers of other units, of 32 bits if wide, in 8 bits. */
static void requantize(const struct requantization *c, const void *x, uint8_t *y)
{
    int32_t i;
    for (i = 0; i < c->size; i++)
        keep(y, i, (entry(x, i, c->wide) - c->zero) * c->left, &c->channels[i / c->inner % c->count], 0);
}

/* section clamping */
struct clamping {
    const int32_t (*bounds)[2]; /* [count]: low, high of a channel; entries lie as in requantization */
    int32_t size, count, inner, wide;
};

/* section clamp */
static void clamp(const struct clamping *c, const void *x, void *y)
{
    int32_t i;
    for (i = 0; i < c->size; i++) {
        const int32_t *bounds = c->bounds[i / c->inner % c->count], q = entry(x, i, c->wide);
        put(y, i, q < bounds[0] ? bounds[0] : q > bounds[1] ? bounds[1] : q, c->wide);
    }
}

/* section moving */
/* Of four dimensions: how many entries, and how far apart they are in x and in y. */
struct moving {
    int32_t sizes[4], from[4], to[4], from_first, to_first, wide;
};

/* section move */
/* Entries stay what they are; where they lie changes. */
static void move(const struct moving *c, const void *x, void *y)
{
    int32_t i, j, k, l;
    for (i = 0; i < c->sizes[0]; i++)
        for (j = 0; j < c->sizes[1]; j++)
            for (k = 0; k < c->sizes[2]; k++)
                for (l = 0; l < c->sizes[3]; l++) {
                    const int32_t from = i * c->from[0] + j * c->from[1] + k * c->from[2] + l * c->from[3];
                    const int32_t to = i * c->to[0] + j * c->to[1] + k * c->to[2] + l * c->to[3];
                    put(y, c->to_first + to, entry(x, c->from_first + from, c->wide), c->wide);
                }
}

/* section quantized */
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

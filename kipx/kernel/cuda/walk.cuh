// One stage of the kernel on a GPU: all layers between two pools, for every pair of positions at every needed offset.
//
// A thread carries two neighbouring columns of two neighbouring planes (offsets 2k and 2k + 1, coordinates of image b)
// down the rows. What a window needs of earlier rows stays in its registers and what it needs of other columns comes
// from the neighbouring lanes, so that no plane is ever stored: forward, only pooled columns leave the chip. Backward,
// the same walk computes the plane once more and pulls its cotangents back a few rows behind.
//
// The threads that carry all planes of one dy are a unit. They walk in step, and once a row they exchange through shared
// memory what belongs to the same pool or to the same pixel of image b, always in the same order.
//
// Covariances and their cotangents are in double precision, tangent kernels in single: see `kipx.kernel.planes`. The
// constants in capitals are given by `kipx.kernel.launch`. An image is two arrays: `wide`, its pixels (CHANNELS, HEIGHT,
// STRIDE) and behind them, from MAPS, one over the standard deviations before each ReLU; `stds`, these themselves. Rows
// have STRIDE entries, of which WIDTH begin at MARGIN and the rest are 0, so that no plane leads outside. With OWN each
// image is taken with itself.

constexpr unsigned ALL = 0xffffffffu;
constexpr int PAIR = 2;
constexpr bool WITH_NTK = KINDS == 2, FROM_PIXELS = CHANNELS > 0, POOLED = ABOVE_X >= 0;
constexpr int DYS = 2 * RADIUS_Y + 1, DXS = 2 * RADIUS_X + 1, ABOVE_DXS = 2 * ABOVE_X + 1;
constexpr int FIRST = -((RADIUS_X + 1) / 2), GROUPS = UNITS * GROUPS_A_UNIT;
constexpr int UP_HEIGHT = HEIGHT / 2, UP_WIDTH = WIDTH / 2;
constexpr int STATES = LAYERS > 0 ? LAYERS : 1, PIXELS = HEIGHT * STRIDE, QUANTITIES = LAYERS + CHANNELS;
constexpr double SHARE = FROM_PIXELS ? 1.0 / (CHANNELS + !FROM_PIXELS) : 1.0 / 16;  // of what a stage begins with
constexpr size_t ENTRIES_IN = (size_t)(2 * BELOW_Y + 1) * DXS * BELOW_HEIGHT * WIDTH;       // of a pair, pooled columns
constexpr size_t ENTRIES_OUT = POOLED ? (size_t)DYS * ABOVE_DXS * HEIGHT * UP_WIDTH : DYS;  // the same, or sums
constexpr size_t CTS_IN = POOLED ? (size_t)(2 * ABOVE_Y + 1) * ABOVE_DXS * UP_HEIGHT * UP_WIDTH : 1;
constexpr size_t CTS_OUT = (size_t)DYS * DXS * HEIGHT * WIDTH;
// Rows at once where most of the time goes: what a row leaves to the next two then changes places without moves.
constexpr int UNROLLED = FROM_PIXELS && !OWN ? 3 : 1;
constexpr int HIGH_OF_SAME = 0x3d3c25c2;  // of 1e-13, for 1 - |correlation|: patches that count as parallel
constexpr float OVER_2PI = 0.15915494309189535f;

extern __shared__ double shared[];

template <bool EDGE>
struct Edge {  // passes EDGE to a lambda
    static constexpr bool value = EDGE;
};

struct Values {  // of a thread: planes by columns
    double nngp[PAIR][2];
    float ntk[PAIR][2];
};

struct Angles {  // between two patches before a ReLU
    double nngp;        // their covariance
    float apart, root;  // 1 - |correlation| and its square root
    float scale;        // the product of their standard deviations
};

struct Rows {  // where a thread reads: this row of image b, and the row of image a that meets it
    const double *a, *b;
    const float *stds_a, *stds_b;
};

struct Place {  // of a thread
    int lane, group, k, dy, y0, y1;
    float left, right;       // 0 where no column lies to that side
    float valid[PAIR][2];    // 1 where both positions lie inside their images, and the plane counts; else 0
    int half[PAIR][2];       // the upper word of half of that in double precision
};

__device__ inline double scale_of(int l) {
    constexpr double values[] = {SCALES};
    return l == 0 ? values[l] * SHARE : values[l];
}

__device__ inline double bias_of(int l) {
    constexpr double values[] = {BIASES};
    return values[l];
}

__device__ inline int map_of(int l) {
    constexpr int values[] = {MAPS};
    return values[l];
}

__device__ inline Place place(bool live) {
    Place at;
    at.lane = threadIdx.x % LANES;
    at.group = threadIdx.x / LANES;
    at.k = FIRST + at.group % GROUPS_A_UNIT;
    at.left = at.lane > 0;
    at.right = at.lane < LANES - 1;
    for (int p = 0; p < PAIR; p++)
        for (int c = 0; c < 2; c++) {
            int dx = 2 * at.k + p, x = 2 * at.lane + c;
            at.valid[p][c] = live && abs(dx) <= RADIUS_X && x < WIDTH && x + dx >= 0 && x + dx < WIDTH;
            at.half[p][c] = at.valid[p][c] != 0 ? 0x3fe00000 : 0;
        }
    return at;
}

__device__ inline void rows_of(Place &at, int dy) {
    at.dy = dy;
    at.y0 = max(0, -dy);
    at.y1 = min(HEIGHT, HEIGHT - dy);
}

// Whether a row lies inside both images. Away from the EDGE of a walk every row that it looks at does.
template <bool EDGE>
__device__ inline bool inside(const Place &at, int row) {
    return !EDGE || (row >= at.y0 && row < at.y1);
}

// The first rows of images number a and b.
__device__ inline Rows first_rows(const double *wide_a, const float *stds_a, const double *wide_b, const float *stds_b,
                                  size_t a, size_t b, const Place &at) {
    int own = at.y0 * STRIDE + MARGIN + 2 * at.lane, other = own + at.dy * STRIDE + 2 * at.k;
    return {wide_a + a * WIDE_ENTRIES + other, wide_b + b * WIDE_ENTRIES + own, stds_a + a * STD_ENTRIES + other,
            stds_b + b * STD_ENTRIES + own};
}

__device__ inline void next_rows(Rows &rows) {
    rows.a += STRIDE, rows.b += STRIDE, rows.stds_a += STRIDE, rows.stds_b += STRIDE;
}

// Two columns of image b, or the three of image a that meet them in two planes.
template <typename T2, typename T>
__device__ inline void load_own(const T *from, T (&out)[2]) {
    T2 pair = *reinterpret_cast<const T2 *>(from);
    out[0] = pair.x, out[1] = pair.y;
}

template <typename T2, typename T>
__device__ inline void load_other(const T *from, T (&out)[3]) {
    T2 pair = *reinterpret_cast<const T2 *>(from);
    out[0] = pair.x, out[1] = pair.y, out[2] = from[2];
}

// Adds a thread's two columns; the second may lie outside.
template <typename T2, typename T>
__device__ inline void add_pair(const T *from, int x, T (&out)[2]) {
    if constexpr (WIDTH % 2 == 0) {
        T2 pair = *reinterpret_cast<const T2 *>(from);
        out[0] += pair.x, out[1] += pair.y;
    } else {
        out[0] += from[0];
        if (x + 1 < WIDTH) out[1] += from[1];
    }
}

// Sums of a row, its neighbours and theirs to the left and right; what comes is row r, what goes is row r - 1.
template <typename T>
__device__ inline void window(T (&older)[PAIR][2], T (&old)[PAIR][2], T (&row)[PAIR][2], const Place &at) {
#pragma unroll
    for (int p = 0; p < PAIR; p++) {
        T left = older[p][0] + old[p][0] + row[p][0], right = older[p][1] + old[p][1] + row[p][1];
        for (int c = 0; c < 2; c++) older[p][c] = old[p][c], old[p][c] = row[p][c];
        T before = __shfl_up_sync(ALL, right, 1, LANES), after = __shfl_down_sync(ALL, left, 1, LANES);
        row[p][0] = left + right + T(at.left) * before;
        row[p][1] = left + right + T(at.right) * after;
    }
}

__device__ inline void clear(Values &v) {
#pragma unroll
    for (int p = 0; p < PAIR; p++)
        for (int c = 0; c < 2; c++) v.nngp[p][c] = 0, v.ntk[p][c] = 0;
}

__device__ inline float turn(float a) {  // of an angle: t / 2 pi over the root of `apart`
    constexpr float T[] = {TURN};
    float value = T[7];
#pragma unroll
    for (int i = 6; i >= 0; i--) value = value * a + T[i];
    return value;
}

__device__ inline float lens(float a) {  // (sin t - t cos t) / 2 pi over apart^1.5
    constexpr float L[] = {LENS};
    float value = L[6];
#pragma unroll
    for (int i = 5; i >= 0; i--) value = value * a + L[i];
    return value;
}

// Conversions by hand, several times faster than the machine's own. `narrow` rounds a number in (0, 1] down; `widen` takes
// 0 to 2^-127.
__device__ inline float narrow(double x) {
    return __uint_as_float(__funnelshift_l(__double2loint(x), __double2hiint(x), 3) + 0x40000000u);
}

__device__ inline double widen(float x) {  // x >= 0
    return __longlong_as_double(__float_as_uint(x) * 0x20000000ull + 0x3800000000000000ull);
}

__device__ inline double widen_signed(float x) {
    unsigned bits = __float_as_uint(x);
    unsigned long long wide = (bits & 0x7fffffffu) * 0x20000000ull + 0x3800000000000000ull;
    return __longlong_as_double(wide | (unsigned long long)(bits & 0x80000000u) << 32);
}

__device__ inline bool negative(double x) { return __double2hiint(x) < 0; }

__device__ inline float factor(const Angles &g) {  // (pi - t) / 2 pi
    float t = g.root * turn(g.apart);
    return negative(g.nngp) ? t : 0.5f - t;
}

__device__ inline float covariance(const Angles &g) {
    float size = (1 - g.apart) * g.scale;
    return negative(g.nngp) ? -size : size;
}

// Angles between the patches of image a and of image b before the ReLU of layer l, from their covariances in a row.
__device__ inline void angles(int l, int row, const Rows &rows, const double (&nngp)[PAIR][2],
                              Angles (&out)[PAIR][2]) {
    double ia[3], ib[2];
    float sa[3], sb[2];
    int map = map_of(l) + row * STRIDE;
    load_other<double2>(rows.a + CHANNELS_WIDE + map, ia);
    load_own<double2>(rows.b + CHANNELS_WIDE + map, ib);
    load_other<float2>(rows.stds_a + map, sa);
    load_own<float2>(rows.stds_b + map, sb);
#pragma unroll
    for (int p = 0; p < PAIR; p++)
        for (int c = 0; c < 2; c++) {
            double apart = 1 - fabs(nngp[p][c] * (ia[p + c] * ib[c]));
            Angles &g = out[p][c];
            g.nngp = nngp[p][c];
            g.apart = __double2hiint(apart) > HIGH_OF_SAME ? narrow(apart) : 0;
            g.root = sqrtf(g.apart);
            g.scale = sa[p + c] * sb[c];
        }
}

// The row that a stage begins with, but for SHARE: pixels multiplied, or what the stage below left, its rows pooled.
template <bool EDGE>
__device__ inline void load(const Rows &rows, const double *nngp_in, const float *ntk_in, int row, const Place &at,
                            Values &v) {
    clear(v);
    if (!inside<EDGE>(at, row)) return;
    if constexpr (FROM_PIXELS) {
#pragma unroll
        for (int channel = 0; channel < CHANNELS; channel++) {
            double pa[3], pb[2];
            load_other<double2>(rows.a + channel * PIXELS, pa);
            load_own<double2>(rows.b + channel * PIXELS, pb);
            for (int p = 0; p < PAIR; p++)
                for (int c = 0; c < 2; c++) v.nngp[p][c] += pa[p + c] * pb[c];
        }
        return;
    }
#pragma unroll
    for (int p = 0; p < PAIR; p++) {
        int dx = min(max(2 * at.k + p + RADIUS_X, 0), DXS - 1), x = min(2 * at.lane, (WIDTH - 1) / 2 * 2);
#pragma unroll
        for (int n = 0; n < 4; n++) {  // (offset, row) below: (2d, 2y), (2d + 1, 2y), (2d - 1, 2y + 1), (2d, 2y + 1)
            int odd = n / 2, dy = 2 * at.dy + n % 2 - odd + BELOW_Y;
            if (BELOW_Y < 2 * RADIUS_Y + 1 && (dy < 0 || dy > 2 * BELOW_Y)) continue;
            int from = ((dy * DXS + dx) * BELOW_HEIGHT + 2 * row + odd) * WIDTH + x;
            add_pair<double2>(nngp_in + from, x, v.nngp[p]);
            if (WITH_NTK) add_pair<float2>(ntk_in + from, x, v.ntk[p]);
        }
#pragma unroll
        for (int c = 0; c < 2; c++) {  // what lies outside was never written
            v.nngp[p][c] = at.valid[p][c] != 0 ? v.nngp[p][c] : 0;
            v.ntk[p][c] = at.valid[p][c] != 0 ? v.ntk[p][c] : 0;
        }
    }
}

// Before the ReLU of layer l: windows scaled, the bias added to the covariance. That the tangent kernel gains the
// covariance is left to what follows.
__device__ inline void affine(int l, Values &v) {
#pragma unroll
    for (int p = 0; p < PAIR; p++)
        for (int c = 0; c < 2; c++) {
            v.nngp[p][c] = scale_of(l) * v.nngp[p][c] + bias_of(l);
            v.ntk[p][c] *= float(scale_of(l));
        }
}

// What `affine` would do for a stage without layers.
__device__ inline void apply_share(Values &v) {
#pragma unroll
    for (int p = 0; p < PAIR; p++)
        for (int c = 0; c < 2; c++) v.nngp[p][c] *= SHARE, v.ntk[p][c] *= float(SHARE);
}

// Behind it. With t <= pi / 2 the angle: half of a positive covariance, and (sin t - t cos t) / 2 pi of the scale.
__device__ inline void relu(const Angles (&angles)[PAIR][2], const Place &at, Values &v) {
#pragma unroll
    for (int p = 0; p < PAIR; p++)
        for (int c = 0; c < 2; c++) {
            const Angles &g = angles[p][c];
            double half = __hiloint2double(negative(g.nngp) ? 0 : at.half[p][c], 0);
            v.nngp[p][c] = g.nngp * half + widen(g.scale * g.apart * (g.root * lens(g.apart)));
            if (WITH_NTK) v.ntk[p][c] = at.valid[p][c] * factor(g) * (covariance(g) + v.ntk[p][c]);
        }
}

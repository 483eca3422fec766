// Back through one stage, for the pixels and standard deviations of images b.
//
// A block takes one image b (blockIdx.x) and ROWS_A_BLOCK images a (blockIdx.y), UNITS at a time. Cotangents come from
// the stage above, ct_nngp and ct_ntk (pairs, 2 ABOVE_Y + 1, ABOVE_DXS, UP_HEIGHT, UP_WIDTH), or of the mean (pairs,),
// and go to the stage below (pairs, DYS, DXS, HEIGHT, WIDTH) or, behind pixels, into the gradient. That has, for each
// block of images a and each image b, QUANTITIES maps (HEIGHT, WIDTH): of each layer's log standard deviations, then of
// the channels' pixels.

constexpr float TINY = 1e-37f;
constexpr int SUMS = (QUANTITIES * HEIGHT * WIDTH + 1) / 2 * 2;  // entries of all quantities, even
constexpr int STAGED = 2 * THREADS;  // entries of one quantity's row, from every group and from threads left over

// Cotangents of a row behind the stage, taken apart into the planes and columns that were pooled.
template <bool EDGE>
__device__ inline void load_cts(const double *ct_nngp, const float *ct_ntk, int row, const Place &at, double share,
                                Values &ct) {
    clear(ct);
    if (!inside<EDGE>(at, row)) return;
    if constexpr (!POOLED) {
        double n = share * ct_nngp[0], k = WITH_NTK ? share * ct_ntk[0] : 0;
        for (int p = 0; p < PAIR; p++)
            for (int c = 0; c < 2; c++) {
                ct.nngp[p][c] = at.valid[p][c] * n;
                ct.ntk[p][c] = at.valid[p][c] * float(k);
            }
        return;
    }
    int up = (at.dy + (row & 1) + 2 * RADIUS_Y) / 2 - RADIUS_Y, y = row / 2;  // rounded down
    if (abs(up) > ABOVE_Y || max(y, y + up) >= UP_HEIGHT) return;  // odd sides lose a row
#pragma unroll
    for (int next = 0; next < 2; next++) {  // planes 2k and 2k + 1 but for the last column, which is pooled with 2k + 2
        int k = at.k + next, x = at.lane + k;
        bool in = abs(k) <= ABOVE_X && at.lane < UP_WIDTH && x >= 0 && x < UP_WIDTH;
        int from = in ? (((up + ABOVE_Y) * ABOVE_DXS + k + ABOVE_X) * UP_HEIGHT + y) * UP_WIDTH + at.lane : 0;
        double n = in ? ct_nngp[from] : 0;
        float f = WITH_NTK && in ? ct_ntk[from] : 0;
#pragma unroll
        for (int p = 0; p < PAIR; p++)
            for (int c = 0; c < 2; c++)
                if ((p == 1 && c == 1) == (next == 1))
                    ct.nngp[p][c] = at.valid[p][c] * n, ct.ntk[p][c] = at.valid[p][c] * f;
    }
}

// Through the ReLU, and the covariance's addition to the tangent kernel; `logs` gets what log(std) of b takes.
// Tangent kernels before the ReLU lack their covariance, as `affine` leaves them.
__device__ inline void relu_vjp(const Angles (&angles)[PAIR][2], const float (&ntk)[PAIR][2], const Place &at,
                                Values &ct, double (&logs)[2]) {
#pragma unroll
    for (int c = 0; c < 2; c++)
        for (int p = 0; p < PAIR; p++) {
            const Angles &g = angles[p][c];
            double n = ct.nngp[p][c];
            float sine = at.valid[p][c] * g.scale * g.root * sqrtf(2 - g.apart), f = at.valid[p][c] * factor(g);
            double to_log = widen(OVER_2PI * sine) * n, to_nngp = widen(f) * n;
            if (WITH_NTK) {
                float k = ct.ntk[p][c];
                float slope = sine > TINY ? OVER_2PI * k * (covariance(g) + ntk[p][c]) / sine : 0;
                double wide = widen_signed(slope);
                to_log -= wide * g.nngp;
                to_nngp += wide + widen_signed(f * k);
                ct.ntk[p][c] = f * k;
            }
            ct.nngp[p][c] = to_nngp;
            logs[c] += to_log;
        }
}

__device__ inline void scale(int l, Values &ct) {
#pragma unroll
    for (int p = 0; p < PAIR; p++)
        for (int c = 0; c < 2; c++) ct.nngp[p][c] *= scale_of(l), ct.ntk[p][c] *= float(scale_of(l));
}

__device__ inline void stage_values(double *staged, int quantity, const Place &at, double left, double right) {
    int to = quantity * STAGED + at.group * 2 * LANES + 2 * at.lane;
    *reinterpret_cast<double2 *>(staged + to) = double2{left, right};
}

// Adds what all groups staged, each quantity's row where it belongs; in one order, by one thread an entry.
__device__ inline void collect(const double *staged, double *sums, int t, const Place &at) {
    for (int o = threadIdx.x; o < QUANTITIES * WIDTH; o += THREADS) {
        int quantity = o / WIDTH, x = o % WIDTH;
        int row = quantity < LAYERS ? t - 2 * LAYERS + 1 + quantity : t - 2 * LAYERS;
        if (!inside<true>(at, row)) continue;
        double total = 0;
        for (int group = 0; group < GROUPS; group++) total += staged[quantity * STAGED + group * 2 * LANES + x];
        sums[(quantity * HEIGHT + row) * WIDTH + x] += total;
    }
}

struct Memory {  // of a walk: the rows before this one, forward and backward, before each window
    Values older[STATES], old[STATES], back_older[STATES], back_old[STATES];
    Values kept[STATES][2 * STATES - 1];  // the rows of a layer that wait for their cotangents, newest first
};

// Reads row t, takes it through all layers but the last ReLU, and pulls the rows back whose cotangents are complete.
template <bool EDGE>
__device__ inline void step(const Rows &rows, const double *nngp_in, const float *ntk_in, const double *ct_nngp,
                            const float *ct_ntk, double share, int t, const Place &at, Memory &m, double *staged,
                            Values &ct) {
    Values v;
    load<EDGE>(rows, nngp_in, ntk_in, t, at, v);
    load_cts<EDGE>(ct_nngp, ct_ntk, t - LAYERS, at, share, ct);
#pragma unroll
    for (int l = 0; l < LAYERS; l++) {
        window(m.older[l].nngp, m.old[l].nngp, v.nngp, at);
        if (WITH_NTK && !(FROM_PIXELS && l == 0)) window(m.older[l].ntk, m.old[l].ntk, v.ntk, at);
        affine(l, v);
#pragma unroll
        for (int i = 2 * (LAYERS - 1 - l); i > 0; i--) m.kept[l][i] = m.kept[l][i - 1];
        m.kept[l][0] = v;
        if (l == LAYERS - 1) break;
        if (inside<EDGE>(at, t - 1 - l)) {
            Angles g[PAIR][2];
            angles(l, -1 - l, rows, v.nngp, g);
            relu(g, at, v);
        } else {
            clear(v);
        }
    }
#pragma unroll
    for (int l = LAYERS - 1; l >= 0; l--) {
        int back = 1 + l - 2 * LAYERS;
        double logs[2] = {0, 0};
        if (inside<EDGE>(at, t + back)) {
            const Values &kept = m.kept[l][2 * (LAYERS - 1 - l)];
            Angles g[PAIR][2];
            angles(l, back, rows, kept.nngp, g);
            relu_vjp(g, kept.ntk, at, ct, logs);
        } else {
            clear(ct);
        }
        stage_values(staged, l, at, logs[0], logs[1]);
        window(m.back_older[l].nngp, m.back_old[l].nngp, ct.nngp, at);
        if (WITH_NTK && !(FROM_PIXELS && l == 0)) window(m.back_older[l].ntk, m.back_old[l].ntk, ct.ntk, at);
        scale(l, ct);
    }
    if (LAYERS == 0) apply_share(ct);
    if constexpr (FROM_PIXELS) {
#pragma unroll
        for (int channel = 0; channel < CHANNELS; channel++) {
            double pa[3] = {0, 0, 0};
            if (inside<EDGE>(at, t - 2 * LAYERS))
                load_other<double2>(rows.a + channel * PIXELS - 2 * LAYERS * STRIDE, pa);
            double left = ct.nngp[0][0] * pa[0] + ct.nngp[1][0] * pa[1];
            double right = ct.nngp[0][1] * pa[1] + ct.nngp[1][1] * pa[2];
            stage_values(staged, LAYERS + channel, at, left, right);
        }
    }
}

// Cotangents of a row of the planes that the stage began with.
__device__ inline void store(const Values &ct, int row, const Place &at, double *to_nngp, float *to_ntk) {
    for (int p = 0; p < PAIR; p++)
        for (int c = 0; c < 2; c++) {
            if (at.valid[p][c] == 0) continue;
            int dx = 2 * at.k + p + RADIUS_X;
            int to = (((at.dy + RADIUS_Y) * DXS + dx) * HEIGHT + row) * WIDTH + 2 * at.lane + c;
            to_nngp[to] = ct.nngp[p][c];
            if (WITH_NTK) to_ntk[to] = ct.ntk[p][c];
        }
}

// All planes of one dy of a unit's pair.
__device__ inline void walk_back(Rows rows, const double *nngp_in, const float *ntk_in, const double *ct_nngp,
                                 const float *ct_ntk, double *to_nngp, float *to_ntk, double share, const Place &at,
                                 double *sums) {
    Memory m;
#pragma unroll
    for (int l = 0; l < STATES; l++) {
        clear(m.older[l]), clear(m.old[l]), clear(m.back_older[l]), clear(m.back_old[l]);
        for (int i = 0; i < 2 * STATES - 1; i++) clear(m.kept[l][i]);
    }
    auto walk = [&](auto edge, int t) {
        double *staged = sums + SUMS + (t & 1) * QUANTITIES * STAGED;
        Values ct;
        step<decltype(edge)::value>(rows, nngp_in, ntk_in, ct_nngp, ct_ntk, share, t, at, m, staged, ct);
        if (!FROM_PIXELS && t - 2 * LAYERS >= at.y0) store(ct, t - 2 * LAYERS, at, to_nngp, to_ntk);
        if constexpr (QUANTITIES > 0) {
            __syncthreads();
            collect(staged, sums, t, at);
        }
        next_rows(rows);
    };
    int t = at.y0;
    while (t < at.y0 + 2 * LAYERS) walk(Edge<true>(), t++);
#pragma unroll UNROLLED
    while (t < at.y1) walk(Edge<false>(), t++);
    while (t < at.y1 + 2 * LAYERS) walk(Edge<true>(), t++);
    __syncthreads();
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) backward(
    const double *wide_a, const float *stds_a, const double *wide_b, const float *stds_b, const double *nngp_in,
    const float *ntk_in, const double *ct_nngp, const float *ct_ntk, double *to_nngp, float *to_ntk, double *gradient,
    double share, int rows_a_block, int first_part, int first_a, int rows, int first_b, int columns, int n_b) {
    double *sums = shared;
    for (int o = threadIdx.x; o < QUANTITIES * HEIGHT * WIDTH; o += THREADS) sums[o] = 0;
    __syncthreads();
    int end = min(rows, int(blockIdx.y + 1) * rows_a_block), unit = threadIdx.x / LANES / GROUPS_A_UNIT;
    for (int first = blockIdx.y * rows_a_block; first < end; first += UNITS) {
        int row = first + unit;
        bool live = threadIdx.x / LANES < GROUPS && row < end;
        size_t pair = (size_t)(live ? row : first) * columns + blockIdx.x;
        Place at = place(live);
        for (int dy = -RADIUS_Y; dy <= RADIUS_Y; dy++) {
            rows_of(at, dy);
            int b = first_b + blockIdx.x, a = OWN ? b : first_a + (live ? row : first);
            Rows at_first = first_rows(wide_a, stds_a, wide_b, stds_b, a, b, at);
            walk_back(at_first, nngp_in + pair * ENTRIES_IN, ntk_in + pair * ENTRIES_IN, ct_nngp + pair * CTS_IN,
                      ct_ntk + pair * CTS_IN, to_nngp + pair * CTS_OUT, to_ntk + pair * CTS_OUT, share, at, sums);
        }
    }
    __syncthreads();
    size_t part = (size_t)(first_part + blockIdx.y) * n_b + first_b + blockIdx.x;
    for (int o = threadIdx.x; o < QUANTITIES * HEIGHT * WIDTH; o += THREADS)
        gradient[part * QUANTITIES * HEIGHT * WIDTH + o] = sums[o];
}

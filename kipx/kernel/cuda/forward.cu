// Forward through one stage: of the pairs of images first_a + p / columns, first_b + p % columns.
//
// Pooled columns of all planes go to nngp_out and ntk_out (pairs, DYS, ABOVE_DXS, HEIGHT, UP_WIDTH); behind the last
// stage, sums over all positions (pairs, DYS).

// Columns that belong to the pool of the planes 2k - 1, 2k and 2k + 1: this thread's, and `before` from another.
template <typename T>
__device__ inline T pooled_columns(const T (&row)[PAIR][2], T before) {
    return before + row[0][0] + row[0][1] + row[1][0];
}

template <typename T>
__device__ inline void sum_of_unit(T value, T *values, const Place &at, T *out) {
    __syncthreads();
    values[threadIdx.x] = value;
    __syncthreads();
    if (out == nullptr || at.k != FIRST || at.lane != 0) return;
    T total = 0;
    for (int i = 0; i < GROUPS_A_UNIT * LANES; i++) total += values[threadIdx.x + i];
    *out = total;
}

// Reads row t and takes it through all layers: v is row t - LAYERS behind the last.
template <bool EDGE>
__device__ inline void step(const Rows &rows, const double *nngp_in, const float *ntk_in, int t, const Place &at,
                            Values (&older)[STATES], Values (&old)[STATES], Values &v) {
    load<EDGE>(rows, nngp_in, ntk_in, t, at, v);
#pragma unroll
    for (int l = 0; l < LAYERS; l++) {
        window(older[l].nngp, old[l].nngp, v.nngp, at);
        if (WITH_NTK && !(FROM_PIXELS && l == 0)) window(older[l].ntk, old[l].ntk, v.ntk, at);
        if (inside<EDGE>(at, t - 1 - l)) {
            affine(l, v);
            Angles g[PAIR][2];
            angles(l, -1 - l, rows, v.nngp, g);
            relu(g, at, v);
        } else {
            clear(v);
        }
    }
    if (LAYERS == 0) apply_share(v);
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) forward(
    const double *wide_a, const float *stds_a, const double *wide_b, const float *stds_b, const double *nngp_in,
    const float *ntk_in, double *nngp_out, float *ntk_out, int first_a, int first_b, int columns, int pairs) {
    int pair = blockIdx.x * UNITS + threadIdx.x / LANES / GROUPS_A_UNIT;
    bool live = threadIdx.x / LANES < GROUPS && pair < pairs;
    pair = live ? pair : 0;
    Place at = place(live);
    rows_of(at, int(blockIdx.y) - RADIUS_Y);
    int a = first_a + pair / columns, b = OWN ? a : first_b + pair % columns;
    Rows rows = first_rows(wide_a, stds_a, wide_b, stds_b, a, b, at);
    nngp_in += pair * ENTRIES_IN, ntk_in += pair * ENTRIES_IN;
    nngp_out += pair * ENTRIES_OUT, ntk_out += pair * ENTRIES_OUT;

    Values older[STATES], old[STATES];
    for (int l = 0; l < STATES; l++) clear(older[l]), clear(old[l]);
    double total_nngp = 0, total_ntk = 0;
    auto leave = [&](int row, const Values &v) {
        if (row < at.y0) return;
        if constexpr (POOLED) {
            double *passed = shared + (row & 1) * 2 * THREADS;  // of plane 2k + 1, for k + 1
            float *passed_ntk = reinterpret_cast<float *>(passed + THREADS);
            passed[threadIdx.x] = v.nngp[1][1];
            passed_ntk[threadIdx.x] = v.ntk[1][1];
            __syncthreads();
            bool first = at.k == FIRST;
            double n = pooled_columns(v.nngp, first ? 0 : passed[threadIdx.x - LANES]);
            float k = pooled_columns(v.ntk, first ? 0 : passed_ntk[threadIdx.x - LANES]);
            if (!live || abs(at.k) > ABOVE_X || at.lane >= UP_WIDTH) return;
            size_t to = (((at.dy + RADIUS_Y) * ABOVE_DXS + at.k + ABOVE_X) * HEIGHT + row) * UP_WIDTH + at.lane;
            nngp_out[to] = n;
            if (WITH_NTK) ntk_out[to] = k;
        } else {
            for (int p = 0; p < PAIR; p++)
                for (int c = 0; c < 2; c++)
                    if (at.valid[p][c] != 0) total_nngp += v.nngp[p][c], total_ntk += v.ntk[p][c];
        }
    };
    auto walk = [&](auto edge, int t) {
        Values v;
        step<decltype(edge)::value>(rows, nngp_in, ntk_in, t, at, older, old, v);
        leave(t - LAYERS, v);
        next_rows(rows);
    };
    int t = at.y0;
    while (t < at.y0 + LAYERS) walk(Edge<true>(), t++);
#pragma unroll UNROLLED
    while (t < at.y1) walk(Edge<false>(), t++);
    while (t < at.y1 + LAYERS) walk(Edge<true>(), t++);
    if constexpr (!POOLED) {
        double ntk = 0;
        sum_of_unit(total_nngp, shared, at, live ? nngp_out + blockIdx.y : nullptr);
        sum_of_unit(total_ntk, shared, at, live ? &ntk : nullptr);
        if (live && at.k == FIRST && at.lane == 0) ntk_out[blockIdx.y] = float(ntk);
    }
}

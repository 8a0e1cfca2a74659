//! Exact arithmetic: the numeric specification, with SIMD paths that give the same bits

#!/usr/bin/env python3
"""Derives the polynomial coefficients of the kernels' transcendental functions.

Needs mpmath. Prints Rust arrays, highest power first, with the worst weighted error of the rounded
polynomial as a power of two. The numbers in src/math/ are this script's output.

Each polynomial is the minimax one for its weight (Remez exchange, 60 digits). Coefficients are then
rounded to the format one by one, the lowest power first, and the rest fitted again each time,
so that rounding costs next to nothing.
"""

import struct
import sys

from mpmath import cos, erf, erfc, exp, log, lu_solve, matrix, mp, mpf, pi, sin, sqrt, tanh

mp.dps = 60


def to_f32(x):
    """The nearest binary32 of x, as an exact number (no coefficient is subnormal)."""
    return mpf(struct.unpack("<f", struct.pack("<f", float(x)))[0])


def to_f64(x):
    return mpf(float(x))


def evaluate(coefficients, x):
    total = mpf(0)
    for c in reversed(coefficients):
        total = total * x + c
    return total


def remez(f, weight, free, low, high, rounds=12):
    """Coefficients c with sum of c[i] * x**free[i] close to f: max |weight * error| minimal."""
    n = len(free)
    low, high = mpf(low), mpf(high)
    points = [(low + high) / 2 - (high - low) / 2 * cos(pi * i / n) for i in range(n + 1)]
    grid = [low + (high - low) * i / 2000 for i in range(2001)]
    targets = [(x, f(x), weight(x)) for x in grid]
    solution = None
    for _ in range(rounds):
        a, b = matrix(n + 1, n + 1), matrix(n + 1, 1)
        for row, x in enumerate(points):
            for col, power in enumerate(free):
                a[row, col] = x**power
            w = weight(x)
            a[row, n] = (-1) ** row / w if w != 0 else (-1) ** row * mpf(10) ** 30
            b[row] = f(x)
        solution = lu_solve(a, b)
        c, level = [solution[i] for i in range(n)], abs(solution[n])
        errors = [w * (sum(c[i] * x ** free[i] for i in range(n)) - y) for x, y, w in targets]
        extremes = local_extremes(grid, errors)
        if len(extremes) < n + 1:
            break
        while len(extremes) > n + 1:
            drop_smallest(extremes, len(extremes) - n - 1)
        points = [x for x, _ in extremes]
        worst = max(abs(e) for _, e in extremes)
        if worst - level < level * mpf("1e-4"):
            break
    return [solution[i] for i in range(n)]


def local_extremes(grid, errors):
    """One point of largest error for each run of equal sign."""
    found = []
    for x, e in zip(grid, errors):
        if e == 0:
            continue
        if found and (found[-1][1] > 0) == (e > 0):
            if abs(e) > abs(found[-1][1]):
                found[-1] = (x, e)
        else:
            found.append((x, e))
    return found


def drop_smallest(extremes, surplus):
    """Removes the smaller end, or where more must go the smallest with one of its neighbours."""
    i = min(range(len(extremes)), key=lambda j: abs(extremes[j][1]))
    if surplus == 1 or i in (0, len(extremes) - 1):
        extremes.pop(0 if abs(extremes[0][1]) < abs(extremes[-1][1]) else -1)
        return
    extremes.pop(i)
    extremes.pop(i if abs(extremes[i][1]) < abs(extremes[i - 1][1]) else i - 1)


def fit(name, f, weight, degree, low, high, fmt):
    """Minimax coefficients of 1, x, ..., x**degree, rounded one by one from the lowest power."""
    rounding = to_f32 if fmt == "f32" else to_f64
    fixed = {}
    for power in range(degree + 1):
        free = [p for p in range(degree + 1) if p not in fixed]
        rest = lambda x: f(x) - sum(c * x**p for p, c in fixed.items())
        solution = remez(rest, weight, free, low, high)
        fixed[power] = rounding(solution[free.index(power)])
    c = [fixed[p] for p in range(degree + 1)]
    low, high = mpf(low), mpf(high)
    worst = mpf(0)
    for i in range(3001):
        x = low + (high - low) * i / 3000
        worst = max(worst, abs(weight(x) * (evaluate(c, x) - f(x))))
    report(name, c, worst, fmt)


def report(name, c, worst, fmt):
    print(f"// {name}: error 2^{float(log(worst) / log(2)):.2f}")
    pack, unpack = ("<f", "<I") if fmt == "f32" else ("<d", "<Q")
    for power in range(len(c) - 1, -1, -1):
        bits = struct.unpack(unpack, struct.pack(pack, float(c[power])))[0]
        text = f"{bits:08x}" if fmt == "f32" else f"{bits:016x}"
        text = "_".join(text[i : i + 4] for i in range(0, len(text), 4))
        print(f"    {fmt}::from_bits(0x{text}), // {float(c[power]):+.9e} x^{power}")
    print(flush=True)


def series(f, terms):
    """f away from zero, its Taylor polynomial near it, where the quotient would cancel."""
    return lambda x: evaluate(terms, x) if abs(x) < mpf("1e-9") else f(x)


def main():
    chosen = set(sys.argv[1:])
    want = lambda name: not chosen or name in chosen
    half_ln2 = log(mpf(2)) / 2 * mpf("1.0005")
    if want("exp"):
        f = series(lambda r: (exp(r) - 1 - r) / r**2, [mpf(1) / 2, mpf(1) / 6, mpf(1) / 24])
        fit("exp: (e^r - 1 - r) / r^2", f, lambda r: r**2 / exp(r) + mpf("1e-12"), 4, -half_ln2, half_ln2, "f32")
    if want("log"):
        f = series(lambda x: (log(1 + x) - x + x**2 / 2) / x**3, [mpf(1) / 3, -mpf(1) / 4, mpf(1) / 5])
        w = series(lambda x: abs(x**3 / log(1 + x)) + mpf("1e-9"), [mpf("1e-9")])
        fit("log: (ln(1+f) - f + f^2/2) / f^3", f, w, 8, sqrt(mpf(1) / 2) - 1, sqrt(mpf(2)) - 1, "f32")
    if want("tanh"):

        def g(q):
            x = sqrt(q)
            return (tanh(x) / x - 1) / q

        f = series(g, [-mpf(1) / 3, mpf(2) / 15, -mpf(17) / 315])
        w = lambda q: q / (tanh(sqrt(q)) / sqrt(q)) + mpf("1e-9") if q > 0 else mpf("1e-9")
        fit("tanh: (tanh(x)/x - 1) / x^2 in x^2, |x| <= 0.625", f, w, 4, 0, mpf("0.625") ** 2, "f32")
    if want("erf"):
        c = 2 / sqrt(pi)
        f = series(lambda q: erf(sqrt(q)) / sqrt(q) - 1, [c - 1, -c / 3, c / 10])
        w = lambda q: 1 / (erf(sqrt(q)) / sqrt(q)) if q > 0 else 1 / c
        fit("erf: erf(x)/x - 1 in x^2, |x| <= 0.9375", f, w, 6, 0, mpf("0.9375") ** 2, "f32")
    if want("erfc"):
        f = lambda t: log(erfc(t))
        fit("erfc: ln(erfc(t))", f, lambda t: erfc(t), 7, mpf("0.9375"), mpf("4.0"), "f32")
    if want("sin"):
        quarter = (pi / 4 * mpf("1.0005")) ** 2
        f = series(lambda q: (sin(sqrt(q)) / sqrt(q) - 1) / q, [-mpf(1) / 6, mpf(1) / 120, -mpf(1) / 5040])
        w = lambda q: q / (sin(sqrt(q)) / sqrt(q)) + mpf("1e-9") if q > 0 else mpf("1e-9")
        fit("sin: (sin(r)/r - 1) / r^2 in r^2", f, w, 3, 0, quarter, "f32")
        f = series(lambda q: (cos(sqrt(q)) - 1 + q / 2) / q**2, [mpf(1) / 24, -mpf(1) / 720, mpf(1) / 40320])
        w = lambda q: q**2 / cos(sqrt(q)) + mpf("1e-9")
        fit("cos: (cos(r) - 1 + r^2/2) / r^4 in r^2", f, w, 2, 0, quarter, "f32")
    if want("pow"):
        ln2 = log(mpf(2))

        def g(q):
            s = sqrt(q)
            return log((1 + s) / (1 - s)) / s / ln2

        f = series(g, [2 / ln2, 2 / (3 * ln2), 2 / (5 * ln2)])
        top = ((sqrt(mpf(2)) - 1) / (sqrt(mpf(2)) + 1)) ** 2 * mpf("1.0005")
        fit("pow: log2((1+s)/(1-s)) / s in s^2", f, lambda q: 1 / f(q), 6, 0, top, "f64")
        fit("pow: 2^r", lambda r: mpf(2) ** r, lambda r: mpf(2) ** (-r), 8, -mpf("0.5005"), mpf("0.5005"), "f64")
    if want("two_over_pi"):
        # 2/pi = 0.a0 a1 a2 ... in 32-bit words: enough for the largest binary32 exponent.
        mp.dps = 120
        value, words = 2 / pi, []
        for _ in range(8):
            value *= 2**32
            words.append(int(value))
            value -= int(value)
        print("// 2/pi:", ", ".join(f"0x{w >> 16:04x}_{w & 0xFFFF:04x}" for w in words))


if __name__ == "__main__":
    main()

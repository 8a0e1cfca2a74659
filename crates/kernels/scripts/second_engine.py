#!/usr/bin/env python3
"""A second engine, written from docs/numeric-spec.md and nothing else, in exact rational arithmetic.

It knows no floating point: a number is a fraction, a zero with a sign, an infinity or NaN, and each
operation rounds once, by integer arithmetic. It writes tests/kernels/vectors.txt, which the kernels must
reproduce bit for bit:

    python3 second_engine.py > ../tests/kernels/vectors.txt

Each line is an operator, its parameters, and the bits of its inputs and outputs.
"""

from fractions import Fraction
from math import isqrt

# 1 Numbers -----------------------------------------------------------------------------------------

NAN, INF = "nan", "inf"


class Format:
    """A binary format: values are (sign, magnitude), with magnitude a Fraction, INF or NAN."""

    def __init__(self, bits, precision, low):
        self.bits, self.precision, self.low = bits, precision, low
        self.field = precision - 1

    def round(self, sign, x):
        """The nearest value to a positive fraction, ties to even."""
        exponent = x.numerator.bit_length() - x.denominator.bit_length()
        if Fraction(2) ** exponent > x:
            exponent -= 1
        step = Fraction(2) ** (max(exponent, self.low) - self.field)
        quotient, rest = divmod(x, step)
        if rest * 2 > step or (rest * 2 == step and quotient % 2 == 1):
            quotient += 1
        y = quotient * step
        return (sign, INF) if y >= Fraction(2) ** (2 - self.low) else (sign, y)

    def decode(self, bits):
        sign, bits = bits >> (self.bits - 1), bits & ((1 << (self.bits - 1)) - 1)
        exponent, mantissa = bits >> self.field, bits & ((1 << self.field) - 1)
        if exponent == 2 * (1 - self.low) + 1:
            return (sign, NAN if mantissa else INF)
        if exponent:
            mantissa += 1 << self.field
        return (sign, mantissa * Fraction(2) ** (max(exponent, 1) - 1 + self.low - self.field))

    def encode(self, value):
        sign, x = value
        top = 2 * (1 - self.low) + 1
        if x == NAN:
            return (top << self.field) + (1 << (self.field - 1))
        if x == INF:
            bits = top << self.field
        else:
            scaled = x / Fraction(2) ** (self.low - self.field)
            exponent = 1
            while scaled >= 1 << self.precision:
                scaled, exponent = scaled / 2, exponent + 1
            assert scaled.denominator == 1
            bits = int(scaled) + ((exponent - 1) << self.field)
        return bits + (sign << (self.bits - 1))


F32, F64 = Format(32, 24, -126), Format(64, 53, -1022)
F16, BF16 = Format(16, 11, -14), Format(16, 8, -126)
ZERO = (0, Fraction(0))


def f32(bits):
    return F32.decode(int(bits, 16))


def f64(bits):
    return F64.decode(int(bits, 16))


def number(x):
    """The f32 nearest to a decimal literal or a fraction."""
    x = Fraction(x)
    return F32.round(int(x < 0), abs(x)) if x else ZERO


def is_nan(a):
    return a[1] == NAN


def neg(a):
    return (1 - a[0], a[1])


def absolute(a):
    return (0, a[1])


def signed(a):
    return -a[1] if a[0] else a[1]


def less(a, b):
    """a < b, for numbers and infinities."""
    if is_nan(a) or is_nan(b):
        return False
    key = lambda v: (-1 if v[0] else 1, 0) if v[1] == INF else (0, signed(v))
    return key(a) < key(b)


def fma(a, b, c, fmt=F32):
    if is_nan(a) or is_nan(b) or is_nan(c):
        return (0, NAN)
    sign = a[0] ^ b[0]
    if INF in (a[1], b[1]):
        if a[1] == 0 or b[1] == 0 or (c[1] == INF and c[0] != sign):
            return (0, NAN)
        return (sign, INF)
    if c[1] == INF:
        return c
    product = a[1] * b[1]
    total = (-product if sign else product) + signed(c)
    if total:
        return fmt.round(int(total < 0), abs(total))
    # An exact zero: negative only where both terms are.
    both = sign == 1 and c[0] == 1 and product == 0 and c[1] == 0
    return (1 if both else 0, Fraction(0))


def add(a, b, fmt=F32):
    return fma(a, (0, Fraction(1)), b, fmt)


def sub(a, b, fmt=F32):
    return add(a, neg(b), fmt)


def mul(a, b, fmt=F32):
    if is_nan(a) or is_nan(b):
        return (0, NAN)
    sign = a[0] ^ b[0]
    if INF in (a[1], b[1]):
        return (0, NAN) if 0 in (a[1], b[1]) else (sign, INF)
    product = a[1] * b[1]
    return fmt.round(sign, product) if product else (sign, Fraction(0))


def div(a, b, fmt=F32):
    if is_nan(a) or is_nan(b):
        return (0, NAN)
    sign = a[0] ^ b[0]
    if a[1] == INF:
        return (0, NAN) if b[1] == INF else (sign, INF)
    if b[1] == INF:
        return (sign, Fraction(0))
    if b[1] == 0:
        return (0, NAN) if a[1] == 0 else (sign, INF)
    return fmt.round(sign, a[1] / b[1]) if a[1] else (sign, Fraction(0))


def sqrt(a):
    if is_nan(a) or a[1] == 0:
        return a
    if a[0]:
        return (0, NAN)
    if a[1] == INF:
        return a
    # 60 bits of the root and one for what lies below them decide the rounding.
    shift = 0
    x = a[1]
    while x < Fraction(1 << 120):
        x, shift = x * 4, shift + 1
    root = isqrt(int(x))
    exact = root * root == x
    return F32.round(0, (Fraction(root) + (0 if exact else Fraction(1, 2))) / Fraction(2) ** shift)


def maximum(a, b):
    if is_nan(a) or is_nan(b):
        return (0, NAN)
    if a[1] == 0 and b[1] == 0:
        return (a[0] & b[0], Fraction(0))
    return b if less(a, b) else a


def minimum(a, b):
    return neg(maximum(neg(a), neg(b)))


def clip(x, low, high):
    return minimum(maximum(x, low), high)


def integer(x):
    """A whole number as f32 (or f64: all that occur are exact in both)."""
    return (int(x < 0), abs(Fraction(x)))


ONE, HALF, TWO = integer(1), (0, Fraction(1, 2)), integer(2)

# 2 Matrix products ---------------------------------------------------------------------------------


def product(a, b):
    total = ZERO
    for start in range(0, len(a), 256):
        s = ZERO
        for x, y in list(zip(a, b))[start : start + 256]:
            s = fma(x, y, s)
        total = s if start == 0 else add(total, s)
    return total


# 4 Reductions --------------------------------------------------------------------------------------


def lanes(x, identity, step, join):
    lane = [identity] * 16
    for i, v in enumerate(x):
        lane[i % 16] = step(lane[i % 16], v)
    for h in (8, 4, 2, 1):
        for j in range(h):
            lane[j] = join(lane[j], lane[j + h])
    return lane[0]


def total(x):
    return lanes(x, ZERO, add, add)


def squares(x):
    return lanes(x, ZERO, lambda s, v: fma(v, v, s), add)


def largest(x):
    return lanes(x, (1, INF), maximum, maximum)


def log_sum_exp(x):
    m = largest(x)
    c = ZERO if m[1] == INF else m
    return add(c, log(total([exp(sub(v, c)) for v in x])))


REDUCTIONS = {
    "sum": total,
    "mean": lambda x: div(total(x), integer(len(x))),
    "prod": lambda x: lanes(x, ONE, mul, mul),
    "max": largest,
    "min": lambda x: lanes(x, (0, INF), minimum, minimum),
    "l1": lambda x: lanes(x, ZERO, lambda s, v: add(s, absolute(v)), add),
    "l2": lambda x: sqrt(squares(x)),
    "sum_square": squares,
    "log_sum": lambda x: log(total(x)),
    "log_sum_exp": log_sum_exp,
}

# 5 Rows --------------------------------------------------------------------------------------------


def softmax(x):
    m = largest(x)
    e = [exp(sub(v, m)) for v in x]
    s = total(e)
    return [div(v, s) for v in e]


def log_softmax(x):
    m = largest(x)
    s = log(total([exp(sub(v, m)) for v in x]))
    return [sub(sub(v, m), s) for v in x]


def layer_norm(x, g, b, epsilon):
    n = integer(len(x))
    mean = div(total(x), n)
    spread = [sub(v, mean) for v in x]
    f = div(ONE, sqrt(add(div(squares(spread), n), epsilon)))
    return [fma(mul(v, f), s, t) for v, s, t in zip(spread, g, b)]


def rms_norm(x, g, epsilon):
    f = div(ONE, sqrt(add(div(squares(x), integer(len(x))), epsilon)))
    return [mul(mul(v, f), s) for v, s in zip(x, g)]


# 6 Functions ---------------------------------------------------------------------------------------


def poly(x, words, fmt=F32):
    c = [fmt.decode(int(w, 16)) for w in words.replace(",", " ").split()]
    s = c[0]
    for v in c[1:]:
        s = fma(s, x, v, fmt)
    return s


LN2_HIGH, LN2_LOW = f32("3f318000"), f32("b95e8083")


def reduce_exp(x, low):
    x = clip(x, integer(low), integer(90))
    u = fma(x, f32("3fb8aa3b"), f32("4b400000"))
    k = sub(u, f32("4b400000"))
    n = F32.encode(u) - 0x4B400000
    y = fma(k, neg(LN2_HIGH), x)
    r = fma(k, neg(LN2_LOW), y)
    l = fma(k, neg(LN2_LOW), sub(y, r))
    p = poly(r, "3ab56431, 3c091ef9, 3d2aac2c, 3e2aaa46, 3efffffe")
    return n, add(r, fma(mul(r, r), p, l))


def exp(x):
    if is_nan(x):
        return x
    n, t = reduce_exp(x, -105)
    h = n >> 1
    return mul(mul(add(ONE, t), (0, Fraction(2) ** h)), (0, Fraction(2) ** (n - h)))


def expm1(x):
    n, t = reduce_exp(maximum(x, integer(-64)), -105)
    return fma((0, Fraction(2) ** n), t, sub((0, Fraction(2) ** n), ONE))


def elu(x, alpha):
    return x if is_nan(x) or less(ZERO, x) else mul(alpha, expm1(x))


def sigmoid(x):
    z = exp(neg(absolute(x)))
    a = z if less(x, ZERO) else ONE
    d = add(ONE, z)
    l = add(sub(ONE, d), z)
    v = div(ONE, d)
    y = mul(a, v)
    return fma(fma(neg(y), l, fma(neg(y), d, a)), v, y)


def with_sign(y, x):
    return (x[0], y[1])


def tanh(x):
    a = absolute(x)
    q = mul(a, a)
    if less(a, number("0.625")):
        p = poly(q, "bbba8672, 3ca8fc67, bd5c1ad2, 3e08837b, beaaaa99")
        return with_sign(fma(mul(a, q), p, a), x)
    return with_sign(sub(ONE, div(TWO, add(exp(mul(TWO, a)), ONE))), x)


def erf(x):
    a = absolute(x)
    if less(a, number("0.9375")):
        p = poly(mul(a, a), "38a7c72c, ba530937, 3baa2554, bcdc0090, 3de716b2, bec093a0, 3e0375d4")
        return with_sign(fma(a, p, a), x)
    t = minimum(a, integer(4))
    p = poly(t, "b7b334da, 39e568b8, bb892b64, 3cce1a1a, bddde1ed, bf221f66, bf9094d7, 393d1c2c")
    return with_sign(sub(ONE, exp(p)), x)


def split(x):
    """f and e of 6.9, for a positive number."""
    e = 0
    if x[1] < Fraction(2) ** -126:
        x, e = mul(x, integer(2**23)), -23
    bits = F32.encode(x)
    shift = (bits - 0x3F3504F3) >> 23
    return sub(F32.decode(bits - (shift << 23)), ONE), e + shift


def ln(f, e):
    q = mul(f, f)
    p = poly(f, "3d5a9104, bddf8a1c, 3df7fe58, be0082ab, 3e118187, be2a9786, 3e4cd2a1, be800038, 3eaaaaa4")
    t = fma(mul(f, q), p, mul(integer(e), LN2_LOW))
    return fma(integer(e), LN2_HIGH, add(f, fma(number("-0.5"), q, t)))


def log(x):
    if is_nan(x):
        return x
    if x[1] == 0:
        return (1, INF)
    if x[0]:
        return (0, NAN)
    return x if x[1] == INF else ln(*split(x))


def softplus(x):
    z = exp(neg(absolute(x)))
    if is_nan(z):
        return z
    if less(z, f32("3ed413cd")):
        f, e = z, 0
    else:
        f, e = mul(HALF, sub(z, ONE)), 1
    return add(maximum(x, ZERO), ln(f, e))


def log2(a):
    if a[1] == 0:
        return (1, INF)
    if a[1] == INF:
        return a
    f, e = split(a)
    one = ONE
    z = add(one, f, F64)
    s = div(sub(z, one, F64), add(z, one, F64), F64)
    p = poly(
        mul(s, s, F64),
        "3fcf171eb7e68de0, 3fd0bb8afc88a8d8, 3fd484fa2d2d181c, 3fda61756a2faba3, 3fe2776c51677294, 3feec709dc39ccf4, 40071547652b82ff",
        F64,
    )
    return fma(s, p, integer(e), F64)


def exp2(t):
    t = clip(t, integer(-200), integer(200))
    magic = f64("4338000000000000")
    n = sub(add(t, magic, F64), magic, F64)
    p = poly(
        sub(t, n, F64),
        "3eb61af42dc440e2, 3ef00db4f109472a, 3f2430ace675bb9c, 3f55d87477ebe021, 3f83b2ab5c34cafe, 3fac6b08dd5060e7, 3fcebfbdff933b4c, 3fe62e42fef85d9e, 3feffffffffff78e",
        F64,
    )
    return F32.round(0, p[1] * Fraction(2) ** int(signed(n)))


def power(x, y):
    if y[1] == 0 or x == ONE:
        return ONE
    if y == TWO:
        return mul(x, x)
    if y == integer(3):
        return mul(mul(mul(x, x, F64), x, F64), ONE)
    if is_nan(x) or is_nan(y):
        return (0, NAN)
    whole = y[1] == INF or y[1].denominator == 1
    odd = y[1] != INF and whole and y[1] % 2 == 1
    if less(x, ZERO) and x[1] != INF and not whole:
        return (0, NAN)
    m = ONE if x[1] == 1 else exp2(mul(y, log2(absolute(x)), F64))
    return neg(m) if x[0] and odd else m


def reduce_angle(a):
    bits = F32.encode(a)
    if bits <= 0x3F490FDB:
        return 0, a, ZERO
    field, mantissa = bits >> 23, (bits & 0x7FFFFF) + (1 << 23)
    words = "00000000 a2f9836e 4e441529 fc2757d1 f534ddc0 db629599 3c439041 fe5163ab"
    fraction = int(words.replace(" ", ""), 16)
    window = (fraction >> (256 - 96 - (field - 120))) & ((1 << 96) - 1)
    turns = (mantissa * window >> 32) % (1 << 64)
    quadrant = ((turns + (1 << 61)) >> 62) % 4
    rest = (turns - (quadrant << 62)) % (1 << 64)
    rest -= (rest >> 63) << 64
    c = number(rest)
    b = number(rest - int(signed(c)))
    step = f32("20c90fdb")
    h = mul(c, step)
    d = fma(c, step, neg(h))
    return quadrant, h, fma(c, f32("943bbd2e"), fma(b, step, d))


def waves(h, l):
    q = mul(h, h)
    s = add(h, fma(mul(h, q), poly(q, "363e1627, b9502caa, 3c0888ba, be2aaaab"), l))
    half = mul(HALF, q)
    w = sub(ONE, half)
    rest = fma(mul(q, q), poly(q, "37ccf406, bab60614, 3d2aaaa5"), neg(mul(h, l)))
    return s, add(w, add(sub(sub(ONE, w), half), rest))


def sin(x):
    if x[1] in (NAN, INF):
        return (0, NAN)
    quadrant, h, l = reduce_angle(absolute(x))
    y = waves(h, l)[quadrant & 1]
    y = neg(y) if quadrant >= 2 else y
    return neg(y) if x[0] else y


def cos(x):
    if x[1] in (NAN, INF):
        return (0, NAN)
    quadrant, h, l = reduce_angle(absolute(x))
    y = waves(h, l)[1 - (quadrant & 1)]
    return neg(y) if quadrant in (1, 2) else y


def gate(x, g):
    return (1, Fraction(0)) if g[1] == 0 else mul(x, g)


def gelu(x):
    return gate(mul(HALF, x), add(ONE, erf(mul(x, f32("3f3504f3")))))


def gelu_tanh(x):
    cubic = mul(mul(number("0.044715"), x), mul(x, x))
    return gate(mul(HALF, x), add(ONE, tanh(mul(f32("3f4c422a"), add(x, cubic)))))


def hard_sigmoid(x, alpha, beta):
    return clip(add(mul(alpha, x), beta), ZERO, ONE)


UNARY = {
    "exp": exp,
    "log": log,
    "tanh": tanh,
    "erf": erf,
    "sigmoid": sigmoid,
    "softplus": softplus,
    "sin": sin,
    "cos": cos,
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "silu": lambda x: gate(x, sigmoid(x)),
    "elu": lambda x: elu(x, number("1.5")),
    "leaky_relu": lambda x: mul(number("0.01"), x) if less(x, ZERO) else x,
    "hard_sigmoid": lambda x: hard_sigmoid(x, number("0.2"), HALF),
    "hard_swish": lambda x: gate(x, hard_sigmoid(x, number(Fraction(1, 6)), HALF)),
    "softsign": lambda x: div(x, add(ONE, absolute(x))),
    "relu": lambda x: x if is_nan(x) or less(ZERO, x) else ZERO,
    "sqrt": sqrt,
    "rsqrt": lambda x: div(ONE, sqrt(x)),
    "reciprocal": lambda x: div(ONE, x),
}

# Vectors -------------------------------------------------------------------------------------------


class Source:
    """xorshift64*"""

    def __init__(self, seed):
        self.state = seed

    def bits(self):
        s = self.state
        s ^= s >> 12
        s ^= (s << 25) % (1 << 64)
        s ^= s >> 27
        self.state = s
        return s * 0x2545F4914F6CDD1D % (1 << 64) >> 32

    def value(self):
        """In (-1, 1)."""
        return number(Fraction(self.bits(), 1 << 31) - 1)

    def values(self, n, scale=1):
        return [mul(self.value(), integer(scale)) for _ in range(n)]


SPECIAL = (
    "00000000 80000000 00000001 80000001 007fffff 00800000 807fffff 3f800000 bf800000 3f7fffff 40000000 "
    "7f7fffff ff7fffff 7f800000 ff800000 7fc00000 ffa00001 3f490fdb 3f490fdc 3f200000 3f1fffff 3f700000 "
    "40800000 3f3504f3 3f3504f2 42b17218 c2cff1b5 c2aeac50 4b800000 4b7fffff 7f000000 5f3a1b2c"
)


def show(values, fmt=F32):
    return " ".join(f"{fmt.encode(v):0{fmt.bits // 4}x}" for v in values)


def main():
    source = Source(0x1234567890ABCDEF)
    special = [f32(bits) for bits in SPECIAL.split()]
    points = special + source.values(24, 1) + source.values(24, 8) + source.values(16, 100)
    points += [F32.decode(source.bits()) for _ in range(32)]
    for name, function in UNARY.items():
        print(name, "|", show(points), "|", show(function(x) for x in points))
    exponents = (
        [f32(bits) for bits in SPECIAL.split()] + [integer(n) for n in (-3, -2, 3, 5, 100)] + source.values(20, 6)
    )
    pairs = [(points[i * 7 % len(points)], y) for i, y in enumerate(exponents * 4)]
    print("pow |", show(x for x, _ in pairs), "|", show(y for _, y in pairs), "|", show(power(x, y) for x, y in pairs))
    for y in (TWO, integer(3)):
        print("pow |", show(points), "|", show([y]), "|", show(power(x, y) for x in points))
    for n in (1, 15, 16, 17, 100):
        x = source.values(n, 5)
        for name, reduction in REDUCTIONS.items():
            print(name, "|", show(x), "|", show([reduction(x)]))
        g, b = source.values(n), source.values(n)
        print("softmax |", show(x), "|", show(softmax(x)))
        print("log_softmax |", show(x), "|", show(log_softmax(x)))
        print("layer_norm |", show(x), "|", show(g), "|", show(b), "|", show(layer_norm(x, g, b, number("0.00001"))))
        print("rms_norm |", show(x), "|", show(g), "|", show(rms_norm(x, g, number("0.000001"))))
    for k in (1, 255, 256, 257, 600):
        a, b = source.values(k), source.values(k)
        print("product |", show(a), "|", show(b), "|", show([product(a, b)]))
    small = [F32.decode(source.bits() % 0x50000000) for _ in range(64)]
    for name, fmt in (("f16", F16), ("bf16", BF16)):
        narrow = [fmt.round(*v) if v[1] not in (NAN, INF, 0) else v for v in points + small]
        print(name, "|", show(points + small), "|", show(narrow, fmt))


if __name__ == "__main__":
    main()

//! Kernels that do several things at once have the bits of the plain ones, one after another, on
//! every instruction set, for any number of threads.

use crate::common::{Source, assert_same_bits, everywhere};
use lemma_kernels::{
    Binary, Chain, Channels, Conv, ConvSpec, FiltersLast, Isa, Link, Mask, PackedB, PackedFilters,
    Pool, PoolSpec, Pooling, Source as Operand, Strided, Threads, Unary, average_pool, binary,
    conv, conv_last, conv_last_gated, conv_last_takes_gate, gemm, gemm_with, math, matmul,
    matmul_strided, max_pool, max_pool_last, pool_last, product, softmax, transpose,
    unary_in_place,
};

#[test]
fn rows_of_a_product_do_not_depend_on_tasks() {
    let mut source = Source::new(201);
    for (m, k, n) in [
        (1, 300, 1000),
        (8, 520, 200),
        (301, 70, 90),
        (3, 5, 7),
        (500, 257, 33),
        (7, 256, 64),
    ] {
        let (a, b) = (source.wild(m * k), source.wild(k * n));
        let packed = PackedB::pack(&b, k, n, false);
        let mut expected = vec![0.0; m * n];
        gemm(Isa::PORTABLE, m, &a, &packed, &mut expected);
        for (row, column) in [(0, 0), (m - 1, n - 1), (m / 2, n / 3)] {
            let one = product(&a[row * k..(row + 1) * k], |i| b[i * n + column]);
            assert_same_bits(&expected[row * n + column..][..1], &[one], "one output");
        }
        everywhere(|isa, threads| {
            let mut c = vec![f32::NAN; m * n];
            gemm_with(isa, threads, m, &a, &packed, &Chain::NONE, &mut c);
            assert_same_bits(&c, &expected, format!("{isa} {threads:?} {m}x{k}x{n}"));
        });
    }
}

#[test]
fn a_chain_has_the_bits_of_its_links() {
    let mut source = Source::new(202);
    for (m, k, n) in [(40, 33, 65), (2, 600, 1100), (130, 20, 24)] {
        let (a, b) = (source.values(m * k), source.values(k * n));
        let packed = PackedB::pack(&b, k, n, false);
        let (bias, full, each) = (source.wild(n), source.wild(m * n), source.values(2));
        let links = [
            Link::Binary(Binary::Add, Operand::Value(0), Operand::columns(&bias)),
            Link::Unary(Unary::Erf, 1),
            Link::Binary(Binary::Mul, Operand::Value(1), Operand::Value(2)),
            Link::Binary(Binary::Sub, Operand::Scalar(0.5), Operand::Value(3)),
            Link::Binary(
                Binary::Add,
                Operand::Value(4),
                Operand::Rows {
                    values: &full,
                    divide: 1,
                    modulo: usize::MAX,
                },
            ),
            Link::Binary(
                Binary::Mul,
                Operand::Value(5),
                Operand::Each {
                    values: &each,
                    divide: m / 2,
                    modulo: 2,
                },
            ),
        ];
        let mut plain = vec![0.0; m * n];
        gemm(Isa::PORTABLE, m, &a, &packed, &mut plain);
        let both = |op, a: &[f32], b: &[f32]| {
            let mut y = vec![0.0; m * n];
            binary(Isa::PORTABLE, op, a, b, &mut y);
            y
        };
        let one = both(Binary::Add, &plain, &bias);
        let mut two = one.clone();
        unary_in_place(Isa::PORTABLE, Unary::Erf, &mut two);
        let three = both(Binary::Mul, &one, &two);
        let four = both(Binary::Sub, &[0.5], &three);
        let five = both(Binary::Add, &four, &full);
        let factors: Vec<f32> = (0..m * n).map(|i| each[i / n / (m / 2) % 2]).collect();
        let expected = both(Binary::Mul, &five, &factors);
        everywhere(|isa, threads| {
            let mut c = vec![f32::NAN; m * n];
            gemm_with(isa, threads, m, &a, &packed, &Chain::new(&links), &mut c);
            assert_same_bits(&c, &expected, format!("{isa} {threads:?} {m}x{k}x{n}"));
            let mut alone = plain.clone();
            lemma_kernels::apply(isa, threads, &Chain::new(&links), n, &mut alone);
            assert_same_bits(&alone, &expected, format!("{isa} {threads:?} alone"));
        });
    }
}

/// As exporters spell it out, after a bias.
fn gelu_by_erf(bias: Operand<'_>) -> Vec<Link<'_>> {
    let scalar =
        |op, value, number| Link::Binary(op, Operand::Value(value), Operand::Scalar(number));
    vec![
        Link::Binary(Binary::Add, bias, Operand::Value(0)),
        scalar(Binary::Div, 1, std::f32::consts::SQRT_2),
        Link::Unary(Unary::Erf, 2),
        scalar(Binary::Add, 3, 1.0),
        Link::Binary(Binary::Mul, Operand::Value(1), Operand::Value(4)),
        scalar(Binary::Mul, 5, 0.5),
    ]
}

/// Likewise, where the power is 3.
fn gelu_by_tanh(bias: Operand<'_>, power: f32) -> Vec<Link<'_>> {
    let scalar =
        |op, value, number| Link::Binary(op, Operand::Scalar(number), Operand::Value(value));
    vec![
        Link::Binary(Binary::Add, bias, Operand::Value(0)),
        scalar(Binary::Mul, 1, 0.5),
        Link::Binary(Binary::Pow, Operand::Value(1), Operand::Scalar(power)),
        scalar(Binary::Mul, 3, 0.044715),
        Link::Binary(Binary::Add, Operand::Value(4), Operand::Value(1)),
        scalar(Binary::Mul, 5, 0.797_884_6),
        Link::Unary(Unary::Tanh, 6),
        scalar(Binary::Add, 7, 1.0),
        Link::Binary(Binary::Mul, Operand::Value(2), Operand::Value(8)),
    ]
}

/// What follows a product or a convolution in real models, and bounds that are told from others by the sign of a zero.
fn endings<'a>(bias: &'a [f32], full: &'a [f32]) -> Vec<Vec<Link<'a>>> {
    let add = |value, values| Link::Binary(Binary::Add, values, Operand::Value(value));
    let bound = |op, value, to| Link::Binary(op, Operand::Value(value), Operand::Scalar(to));
    let columns = Operand::columns(bias);
    let matrix = Operand::Rows {
        values: full,
        divide: 1,
        modulo: usize::MAX,
    };
    let gate = |x| Link::Binary(Binary::Mul, Operand::Value(x), Operand::Value(x + 1));
    let (max, min) = (Binary::Max, Binary::Min);
    vec![
        vec![add(0, columns), add(1, matrix), Link::Unary(Unary::Relu, 2)],
        vec![add(0, columns), bound(max, 1, 0.0), bound(min, 2, 6.0)],
        vec![add(0, matrix), bound(max, 1, -0.0), bound(min, 2, 0.0)],
        vec![add(0, columns), bound(max, 1, 0.0), bound(min, 2, -0.0)],
        vec![bound(min, 0, 0.25), bound(max, 1, 0.5), add(2, columns)],
        vec![bound(max, 0, f32::NAN), bound(min, 1, 1.0)],
        vec![Link::Unary(Unary::Clip { min: 0.0, max: 2.0 }, 0)],
        vec![add(0, columns), Link::Unary(Unary::Sigmoid, 1), gate(1)],
        vec![Link::Unary(Unary::Sigmoid, 0), gate(0), add(2, columns)],
        gelu_by_erf(columns),
        [gelu_by_erf(columns), vec![add(4, Operand::Value(6))]].concat(),
        gelu_by_tanh(columns, 3.0),
        gelu_by_tanh(columns, 2.0),
        [gelu_by_tanh(columns, 3.0), vec![add(9, matrix)]].concat(),
        [gelu_by_tanh(columns, 3.0), vec![add(9, Operand::Value(1))]].concat(),
    ]
}

/// The links one by one, each on whole tensors.
fn one_by_one(links: &[Link<'_>], m: usize, n: usize, start: &[f32]) -> Vec<f32> {
    let mut values = vec![start.to_vec()];
    for link in links {
        let mut y = vec![0.0; m * n];
        match *link {
            Link::Unary(op, v) => {
                y.copy_from_slice(&values[v]);
                unary_in_place(Isa::PORTABLE, op, &mut y);
            }
            Link::Binary(op, a, b) => {
                let whole = |operand| -> Vec<f32> {
                    match operand {
                        Operand::Value(v) => values[v].clone(),
                        Operand::Scalar(scalar) => vec![scalar; m * n],
                        Operand::Rows { values, .. } => {
                            values.iter().cycle().take(m * n).copied().collect()
                        }
                        Operand::Each { .. } => unreachable!("no ending has one"),
                    }
                };
                binary(Isa::PORTABLE, op, &whole(a), &whole(b), &mut y);
            }
            Link::Select(mask, v, other) => {
                for (i, y) in y.iter_mut().enumerate() {
                    let row = i / n / mask.divide % mask.modulo;
                    let keep = mask.values[row * n + i % n] == mask.keep;
                    *y = if keep { values[v][i] } else { other };
                }
            }
            Link::Softmax(_) | Link::Dequantise(..) | Link::Requantise(..) => {
                unreachable!("no ending has one")
            }
        }
        values.push(y);
    }
    values.pop().expect("the start at least")
}

#[test]
fn masks_meet_their_rows() {
    let mut source = Source::new(213);
    for (m, k, n) in [(24, 9, 20), (90, 260, 160), (6, 30, 1500)] {
        let (a, b, bias) = (source.wild(m * k), source.wild(k * n), source.wild(n));
        let packed = PackedB::pack(&b, k, n, false);
        let mut plain = vec![0.0; m * n];
        gemm(Isa::PORTABLE, m, &a, &packed, &mut plain);
        for (divide, modulo, keep) in [
            (1, m / 3, true),
            (2, 3, false),
            (1, 1, true),
            (1, usize::MAX, true),
        ] {
            let values: Vec<bool> = (0..modulo.min(m) * n)
                .map(|_| source.bits() & 4 == 0)
                .collect();
            let mask = Mask {
                values: &values,
                divide,
                modulo,
                keep,
            };
            let links = [
                Link::Binary(Binary::Add, Operand::Value(0), Operand::columns(&bias)),
                Link::Select(mask, 1, f32::NEG_INFINITY),
                Link::Unary(Unary::Neg, 2),
            ];
            let expected = one_by_one(&links, m, n, &plain);
            everywhere(|isa, threads| {
                let mut c = vec![f32::NAN; m * n];
                gemm_with(isa, threads, m, &a, &packed, &Chain::new(&links), &mut c);
                assert_same_bits(&c, &expected, format!("{isa} {threads:?} {m}x{k}x{n}"));
            });
        }
    }
}

#[test]
fn what_is_done_in_registers_has_the_same_bits() {
    let mut source = Source::new(208);
    for (m, k, n) in [
        (13, 9, 24),
        (20, 33, 44),
        (30, 300, 70),
        (8, 256, 128),
        (1, 40, 515),
        (90, 260, 160),
    ] {
        let (a, b) = (source.wild(m * k), source.wild(k * n));
        let packed = PackedB::pack(&b, k, n, false);
        let (bias, full) = (source.wild(n), source.wild(m * n));
        let mut plain = vec![0.0; m * n];
        gemm(Isa::PORTABLE, m, &a, &packed, &mut plain);
        for (i, links) in endings(&bias, &full).iter().enumerate() {
            let expected = one_by_one(links, m, n, &plain);
            everywhere(|isa, threads| {
                let mut c = vec![f32::NAN; m * n];
                gemm_with(isa, threads, m, &a, &packed, &Chain::new(links), &mut c);
                assert_same_bits(&c, &expected, format!("{isa} {threads:?} {i} {m}x{k}x{n}"));
            });
        }
    }
}

#[test]
fn windows_of_each_channel() {
    let mut source = Source::new(209);
    for (channels, size, kernel, stride, pad) in [
        (35, [9, 14], [3, 3], 1, 1),
        (16, [8, 15], [3, 3], 2, 1),
        (20, [6, 8], [5, 5], 1, 2),
        (48, [9, 17], [5, 5], 2, 2),
        (17, [9, 10], [7, 7], 1, 3),
        (70, [4, 3], [3, 3], 1, 1),
        (18, [7, 9], [3, 3], 2, 1),
        (16, [5, 6], [5, 5], 1, 2),
        (33, [8, 9], [4, 2], 1, 0),
    ] {
        let shape = Conv::new(&ConvSpec {
            batch: 2,
            in_channels: channels,
            out_channels: channels,
            groups: channels,
            input: &size,
            kernel: &kernel,
            strides: &[stride, stride],
            dilations: &[1, 1],
            pads_begin: &[pad, pad],
            pads_end: &[pad, pad],
        })
        .expect("a valid geometry");
        let (x, filters) = (
            source.wild(shape.input_len()),
            source.wild(shape.filter_len()),
        );
        let mut first = vec![0.0; shape.output_len()];
        let packed = PackedFilters::pack(&shape, &filters);
        conv(Isa::PORTABLE, &shape, &x, &packed, None, &mut first);
        let plain = channels_last(&first, 2, channels);
        let last = channels_last(&x, 2, channels);
        let packed = FiltersLast::pack(&shape, &filters).expect("known groups");
        let (bias, full) = (source.wild(channels), source.wild(plain.len()));
        for (i, links) in endings(&bias, &full).iter().enumerate() {
            let expected = one_by_one(links, plain.len() / channels, channels, &plain);
            everywhere(|isa, threads| {
                let mut y = vec![f32::NAN; plain.len()];
                conv_last(
                    isa,
                    threads,
                    &shape,
                    Channels::Last,
                    &last,
                    &packed,
                    &Chain::new(links),
                    &mut y,
                );
                assert_same_bits(&y, &expected, format!("{isa} {threads:?} {i} {kernel:?}"));
            });
        }
    }
}

#[test]
fn products_inside_tensors_with_softmax() {
    // Attention: [batch, rows, heads, width] times its like, transposed.
    let mut source = Source::new(203);
    let (batch, rows, heads, width) = (2, 29, 3, 20);
    let len = batch * rows * heads * width;
    let (q, k) = (source.values(len), source.values(len));
    let apart = |x: &[f32]| -> Vec<f32> {
        let place = |i: usize| {
            let (rest, w) = (i / width, i % width);
            let (rest, r) = (rest / rows, rest % rows);
            (((rest / heads) * rows + r) * heads + rest % heads) * width + w
        };
        (0..len).map(|i| x[place(i)]).collect()
    };
    let mut scores = vec![0.0; batch * heads * rows * rows];
    let (b, m) = (batch * heads, rows);
    matmul(
        Isa::PORTABLE,
        b,
        m,
        width,
        m,
        &apart(&q),
        &apart(&k),
        true,
        &mut scores,
    );
    let mut scaled = vec![0.0; scores.len()];
    binary(Isa::PORTABLE, Binary::Mul, &scores, &[0.25], &mut scaled);
    let mut expected = vec![0.0; scores.len()];
    softmax(Isa::PORTABLE, rows, &scaled, &mut expected);
    let links = [
        Link::Binary(Binary::Mul, Operand::Value(0), Operand::Scalar(0.25)),
        Link::Softmax(1),
    ];
    everywhere(|isa, threads| {
        let operand = |values, row, column| Strided {
            values,
            batch: &[0, 0],
            row,
            column,
        };
        let steps = [rows * heads * width, width];
        let left = Strided {
            batch: &steps,
            ..operand(&q, heads * width, 1)
        };
        let right = Strided {
            batch: &steps,
            ..operand(&k, 1, heads * width)
        };
        let mut c = vec![f32::NAN; scores.len()];
        let to = [heads * rows * rows, rows * rows];
        let chain = Chain::new(&links);
        let sizes = [rows, width, rows];
        matmul_strided(
            isa,
            threads,
            sizes,
            &[batch, heads],
            &left,
            &right,
            &chain,
            &mut c,
            &to,
            rows,
        );
        assert_same_bits(&c, &expected, format!("{isa} {threads:?} scores"));
        // And back into a tensor of the first form.
        let mut mixed = vec![f32::NAN; len];
        let scores = Strided {
            batch: &to,
            ..operand(&c, rows, 1)
        };
        let values = Strided {
            batch: &steps,
            ..operand(&k, heads * width, 1)
        };
        let sizes = [rows, rows, width];
        matmul_strided(
            isa,
            threads,
            sizes,
            &[batch, heads],
            &scores,
            &values,
            &Chain::NONE,
            &mut mixed,
            &steps,
            heads * width,
        );
        let mut plain = vec![0.0; len];
        matmul(
            Isa::PORTABLE,
            b,
            rows,
            rows,
            width,
            &expected,
            &apart(&k),
            false,
            &mut plain,
        );
        assert_same_bits(&apart(&mixed), &plain, format!("{isa} {threads:?} mixed"));
    });
}

#[test]
#[should_panic(expected = "rows of the result overlap")]
fn results_that_overlap_are_refused() {
    let values = [0.0; 16];
    let operand = Strided {
        values: &values,
        batch: &[4],
        row: 2,
        column: 1,
    };
    let mut c = [0.0; 8];
    matmul_strided(
        Isa::PORTABLE,
        &Threads::single(),
        [2, 2, 2],
        &[2],
        &operand,
        &operand,
        &Chain::NONE,
        &mut c,
        &[2],
        2,
    );
}

/// `[batch, channels, places]` becomes `[batch, places, channels]`.
fn channels_last(x: &[f32], batch: usize, channels: usize) -> Vec<f32> {
    let places = x.len() / batch / channels;
    (0..x.len())
        .map(|i| {
            let (rest, c) = (i / channels, i % channels);
            x[(rest / places * channels + c) * places + rest % places]
        })
        .collect()
}

#[test]
fn convolutions_with_channels_last() {
    let mut source = Source::new(204);
    let two = |size: [usize; 2], kernel: [usize; 2]| (size.to_vec(), kernel.to_vec());
    for (batch, channels, out, groups, (size, kernel), stride, pad, dilation) in [
        (2, 3, 17, 1, two([13, 11], [7, 7]), 2, 3, 1),
        (2, 20, 70, 1, two([9, 8], [3, 3]), 1, 1, 1),
        (2, 40, 24, 1, two([7, 7], [1, 1]), 1, 0, 1),
        (2, 16, 33, 1, two([8, 9], [1, 1]), 2, 0, 1),
        (2, 36, 36, 36, two([10, 9], [3, 3]), 1, 1, 1),
        (2, 19, 19, 19, two([11, 12], [5, 5]), 2, 2, 1),
        (2, 5, 5, 5, two([12, 12], [2, 3]), 1, 2, 2),
        (2, 30, 8, 1, two([12, 10], [3, 2]), 1, 1, 3),
        // Tasks that begin and end within lines, of one image, of two, and of many.
        (3, 4, 9, 1, two([31, 37], [3, 3]), 1, 1, 1),
        (3, 5, 70, 1, two([40, 29], [5, 4]), 2, 2, 1),
        (90, 3, 5, 1, two([3, 2], [3, 3]), 1, 1, 1),
        // Windows so far apart that their places are spread.
        (2, 8, 9, 1, two([70, 130], [3, 3]), 64, 1, 1),
        // A line that is longer than a task, and columns in the padding alone.
        (2, 6, 10, 1, (vec![700], vec![3]), 1, 1, 1),
        (2, 3, 4, 1, (vec![6, 300], vec![2, 5]), 3, 4, 1),
        // Planes: tasks that lie on part of one, and on several.
        (2, 3, 5, 1, (vec![5, 17, 19], vec![2, 3, 3]), 1, 1, 1),
        (2, 4, 7, 1, (vec![9, 5, 6], vec![3, 3, 2]), 2, 1, 1),
    ] {
        let each = |n: usize| vec![n; size.len()];
        let shape = Conv::new(&ConvSpec {
            batch,
            in_channels: channels,
            out_channels: out,
            groups,
            input: &size,
            kernel: &kernel,
            strides: &each(stride),
            dilations: &each(dilation),
            pads_begin: &each(pad),
            pads_end: &each(pad),
        })
        .expect("a valid geometry");
        let x = source.wild(shape.input_len());
        let filters = source.wild(shape.filter_len());
        let bias = source.values(out);
        let mut first = vec![0.0; shape.output_len()];
        let packed = PackedFilters::pack(&shape, &filters);
        conv(Isa::PORTABLE, &shape, &x, &packed, Some(&bias), &mut first);
        unary_in_place(Isa::PORTABLE, Unary::Silu, &mut first);
        let expected = channels_last(&first, batch, out);
        let last = channels_last(&x, batch, channels);
        let packed = FiltersLast::pack(&shape, &filters).expect("known groups");
        let links = [
            Link::Binary(Binary::Add, Operand::Value(0), Operand::columns(&bias)),
            Link::Unary(Unary::Silu, 1),
        ];
        let chain = Chain::new(&links);
        everywhere(|isa, threads| {
            for (input, x) in [(Channels::Last, &last), (Channels::First, &x)] {
                if input == Channels::First && groups > 1 {
                    continue;
                }
                let mut y = vec![f32::NAN; expected.len()];
                conv_last(isa, threads, &shape, input, x, &packed, &chain, &mut y);
                assert_same_bits(
                    &y,
                    &expected,
                    format!("{isa} {threads:?} {kernel:?} {input:?}"),
                );
            }
        });
    }
}

#[test]
fn a_gate_is_a_product_before_the_convolution() {
    let mut source = Source::new(212);
    for (batch, channels, out, places) in [
        (1, 32, 16, [13, 11]),
        (3, 70, 90, [7, 7]),
        (2, 700, 20, [2, 1]),
    ] {
        let geometry = Conv::new(&ConvSpec {
            batch,
            in_channels: channels,
            out_channels: out,
            groups: 1,
            input: &places,
            kernel: &[1, 1],
            strides: &[1, 1],
            dilations: &[1, 1],
            pads_begin: &[0, 0],
            pads_end: &[0, 0],
        })
        .expect("a geometry");
        assert!(conv_last_takes_gate(&geometry));
        let x = source.wild(geometry.input_len());
        let gate = source.wild(batch * channels);
        let filters = source.values(geometry.filter_len());
        let packed = FiltersLast::pack(&geometry, &filters).expect("one group");
        let gated: Vec<f32> = x
            .chunks_exact(channels)
            .enumerate()
            .flat_map(|(row, x)| {
                let image = row / (places[0] * places[1]);
                let mut y = vec![0.0; channels];
                binary(
                    Isa::PORTABLE,
                    Binary::Mul,
                    &gate[image * channels..][..channels],
                    x,
                    &mut y,
                );
                y
            })
            .collect();
        let bias = source.values(out);
        let links = [Link::Binary(
            Binary::Add,
            Operand::Value(0),
            Operand::columns(&bias),
        )];
        let (chain, one) = (Chain::new(&links), Threads::single());
        let mut expected = vec![f32::NAN; geometry.output_len()];
        let last = Channels::Last;
        conv_last(
            Isa::PORTABLE,
            &one,
            &geometry,
            last,
            &gated,
            &packed,
            &chain,
            &mut expected,
        );
        everywhere(|isa, threads| {
            let mut y = vec![f32::NAN; geometry.output_len()];
            conv_last_gated(isa, threads, &geometry, &x, &gate, &packed, &chain, &mut y);
            assert_same_bits(
                &y,
                &expected,
                format!("{isa} {threads:?} {channels} to {out}"),
            );
        });
    }
}

#[test]
fn pools_with_channels_last() {
    let mut source = Source::new(205);
    let (batch, channels) = (2, 21);
    for (stride, pad, dilation, ceil_mode) in [(2, 1, 1, false), (1, 0, 2, true), (3, 1, 1, true)] {
        let pool = Pool::new(&PoolSpec {
            planes: batch * channels,
            input: &[11, 10],
            kernel: &[3, 2],
            strides: &[stride, stride],
            dilations: &[dilation, dilation],
            pads_begin: &[pad, pad],
            pads_end: &[pad, 0],
            ceil_mode,
        })
        .expect("a valid geometry");
        let x = source.wild(pool.input_len());
        let last = channels_last(&x, batch, channels);
        for pooling in [
            Pooling::Max,
            Pooling::Average { include_pad: true },
            Pooling::Average { include_pad: false },
        ] {
            let mut first = vec![0.0; pool.output_len()];
            match pooling {
                Pooling::Max => max_pool(Isa::PORTABLE, &pool, &x, &mut first),
                Pooling::Average { include_pad } => {
                    average_pool(Isa::PORTABLE, &pool, include_pad, &x, &mut first);
                }
            }
            let expected = channels_last(&first, batch, channels);
            everywhere(|isa, threads| {
                let mut y = vec![f32::NAN; expected.len()];
                pool_last(isa, threads, &pool, pooling, channels, &last, &mut y);
                assert_same_bits(&y, &expected, format!("{isa} {threads:?} {pooling:?}"));
            });
        }
    }
}

#[test]
fn the_largest_of_two_special_values() {
    let values = crate::common::specials();
    let pairs: Vec<[f32; 2]> = values
        .iter()
        .flat_map(|&a| values.iter().map(move |&b| [a, b]))
        .collect();
    // A channel for each pair, and its values at two places.
    let pool = Pool::new(&PoolSpec {
        planes: pairs.len(),
        input: &[2],
        kernel: &[2],
        strides: &[1],
        dilations: &[1],
        pads_begin: &[0],
        pads_end: &[0],
        ceil_mode: false,
    })
    .expect("a valid geometry");
    let x: Vec<f32> = (0..2)
        .flat_map(|i| pairs.iter().map(move |p| p[i]))
        .collect();
    let expected: Vec<f32> = pairs.iter().map(|&[a, b]| math::max(a, b)).collect();
    everywhere(|isa, threads| {
        let mut y = vec![f32::NAN; pairs.len()];
        pool_last(isa, threads, &pool, Pooling::Max, pairs.len(), &x, &mut y);
        assert_same_bits(&y, &expected, format!("{isa}"));
    });
}

/// A type of 8-bit integers, its least and its number of a byte and of an f32.
trait Byte: Copy + Ord + Default + Send + Sync + std::fmt::Debug {
    const LEAST: Self;
    fn of(byte: u8) -> Self;
    fn number(self) -> f32;
}

impl Byte for u8 {
    const LEAST: u8 = 0;
    fn of(byte: u8) -> u8 {
        byte
    }
    fn number(self) -> f32 {
        self.into()
    }
}

impl Byte for i8 {
    const LEAST: i8 = -128;
    fn of(byte: u8) -> i8 {
        byte.cast_signed()
    }
    fn number(self) -> f32 {
        self.into()
    }
}

/// The largest integers under a window are those of the same numbers in f32, which holds every one of them; a window
/// that sees none gives the least.
fn largest_integers<T: Byte>(source: &mut Source) {
    let (batch, channels) = (3, 37);
    for (size, kernel, stride, pad, dilation, ceil_mode) in [
        (vec![11, 10], vec![3, 2], 2, 1, 1, false),
        (vec![9, 12], vec![3, 3], 1, 0, 2, true),
        (vec![10, 7], vec![2, 3], 3, 1, 1, true),
        (vec![23], vec![4], 3, 3, 1, false),
        (vec![5, 4, 6], vec![2, 2, 3], 1, 1, 1, false),
        // Windows of two that are 5 apart: some see padding alone.
        (vec![3, 3], vec![2, 2], 1, 4, 5, false),
    ] {
        let each = |n: usize| vec![n; size.len()];
        let pool = Pool::new(&PoolSpec {
            planes: batch * channels,
            input: &size,
            kernel: &kernel,
            strides: &each(stride),
            dilations: &each(dilation),
            pads_begin: &each(pad),
            pads_end: &each(pad),
            ceil_mode,
        })
        .expect("a valid geometry");
        let x: Vec<T> = (0..pool.input_len())
            .map(|_| T::of((source.bits() >> 40) as u8))
            .collect();
        // Channels last to channels first and back: `channels_last` with places and channels in each other's role.
        let places = x.len() / batch / channels;
        let numbers: Vec<f32> = x.iter().map(|v| v.number()).collect();
        let first = channels_last(&numbers, batch, places);
        let mut largest = vec![0.0; pool.output_len()];
        max_pool(Isa::PORTABLE, &pool, &first, &mut largest);
        let expected: Vec<f32> = channels_last(&largest, batch, channels)
            .into_iter()
            .map(|v| v.max(T::LEAST.number()))
            .collect();
        everywhere(|isa, threads| {
            let mut y = vec![T::of(77); expected.len()];
            max_pool_last(isa, threads, &pool, channels, T::LEAST, &x, &mut y);
            let y: Vec<f32> = y.into_iter().map(T::number).collect();
            assert_same_bits(&y, &expected, format!("{isa} {threads:?} {size:?}"));
        });
    }
}

#[test]
fn pools_of_integers_with_channels_last() {
    let mut source = Source::new(210);
    largest_integers::<u8>(&mut source);
    largest_integers::<i8>(&mut source);
}

#[test]
fn transposes() {
    let mut source = Source::new(206);
    for (batch, rows, columns) in [(1, 1, 1), (3, 17, 40), (2, 100, 3), (1, 33, 16)] {
        let x = source.wild(batch * rows * columns);
        let expected = channels_last(&x, batch, rows);
        for threads in 1..=3 {
            let mut y = vec![0.0; x.len()];
            transpose(&Threads::new(threads), batch, rows, columns, &x, &mut y);
            assert_same_bits(&y, &expected, format!("{batch} × {rows} × {columns}"));
        }
    }
}

#[test]
fn a_chain_keeps_what_later_links_read() {
    // x² + (2 ÷ x) − (1 + 3), in an order that reads the start first, last and twice at once.
    let mut source = Source::new(207);
    let x = source.values(7 * 30);
    let links = [
        Link::Binary(Binary::Add, Operand::Scalar(1.0), Operand::Scalar(3.0)),
        Link::Binary(Binary::Mul, Operand::Value(0), Operand::Value(0)),
        Link::Binary(Binary::Div, Operand::Scalar(2.0), Operand::Value(0)),
        Link::Binary(Binary::Add, Operand::Value(2), Operand::Value(3)),
        Link::Binary(Binary::Sub, Operand::Value(4), Operand::Value(1)),
    ];
    let expected: Vec<f32> = x.iter().map(|&x| (x * x + 2.0 / x) - 4.0).collect();
    everywhere(|isa, threads| {
        let mut y = x.clone();
        lemma_kernels::apply(isa, threads, &Chain::new(&links), 30, &mut y);
        assert_same_bits(&y, &expected, format!("{isa} {threads:?}"));
    });
}

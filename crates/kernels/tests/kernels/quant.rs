//! Products with stored weights: the specification, followed word by word, against every
//! instruction set, number of threads and number of rows.

use lemma_kernels::half::{bf16_to_f32, f16_to_f32, f32_to_f16};
use lemma_kernels::{Format, Input, Isa, PackError, PackedMatrix, QuantRows, Threads, product};

const QUANTISED: [Format; 5] = [
    Format::Q8_0,
    Format::Q4_0,
    Format::Q4K,
    Format::Q5K,
    Format::Q6K,
];

/// Numbers of a linear congruential generator.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        self.0 >> 33
    }
    fn real(&mut self) -> f32 {
        (self.next() % 20001) as f32 / 10000.0 - 1.0
    }
}

/// Random stored rows: all bits are free, but scales are tame numbers.
fn stored(format: Format, n: usize, k: usize, seed: u64) -> Vec<u8> {
    let mut numbers = Numbers(seed);
    let mut bytes = Vec::new();
    for _ in 0..n * k / format.block_len() {
        let mut block: Vec<u8> = (0..format.block_bytes())
            .map(|_| numbers.next() as u8)
            .collect();
        let scales: &[usize] = match format {
            Format::Q4K | Format::Q5K => &[0, 2],
            Format::Q6K => &[208],
            _ => &[0],
        };
        for &at in scales {
            let half = f32_to_f16(numbers.real() * 0.01).to_le_bytes();
            block[at..at + 2].copy_from_slice(&half);
        }
        match format {
            Format::F32 => bytes.extend(numbers.real().to_le_bytes()),
            Format::BF16 => bytes.extend(((numbers.real().to_bits() >> 16) as u16).to_le_bytes()),
            _ => bytes.extend(block),
        }
    }
    bytes
}

/// Scale, minimum and code (offset taken off) of value `i` of a stored row, as GGUF has them.
fn value(format: Format, row: &[u8], i: usize) -> (f32, f32, i32) {
    let block = &row[i / format.block_len() * format.block_bytes()..][..format.block_bytes()];
    let i = i % format.block_len();
    let half = |at: usize| f16_to_f32(u16::from_le_bytes([block[at], block[at + 1]]));
    match format {
        Format::Q8_0 => (half(0), 0.0, i32::from(block[2 + i] as i8)),
        Format::Q4_0 => {
            let byte = block[2 + i % 16];
            let code = if i < 16 { byte & 15 } else { byte >> 4 };
            (half(0), 0.0, i32::from(code) - 8)
        }
        Format::Q4K | Format::Q5K => {
            let j = i / 32;
            let packed = &block[4..16];
            let (scale, minimum) = if j < 4 {
                (packed[j] & 63, packed[j + 4] & 63)
            } else {
                (
                    (packed[j + 4] & 15) | ((packed[j - 4] >> 6) << 4),
                    (packed[j + 4] >> 4) | ((packed[j] >> 6) << 4),
                )
            };
            let codes = if format == Format::Q4K { 16 } else { 48 };
            let byte = block[codes + i / 64 * 32 + i % 32];
            let mut code = if i % 64 < 32 { byte & 15 } else { byte >> 4 };
            if format == Format::Q5K {
                code += 16 * ((block[16 + i % 32] >> j) & 1);
            }
            (
                half(0) * f32::from(scale),
                half(2) * f32::from(minimum),
                i32::from(code),
            )
        }
        Format::Q6K => {
            let (side, at) = (i / 128, i % 128);
            let low = block[64 * side + at % 64];
            let low = if at < 64 { low & 15 } else { low >> 4 };
            let high = (block[128 + 32 * side + at % 32] >> (at / 32 * 2)) & 3;
            let scale = f32::from(block[192 + i / 16] as i8);
            (half(208) * scale, 0.0, i32::from(low | (high << 4)) - 32)
        }
        _ => unreachable!(),
    }
}

/// One output, by the specification.
fn reference(format: Format, row: &[u8], x: &[f32]) -> f32 {
    let part = if format == Format::Q6K { 16 } else { 32 };
    let mut sum = 0.0f32;
    for (b, x) in x.chunks_exact(32).enumerate() {
        let top = x.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        let (scale, codes): (f32, Vec<i32>) = if top == 0.0 {
            (0.0, vec![0; 32])
        } else {
            let inverse = 127.0 / top;
            (
                top / 127.0,
                x.iter()
                    .map(|v| (v * inverse).round_ties_even() as i32)
                    .collect(),
            )
        };
        for h in 0..32 / part {
            let at = 32 * b + part * h;
            let t: i32 = (0..part)
                .map(|i| value(format, row, at + i).2 * codes[part * h + i])
                .sum();
            let (weight, minimum, _) = value(format, row, at);
            sum = (weight * scale).mul_add(t as f32, sum);
            if matches!(format, Format::Q4K | Format::Q5K) {
                let all: i32 = codes.iter().sum();
                sum = (-minimum).mul_add(scale * all as f32, sum);
            }
        }
    }
    sum
}

fn activations(m: usize, k: usize) -> Vec<f32> {
    let mut numbers = Numbers(77);
    let mut x: Vec<f32> = (0..m * k).map(|_| numbers.real() * 3.0).collect();
    x[..32].fill(0.0);
    x
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|v| v.to_bits()).collect()
}

#[test]
fn quantised_products_follow_the_specification_everywhere() {
    let (n, k) = (53, 768);
    for format in QUANTISED {
        let bytes = stored(format, n, k, 5);
        let weights = PackedMatrix::pack(&Threads::single(), format, n, k, &bytes).unwrap();
        let row = format.row_bytes(k).unwrap();
        let x = activations(103, k);
        let expected: Vec<f32> = x
            .chunks_exact(k)
            .flat_map(|x| {
                bytes
                    .chunks_exact(row)
                    .map(move |w| reference(format, w, x))
            })
            .collect();
        for isa in Isa::available() {
            for threads in [1, 2] {
                let threads = Threads::new(threads);
                for m in [1, 2, 3, 5, 6, 7, 13, 103] {
                    let mut rows = QuantRows::new();
                    rows.quantise(isa, &threads, &x[..m * k], k);
                    let mut out = vec![f32::NAN; m * n];
                    weights.multiply(isa, &threads, Input::Quantised(&rows), &mut out);
                    assert_eq!(
                        bits(&out),
                        bits(&expected[..m * n]),
                        "{format:?}, {isa}, {threads:?}, {m} rows"
                    );
                }
            }
        }
    }
}

/// Every sum of products is as large as its format allows: what is added in fewer bits must have room for it.
#[test]
fn the_largest_codes_overflow_nothing() {
    let (n, k, m) = (33, 512, 7);
    for format in QUANTISED {
        for (byte, sign) in [
            (0xff, 1.0),
            (0xff, -1.0),
            (0x80, 1.0),
            (0x80, -1.0),
            (0x7f, 1.0),
            (0, -1.0),
        ] {
            let mut bytes = vec![byte; format.row_bytes(k).unwrap() * n];
            let scales: &[usize] = match format {
                Format::Q4K | Format::Q5K => &[0, 2],
                Format::Q6K => &[208],
                _ => &[0],
            };
            for block in bytes.chunks_exact_mut(format.block_bytes()) {
                for &at in scales {
                    block[at..at + 2].copy_from_slice(&f32_to_f16(0.25).to_le_bytes());
                }
            }
            let weights = PackedMatrix::pack(&Threads::single(), format, n, k, &bytes).unwrap();
            let x = vec![sign; m * k];
            let row = &bytes[..format.row_bytes(k).unwrap()];
            let expected = vec![reference(format, row, &x[..k]); m * n];
            for isa in Isa::available() {
                let mut rows = QuantRows::new();
                rows.quantise(isa, &Threads::single(), &x, k);
                let mut out = vec![f32::NAN; m * n];
                weights.multiply(isa, &Threads::single(), Input::Quantised(&rows), &mut out);
                assert_eq!(
                    bits(&out),
                    bits(&expected),
                    "{format:?}, {isa}, bytes {byte}, {sign}"
                );
            }
        }
    }
}

#[test]
fn dense_products_have_the_order_of_every_matrix_product() {
    let (n, k) = (41, 700);
    for format in [Format::F32, Format::F16, Format::BF16] {
        let bytes = stored(format, n, k, 9);
        let bytes = if format == Format::F16 {
            let wide = stored(Format::F32, n, k, 9);
            wide.chunks_exact(4)
                .flat_map(|b| f32_to_f16(f32::from_le_bytes(b.try_into().unwrap())).to_le_bytes())
                .collect()
        } else {
            bytes
        };
        let wide: Vec<f32> = match format {
            Format::F32 => bytes
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
                .collect(),
            Format::F16 => bytes
                .chunks_exact(2)
                .map(|b| f16_to_f32(u16::from_le_bytes(b.try_into().unwrap())))
                .collect(),
            _ => bytes
                .chunks_exact(2)
                .map(|b| bf16_to_f32(u16::from_le_bytes(b.try_into().unwrap())))
                .collect(),
        };
        let weights = PackedMatrix::pack(&Threads::single(), format, n, k, &bytes).unwrap();
        let x = activations(15, k);
        for isa in Isa::available() {
            for m in [1, 2, 3, 4, 9, 15] {
                let mut out = vec![f32::NAN; m * n];
                weights.multiply(isa, &Threads::new(2), Input::Dense(&x[..m * k]), &mut out);
                for (i, x) in x[..m * k].chunks_exact(k).enumerate() {
                    for (j, w) in wide.chunks_exact(k).enumerate() {
                        let expected = product(x, |i| w[i]);
                        assert_eq!(
                            out[i * n + j].to_bits(),
                            expected.to_bits(),
                            "{format:?} {isa}"
                        );
                    }
                }
            }
        }
        let mut row = vec![0.0; k];
        weights.row(n - 1, &mut row);
        assert_eq!(bits(&row), bits(&wide[(n - 1) * k..]));
    }
}

#[test]
fn rows_are_read_as_the_format_defines_them() {
    let (n, k) = (19, 512);
    for format in QUANTISED {
        let bytes = stored(format, n, k, 3);
        let weights = PackedMatrix::pack(&Threads::new(2), format, n, k, &bytes).unwrap();
        let row_bytes = format.row_bytes(k).unwrap();
        let mut out = vec![0.0; k];
        for (r, row) in bytes.chunks_exact(row_bytes).enumerate() {
            weights.row(r, &mut out);
            for (i, out) in out.iter().enumerate() {
                let (scale, minimum, code) = value(format, row, i);
                let expected = if matches!(format, Format::Q4K | Format::Q5K) {
                    scale.mul_add(code as f32, -minimum)
                } else {
                    scale * code as f32
                };
                assert_eq!(
                    out.to_bits(),
                    expected.to_bits(),
                    "{format:?} row {r} value {i}"
                );
            }
        }
    }
}

#[test]
fn what_is_not_finite_becomes_the_one_nan_in_its_row_alone() {
    let (n, k) = (17, 256);
    for format in QUANTISED {
        let bytes = stored(format, n, k, 4);
        let weights = PackedMatrix::pack(&Threads::single(), format, n, k, &bytes).unwrap();
        let mut x = activations(3, k);
        x[k + 40] = f32::INFINITY;
        for isa in Isa::available() {
            let mut rows = QuantRows::new();
            rows.quantise(isa, &Threads::single(), &x, k);
            let mut out = vec![0.0; 3 * n];
            weights.multiply(isa, &Threads::single(), Input::Quantised(&rows), &mut out);
            assert!(out[..n].iter().chain(&out[2 * n..]).all(|v| v.is_finite()));
            assert!(
                out[n..2 * n].iter().all(|v| v.to_bits() == 0x7fc0_0000),
                "{format:?} {isa}"
            );
        }
    }
}

#[test]
fn packed_weights_take_about_the_memory_of_their_file() {
    let (n, k) = (128, 1024);
    for format in QUANTISED.into_iter().chain([Format::F32, Format::F16]) {
        let bytes = stored(format, n, k, 1);
        let weights = PackedMatrix::pack(&Threads::single(), format, n, k, &bytes).unwrap();
        let ratio = weights.bytes() as f64 / bytes.len() as f64;
        assert!((1.0..1.03).contains(&ratio), "{format:?}: {ratio}");
    }
}

#[test]
fn bytes_that_do_not_fit_the_shape_are_refused() {
    let pack = |format, n, k, len| {
        PackedMatrix::pack(&Threads::single(), format, n, k, &vec![0; len]).map(|m| m.bytes())
    };
    assert_eq!(
        pack(Format::Q4K, 1, 128, 72),
        Err(PackError::Row {
            format: Format::Q4K,
            k: 128
        })
    );
    assert!(matches!(
        pack(Format::Q8_0, 2, 32, 67),
        Err(PackError::Bytes {
            expected: Some(68),
            found: 67,
            ..
        })
    ));
    assert!(matches!(
        pack(Format::Q8_0, usize::MAX / 2, 64, 68),
        Err(PackError::Bytes { expected: None, .. })
    ));
    assert_eq!(pack(Format::F32, 0, 8, 0), Ok(0));
}

//! Integer convolutions with the channels last, on every instruction set.

use crate::common::{Source, assert_same_bits, everywhere};
use crate::int8::{Bytes, check_finished, scaled, with};
use lemma_kernels::int8::{FiltersInt8, FiltersInt8Last, Int8, Output, conv_int8, conv_int8_last};
use lemma_kernels::{Chain, Conv, ConvSpec, Isa, Threads, transpose};

#[test]
fn they_agree_with_those_with_channels_first() {
    let mut source = Source::new(305);
    for (channels, out, groups, kernel, stride, dilation, pad) in [
        (5, 7, 1, 3, 1, 1, 1),
        (40, 70, 1, 3, 1, 1, 2),
        (3, 50, 1, 3, 2, 2, 3),
        (70, 70, 70, 3, 1, 1, 2),
        (9, 9, 9, 2, 2, 3, 0),
        (128, 128, 128, 5, 1, 1, 2),
        (64, 64, 64, 3, 2, 1, 1),
        (64, 50, 1, 1, 1, 1, 0),
    ] {
        for (signed, weights_signed) in [(false, true), (true, false), (true, true)] {
            let shape = Conv::new(&ConvSpec {
                batch: 2,
                in_channels: channels,
                out_channels: out,
                groups,
                input: &[8, 9],
                kernel: &[kernel, kernel],
                strides: &[stride, stride],
                dilations: &[dilation, dilation],
                pads_begin: &[pad, pad],
                pads_end: &[0, pad],
            })
            .expect("a valid geometry");
            let places: usize = shape.output_shape().iter().product();
            let x = Bytes::new(&mut source, shape.input_len(), signed);
            let w = Bytes::new(&mut source, shape.filter_len(), weights_signed);
            let w_zero: Vec<i32> = match stride {
                1 => vec![0],
                _ => (0..out).map(|_| source.below(9) as i32).collect(),
            };
            let zero = if signed { -3 } else { 117 };
            let one = Threads::single();
            let first = with(&w, |w| FiltersInt8::pack(&shape, w));
            let mut sums = vec![0; shape.output_len()];
            with(&x, |x| {
                conv_int8(
                    Isa::PORTABLE,
                    &one,
                    &shape,
                    x,
                    zero,
                    &first,
                    &w_zero,
                    &mut sums,
                );
            });
            let mut turned = vec![0; sums.len()];
            transpose(&one, 2, out, places, &sums, &mut turned);
            let (scale, bias) = (source.values(out), source.values(out));
            let expected = scaled(&turned, &scale, &bias);
            let mut last = Bytes(vec![0; x.0.len()], signed);
            transpose(&one, 2, channels, 72, &x.0, &mut last.0);
            for packed_for in Isa::available() {
                let packed = with(&w, |w| {
                    FiltersInt8Last::pack(packed_for, &shape, w, &w_zero)
                });
                let packed = packed.expect("groups that are known");
                everywhere(|isa, threads| {
                    check_finished(&expected, isa, &scale, &bias, |chain, to| {
                        with(&last, |x| {
                            conv_int8_last(isa, threads, &shape, x, zero, &packed, chain, to);
                        });
                    });
                });
            }
        }
    }
}

/// As many channels and as large integers as windows of 3 × 3 are taken with in fewer multiplications, in 16 and 32 bits.
#[test]
fn the_largest_integers_of_small_windows_overflow_nothing() {
    let (channels, out, size) = (512, 3, 5);
    let conv = Conv::new(&ConvSpec {
        batch: 1,
        in_channels: channels,
        out_channels: out,
        groups: 1,
        input: &[size, size],
        kernel: &[3, 3],
        strides: &[1, 1],
        dilations: &[1, 1],
        pads_begin: &[1, 1],
        pads_end: &[1, 1],
    })
    .expect("a valid geometry");
    for (zero, other) in [(0, 255), (255, 0)] {
        for (w_zero, w) in [(-128, 127), (127, -128)] {
            let x = vec![other as u8; conv.input_len()];
            let filters = vec![w as i8; conv.filter_len()];
            let product = (other - zero) * (w - w_zero) * channels as i32;
            let places = |i: usize| if i == 0 || i + 1 == size { 2 } else { 3 };
            let sum = |i: usize| product * places(i / out / size) * places(i / out % size);
            let expected: Vec<f32> = (0..conv.output_len()).map(|i| sum(i) as f32).collect();
            for packed_for in Isa::available() {
                let filters = Int8::Signed(&filters);
                let filters = FiltersInt8Last::pack(packed_for, &conv, filters, &[w_zero]);
                let filters = filters.expect("one group");
                everywhere(|isa, threads| {
                    let mut y = vec![0.0; conv.output_len()];
                    let (x, to) = (Int8::Unsigned(&x), Output::Float(&mut y));
                    conv_int8_last(isa, threads, &conv, x, zero, &filters, &Chain::NONE, to);
                    assert_same_bits(&y, &expected, "sums");
                });
            }
        }
    }
}

#[test]
#[should_panic(expected = "zero point is no value of the input's type")]
fn zero_points_that_no_byte_has_are_refused() {
    let conv = Conv::new(&ConvSpec {
        batch: 1,
        in_channels: 1,
        out_channels: 1,
        groups: 1,
        input: &[3],
        kernel: &[3],
        strides: &[1],
        dilations: &[1],
        pads_begin: &[1],
        pads_end: &[1],
    })
    .expect("a valid geometry");
    let isa = Isa::detect();
    let filters = FiltersInt8Last::pack(isa, &conv, Int8::Signed(&[1; 3]), &[0]);
    let (x, to) = (Int8::Unsigned(&[0; 3]), Output::Float(&mut [0.0; 3]));
    let filters = filters.expect("one group");
    conv_int8_last(
        isa,
        &Threads::single(),
        &conv,
        x,
        256,
        &filters,
        &Chain::NONE,
        to,
    );
}

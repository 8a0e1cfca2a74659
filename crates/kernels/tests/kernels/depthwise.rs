//! Convolutions of 8-bit integers, each channel by its own filter, where outputs beside each other are taken for one.

use lemma_kernels::int8::{FiltersInt8Last, Int8, Output, Quantisation, Quantised, conv_int8_last};
use lemma_kernels::{Binary, Chain, Conv, ConvSpec, Isa, Link, Source as Operand, Threads, Unary};

use crate::common::{Source, everywhere};

/// Numbers of channels of which 1, 2, 4 or no few make whole panels; lines of outputs that are or are no multiple of these;
/// windows with and without padding; operands of every kind that may follow.
#[test]
fn outputs_taken_for_one_are_what_they_are_alone() {
    let mut source = Source::new(313);
    for (channels, width, kernel, stride, dilation, pads) in [
        (32, 12, 3, 1, 1, [1, 1]),
        (16, 12, 3, 1, 1, [1, 1]),
        (16, 10, 3, 1, 1, [1, 1]),
        (144, 8, 3, 1, 1, [2, 0]),
        (48, 11, 2, 1, 3, [0, 0]),
        (96, 8, 5, 1, 1, [2, 2]),
        (32, 12, 3, 2, 1, [1, 1]),
        (24, 8, 3, 1, 1, [1, 1]),
        (128, 8, 3, 1, 1, [1, 1]),
    ] {
        let conv = Conv::new(&ConvSpec {
            batch: 2,
            in_channels: channels,
            out_channels: channels,
            groups: channels,
            input: &[7, width],
            kernel: &[3, kernel],
            strides: &[1, stride],
            dilations: &[1, dilation],
            pads_begin: &[1, pads[0]],
            pads_end: &[0, pads[1]],
        })
        .expect("a valid geometry");
        let mut bytes = |len: usize| -> Vec<u8> { (0..len).map(|_| source.bits() as u8).collect() };
        let (x, w, others) = (
            bytes(conv.input_len()),
            bytes(conv.filter_len()),
            bytes(conv.output_len()),
        );
        let signed =
            |values: &[u8]| -> Vec<i8> { values.iter().map(|v| v.cast_signed()).collect() };
        let (signed_x, w) = (signed(&x), signed(&w));
        let scale: Vec<f32> = source.values(channels).iter().map(|x| x * 0.01).collect();
        let bias: Vec<f32> = source.values(channels).iter().map(|x| x * 50.0).collect();
        let places = source.values(conv.output_len() / channels);
        let how = |scale| Quantisation {
            scale,
            zero: 100,
            signed: false,
        };
        let each = Operand::Each {
            values: &places,
            divide: 1,
            modulo: usize::MAX,
        };
        let value = Operand::Value;
        let links = [
            Link::Binary(Binary::Mul, value(0), Operand::columns(&scale)),
            Link::Binary(Binary::Add, value(1), Operand::columns(&bias)),
            Link::Requantise(2, how(0.9)),
            Link::Dequantise(Int8::Unsigned(&others), how(0.4)),
            Link::Binary(Binary::Add, value(3), value(4)),
            Link::Unary(Unary::Relu, 5),
            Link::Binary(Binary::Add, value(6), each),
        ];
        for (links, x) in [
            (&links[..2], Int8::Unsigned(&x)),
            (&links[..6], Int8::Signed(&signed_x)),
            (&links[..], Int8::Unsigned(&x)),
        ] {
            let run = |isa: Isa, threads: &Threads| {
                let mut y = vec![1u8; conv.output_len()];
                let to = Output::Quantised {
                    y: Quantised::Unsigned(&mut y),
                    scale: 0.7,
                    zero: 30,
                };
                let zero = if matches!(x, Int8::Signed(_)) { -5 } else { 9 };
                let w = Int8::Signed(&w);
                let filters = FiltersInt8Last::pack(isa, &conv, w, &[0]).expect("one each");
                conv_int8_last(
                    isa,
                    threads,
                    &conv,
                    x,
                    zero,
                    &filters,
                    &Chain::new(links),
                    to,
                );
                y
            };
            let expected = run(Isa::PORTABLE, &Threads::single());
            everywhere(|isa, threads| {
                let y = run(isa, threads);
                let at = y.iter().zip(&expected).position(|(y, e)| y != e);
                assert_eq!(
                    at,
                    None,
                    "{isa} {channels} {width} {stride} {}",
                    links.len()
                );
            });
        }
    }
}

/// A convolution of each channel by its own filter: `[batch, depth, height, width, channels]`, one step after another.
struct Sums<'a> {
    spec: &'a ConvSpec<'a>,
    conv: &'a Conv,
    x: &'a [i32],
    taps: &'a [i32],
}

impl Sums<'_> {
    /// The sums under all windows, as f32, which they fit.
    fn all(&self) -> Vec<f32> {
        let (n, output) = (self.spec.out_channels, self.conv.output_shape());
        let [oa, ob, oc] = [output[0], output[1], output[2]];
        let mut sums = Vec::new();
        for i in 0..self.spec.batch * oa * ob * oc {
            let at = [i / oc / ob % oa, i / oc % ob, i % oc];
            sums.extend((0..n).map(|channel| self.one(i / oc / ob / oa, at, channel) as f32));
        }
        sums
    }

    fn one(&self, image: usize, at: [usize; 3], channel: usize) -> i32 {
        let (spec, n) = (self.spec, self.spec.out_channels);
        let kernel: usize = spec.kernel.iter().product();
        let under = |tap: usize| {
            let (height, width) = (spec.kernel[1], spec.kernel[2]);
            let offsets = [tap / width / height, tap / width % height, tap % width];
            let mut place = image;
            for axis in 0..3 {
                let i = at[axis] * spec.strides[axis] + offsets[axis] * spec.dilations[axis];
                let i = i.checked_sub(spec.pads_begin[axis])?;
                place = (i < spec.input[axis]).then_some(place * spec.input[axis] + i)?;
            }
            Some(self.x[place * n + channel] * self.taps[channel * kernel + tap])
        };
        (0..kernel).filter_map(under).sum()
    }
}

/// Values, taps and zero points at their ends; rests of channels and lines; strides, dilations, and padding on each side.
#[test]
fn ends_of_bytes_and_edges_of_inputs() {
    let mut source = Source::new(317);
    let geometries = [
        // Kernel, strides, dilations, padding before and after, input.
        (
            [1, 3, 3],
            [1, 1, 1],
            [1, 1, 1],
            [0, 1, 1],
            [0, 1, 1],
            [1, 5, 8],
        ),
        (
            [1, 3, 3],
            [1, 2, 2],
            [1, 1, 1],
            [0, 0, 1],
            [0, 1, 0],
            [1, 7, 14],
        ),
        (
            [1, 5, 5],
            [1, 1, 1],
            [1, 1, 1],
            [0, 2, 0],
            [0, 0, 3],
            [1, 4, 7],
        ),
        (
            [1, 5, 5],
            [1, 2, 2],
            [1, 1, 1],
            [0, 2, 2],
            [0, 2, 2],
            [1, 9, 3],
        ),
        (
            [1, 2, 3],
            [1, 3, 1],
            [1, 1, 3],
            [0, 0, 5],
            [0, 0, 4],
            [1, 6, 5],
        ),
        (
            [2, 1, 2],
            [1, 1, 2],
            [2, 1, 1],
            [1, 0, 0],
            [2, 0, 1],
            [3, 2, 5],
        ),
        (
            [1, 1, 1],
            [1, 1, 1],
            [1, 1, 1],
            [0, 0, 0],
            [0, 0, 0],
            [1, 1, 2],
        ),
    ];
    for channels in [2, 3, 8, 31, 32, 33, 64, 80, 97, 130] {
        for (kernel, strides, dilations, before, after, input) in geometries {
            let spec = ConvSpec {
                batch: 2,
                in_channels: channels,
                out_channels: channels,
                groups: channels,
                input: &input,
                kernel: &kernel,
                strides: &strides,
                dilations: &dilations,
                pads_begin: &before,
                pads_end: &after,
            };
            let conv = Conv::new(&spec).expect("a valid geometry");
            // Zero points of values and taps: of each type, both ends and one between.
            for (signed, x_zero, taps_signed, tap_zero) in [
                (false, 0, true, 0),
                (false, 255, true, -128),
                (false, 117, false, 255),
                (true, -128, false, 0),
                (true, 127, true, 127),
                (true, -3, true, 0),
            ] {
                let mut bytes = |len: usize| -> Vec<u8> {
                    let ends = [0, 127, 128, 255];
                    let mut byte = || match source.below(3) {
                        0 => source.bits() as u8,
                        _ => ends[source.below(4)],
                    };
                    (0..len).map(|_| byte()).collect()
                };
                let (x, w) = (bytes(conv.input_len()), bytes(conv.filter_len()));
                let as_signed =
                    |values: &[u8]| values.iter().map(|v| v.cast_signed()).collect::<Vec<i8>>();
                let (signed_x, signed_w) = (as_signed(&x), as_signed(&w));
                let less = |signed: bool, values: &[u8], zero: i32| -> Vec<i32> {
                    let value = |&v: &u8| match signed {
                        true => i32::from(v.cast_signed()),
                        false => i32::from(v),
                    };
                    values.iter().map(|v| value(v) - zero).collect()
                };
                let expected = Sums {
                    spec: &spec,
                    conv: &conv,
                    x: &less(signed, &x, x_zero),
                    taps: &less(taps_signed, &w, tap_zero),
                }
                .all();
                let x = match signed {
                    true => Int8::Signed(&signed_x),
                    false => Int8::Unsigned(&x),
                };
                let w = match taps_signed {
                    true => Int8::Signed(&signed_w),
                    false => Int8::Unsigned(&w),
                };
                everywhere(|isa, threads| {
                    let filters = FiltersInt8Last::pack(isa, &conv, w, &[tap_zero]);
                    let filters = filters.expect("one each");
                    let mut y = vec![f32::NAN; conv.output_len()];
                    let to = Output::Float(&mut y);
                    conv_int8_last(isa, threads, &conv, x, x_zero, &filters, &Chain::NONE, to);
                    let at = y.iter().zip(&expected).position(|(y, e)| y != e);
                    assert_eq!(
                        at, None,
                        "{isa} {channels} {kernel:?} {strides:?} {x_zero} {tap_zero}"
                    );
                });
            }
        }
    }
}

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
        let isa = Isa::detect();
        let filters = FiltersInt8Last::pack(isa, &conv, Int8::Signed(&w), &[0]).expect("one each");
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

//! Convolution and pooling against their definitions.

use crate::common::{Source, assert_canonical, assert_same_bits};
use lemma_kernels::{
    Conv, ConvSpec, Isa, PackedFilters, Pool, PoolSpec, ShapeError, average_pool, canonical, conv,
    math, max_pool, product,
};

/// A geometry with lists of one to three axes.
#[derive(Clone, Debug)]
struct Case {
    batch: usize,
    groups: usize,
    /// Channels of a group, in and out.
    channels: [usize; 2],
    input: Vec<usize>,
    kernel: Vec<usize>,
    strides: Vec<usize>,
    dilations: Vec<usize>,
    begin: Vec<usize>,
    end: Vec<usize>,
}

impl Case {
    fn random(source: &mut Source) -> Case {
        let rank = 1 + source.below(3);
        let mut list = |low: usize, high: usize| -> Vec<usize> {
            (0..rank)
                .map(|_| low + source.below(high - low + 1))
                .collect()
        };
        let kernel = list(1, 4);
        let dilations = list(1, 2);
        let (strides, begin, end) = (list(1, 3), list(0, 3), list(0, 3));
        let extra = list(0, if rank == 3 { 4 } else { 14 });
        let input = (0..rank)
            .map(|i| (kernel[i] - 1) * dilations[i] + 1 + extra[i])
            .collect();
        Case {
            batch: 1 + source.below(2),
            groups: 1 + source.below(3),
            channels: [1 + source.below(3), 1 + source.below(5)],
            input,
            kernel,
            strides,
            dilations,
            begin,
            end,
        }
    }

    fn conv(&self) -> Conv {
        Conv::new(&ConvSpec {
            batch: self.batch,
            in_channels: self.groups * self.channels[0],
            out_channels: self.groups * self.channels[1],
            groups: self.groups,
            input: &self.input,
            kernel: &self.kernel,
            strides: &self.strides,
            dilations: &self.dilations,
            pads_begin: &self.begin,
            pads_end: &self.end,
        })
        .expect("a valid geometry")
    }

    fn pool(&self, ceil_mode: bool) -> Result<Pool, ShapeError> {
        Pool::new(&PoolSpec {
            planes: self.batch * self.groups,
            input: &self.input,
            kernel: &self.kernel,
            strides: &self.strides,
            dilations: &self.dilations,
            pads_begin: &self.begin,
            pads_end: &self.end,
            ceil_mode,
        })
    }

    /// Where in its plane the value lies that window position `tap` sees at `output`: nothing in
    /// the padding. Both are numbered in row-major order; so is the result.
    fn under(&self, shape: &[usize], output: usize, tap: usize) -> Option<usize> {
        let (mut output, mut tap, mut at, mut step) = (output, tap, 0, 1);
        for i in (0..shape.len()).rev() {
            let o = output % shape[i];
            let k = tap % self.kernel[i];
            let place = (o * self.strides[i] + k * self.dilations[i]).checked_sub(self.begin[i])?;
            if place >= self.input[i] {
                return None;
            }
            at += place * step;
            step *= self.input[i];
            output /= shape[i];
            tap /= self.kernel[i];
        }
        Some(at)
    }

    /// Convolution, each output by the definition.
    fn convolved(&self, x: &[f32], filters: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
        let shape = self.conv().output_shape();
        let out_plane: usize = shape.iter().product();
        let taps: usize = self.kernel.iter().product();
        let plane: usize = self.input.iter().product();
        let [inputs, outputs] = self.channels;
        (0..self.batch * self.groups * outputs * out_plane)
            .map(|i| {
                let (channel, position) = (i / out_plane, i % out_plane);
                let group = channel / outputs;
                let filter = channel % (self.groups * outputs);
                let row = &filters[filter * inputs * taps..(filter + 1) * inputs * taps];
                let sum = product(row, |k| match self.under(&shape, position, k % taps) {
                    Some(at) => x[(group * inputs + k / taps) * plane + at],
                    None => 0.0,
                });
                canonical(bias.map_or(sum, |b| sum + b[filter]))
            })
            .collect()
    }

    fn check(&self, x: &[f32], filters: &[f32], bias: Option<&[f32]>) {
        let geometry = self.conv();
        let expected = self.convolved(x, filters, bias);
        assert_canonical(&expected, "definition");
        let packed = PackedFilters::pack(&geometry, filters);
        for isa in Isa::available() {
            let mut y = vec![f32::NAN; geometry.output_len()];
            conv(isa, &geometry, x, &packed, bias, &mut y);
            assert_same_bits(&y, &expected, format!("{isa} {self:?}"));
        }
    }
}

#[test]
fn convolutions_of_all_shapes_follow_the_definition() {
    let mut source = Source::new(11);
    for i in 0..150 {
        let case = Case::random(&mut source);
        let geometry = case.conv();
        let x = source.values(geometry.input_len());
        let filters = source.values(geometry.filter_len());
        let bias = source.values(geometry.out_channels());
        case.check(&x, &filters, (i % 2 == 0).then_some(&bias));
    }
}

#[test]
fn special_values_and_padding_follow_the_definition() {
    let mut source = Source::new(12);
    for _ in 0..60 {
        let case = Case::random(&mut source);
        let geometry = case.conv();
        let x = source.wild(geometry.input_len());
        let filters = source.wild(geometry.filter_len());
        case.check(&x, &filters, Some(&source.wild(geometry.out_channels())));
    }
}

/// One axis, one channel, one image.
fn plain(input: usize, kernel: usize, pads: usize) -> Case {
    Case {
        batch: 1,
        groups: 1,
        channels: [1, 1],
        input: vec![input],
        kernel: vec![kernel],
        strides: vec![1],
        dilations: vec![1],
        begin: vec![pads],
        end: vec![pads],
    }
}

#[test]
fn padding_is_a_multiplication_by_zero() {
    // An infinite weight over padding gives ∞ · 0.
    let case = plain(2, 3, 1);
    let expected = case.convolved(&[1.0, 1.0], &[f32::INFINITY, 1.0, 1.0], None);
    assert!(expected[0].is_nan() && expected[1] == f32::INFINITY);
    case.check(&[1.0, 1.0], &[f32::INFINITY, 1.0, 1.0], None);
}

#[test]
fn deep_and_wide_convolutions_follow_the_definition() {
    let mut source = Source::new(13);
    for case in [
        // More than one block of k, more than one sliver, several panels.
        Case {
            channels: [40, 14],
            ..square(9, 3, 1)
        },
        Case {
            channels: [70, 3],
            ..square(12, 2, 0)
        },
        // Pointwise: the axes flatten.
        Case {
            channels: [33, 17],
            ..square(11, 1, 0)
        },
        // One channel, but filters beyond one block of k.
        Case {
            channels: [1, 2],
            ..square(18, 17, 3)
        },
        // Depthwise of every vector width.
        Case {
            groups: 5,
            ..square(7, 3, 1)
        },
        Case {
            groups: 2,
            ..square(15, 3, 1)
        },
        Case {
            groups: 2,
            ..square(41, 5, 2)
        },
        Case {
            groups: 2,
            strides: vec![2, 2],
            ..square(70, 3, 1)
        },
    ] {
        let geometry = case.conv();
        let x = source.values(geometry.input_len());
        let filters = source.values(geometry.filter_len());
        case.check(&x, &filters, None);
    }
}

fn square(input: usize, kernel: usize, pads: usize) -> Case {
    Case {
        input: vec![input; 2],
        kernel: vec![kernel; 2],
        strides: vec![1; 2],
        dilations: vec![1; 2],
        begin: vec![pads; 2],
        end: vec![pads; 2],
        ..plain(1, 1, 0)
    }
}

#[test]
fn images_alone_equal_images_in_a_batch() {
    let mut source = Source::new(14);
    let case = Case {
        batch: 3,
        groups: 2,
        channels: [5, 7],
        ..square(8, 3, 1)
    };
    let (whole, one) = (
        case.conv(),
        Case {
            batch: 1,
            ..case.clone()
        }
        .conv(),
    );
    let x = source.values(whole.input_len());
    let packed = PackedFilters::pack(&one, &source.values(one.filter_len()));
    for isa in Isa::available() {
        let (mut all, mut each) = (vec![0.0; whole.output_len()], vec![0.0; whole.output_len()]);
        conv(isa, &whole, &x, &packed, None, &mut all);
        for (x, y) in x
            .chunks(one.input_len())
            .zip(each.chunks_mut(one.output_len()))
        {
            conv(isa, &one, x, &packed, None, y);
        }
        assert_same_bits(&each, &all, isa);
    }
}

#[test]
fn pools_of_all_shapes_follow_the_definition() {
    let mut source = Source::new(15);
    let mut checked = 0;
    for i in 0..400 {
        let case = Case::random(&mut source);
        let Ok(pool) = case.pool(i % 2 == 0) else {
            continue;
        };
        checked += 1;
        let x = if i % 3 == 0 {
            source.wild(pool.input_len())
        } else {
            source.values(pool.input_len())
        };
        let shape = pool.output_shape();
        let out_plane: usize = shape.iter().product();
        let taps: usize = case.kernel.iter().product();
        let plane: usize = case.input.iter().product();
        let seen = |i: usize| {
            let (case, shape) = (&case, &shape);
            let start = i / out_plane * plane;
            (0..taps).filter_map(move |t| Some(start + case.under(shape, i % out_plane, t)?))
        };
        let largest: Vec<f32> = (0..pool.output_len())
            .map(|i| seen(i).fold(f32::NEG_INFINITY, |best, at| math::max(best, x[at])))
            .collect();
        let means = |count: &dyn Fn(usize) -> usize| -> Vec<f32> {
            let sum = |i| seen(i).fold(0.0, |sum, at| sum + x[at]);
            (0..pool.output_len())
                .map(|i| canonical(sum(i) / count(i) as f32))
                .collect()
        };
        let inside = means(&|i| seen(i).count());
        let padded = means(&|i| padded_positions(&case, &shape, i % out_plane));
        for isa in Isa::available() {
            let mut y = vec![f32::NAN; pool.output_len()];
            max_pool(isa, &pool, &x, &mut y);
            assert_same_bits(&y, &largest, format!("{isa} largest of {case:?}"));
            average_pool(isa, &pool, false, &x, &mut y);
            assert_same_bits(&y, &inside, format!("{isa} mean of {case:?}"));
            average_pool(isa, &pool, true, &x, &mut y);
            assert_same_bits(&y, &padded, format!("{isa} padded mean of {case:?}"));
        }
    }
    assert!(checked > 50, "only {checked} geometries were valid");
}

/// Window positions at an output that lie in the input or its padding.
fn padded_positions(case: &Case, shape: &[usize], mut output: usize) -> usize {
    let mut count = 1;
    for i in (0..shape.len()).rev() {
        let o = output % shape[i];
        output /= shape[i];
        let padded = case.begin[i] + case.input[i] + case.end[i];
        count *= (0..case.kernel[i])
            .filter(|k| o * case.strides[i] + k * case.dilations[i] < padded)
            .count();
    }
    count
}

#[test]
fn impossible_geometries_are_refused() {
    let spec = ConvSpec {
        batch: 1,
        in_channels: 4,
        out_channels: 6,
        groups: 2,
        input: &[5, 5],
        kernel: &[3, 3],
        strides: &[1, 1],
        dilations: &[1, 1],
        pads_begin: &[0, 0],
        pads_end: &[0, 0],
    };
    assert!(Conv::new(&spec).is_ok());
    let refused = |spec: ConvSpec<'_>| Conv::new(&spec).expect_err("should be refused");
    assert!(matches!(
        refused(ConvSpec { groups: 3, ..spec }),
        ShapeError::Groups { channels: 4, .. }
    ));
    assert!(matches!(
        refused(ConvSpec { groups: 0, ..spec }),
        ShapeError::Zero(_)
    ));
    assert!(matches!(
        refused(ConvSpec {
            out_channels: 5,
            ..spec
        }),
        ShapeError::Groups { channels: 5, .. }
    ));
    assert!(matches!(
        refused(ConvSpec { input: &[], ..spec }),
        ShapeError::Rank(0)
    ));
    assert!(matches!(
        refused(ConvSpec {
            input: &[1; 4],
            ..spec
        }),
        ShapeError::Rank(4)
    ));
    assert!(matches!(
        refused(ConvSpec {
            strides: &[1],
            ..spec
        }),
        ShapeError::Length { found: 1, .. }
    ));
    assert!(matches!(
        refused(ConvSpec {
            kernel: &[6, 3],
            ..spec
        }),
        ShapeError::Window { axis: 0, .. }
    ));
    assert!(matches!(
        refused(ConvSpec {
            batch: usize::MAX / 8,
            ..spec
        }),
        ShapeError::Overflow
    ));
    // A padded input that no address reaches, and one that a caller will want to know about.
    let padded = |pad: usize| {
        Conv::new(&ConvSpec {
            input: &[1, 1],
            kernel: &[1, 1],
            strides: &[pad, pad],
            pads_begin: &[pad, pad],
            ..spec
        })
    };
    assert_eq!(padded(1 << 40), Err(ShapeError::Overflow));
    let large = padded(1 << 20).expect("a geometry of four outputs");
    assert_eq!(large.output_shape(), [2, 2]);
    assert!(large.padded_len() >= 2 << 40);
    let pool = |pads: &[usize]| {
        Case {
            begin: pads.to_vec(),
            ..square(5, 2, 0)
        }
        .pool(false)
    };
    assert!(pool(&[1, 1]).is_ok());
    assert!(matches!(
        pool(&[1, 2]),
        Err(ShapeError::Padding {
            axis: 1,
            pad: 2,
            window: 2
        })
    ));
}

/// Where one window is all there is, values beyond it are read by nobody, whatever the stride.
#[test]
fn a_stride_beyond_the_input_leaves_one_output() {
    let shape = Conv::new(&ConvSpec {
        batch: 1,
        in_channels: 2,
        out_channels: 2,
        groups: 2,
        input: &[1, 2],
        kernel: &[1, 1],
        strides: &[2, 2],
        dilations: &[1, 1],
        pads_begin: &[0, 0],
        pads_end: &[0, 0],
    })
    .expect("a valid geometry");
    assert_eq!((shape.output_shape(), shape.output_len()), (vec![1, 1], 2));
    let packed = PackedFilters::pack(&shape, &[10.0, 100.0]);
    let mut y = [0.0; 2];
    conv(
        Isa::PORTABLE,
        &shape,
        &[1.0, 2.0, 3.0, 4.0],
        &packed,
        None,
        &mut y,
    );
    assert_eq!(y, [10.0, 300.0]);
}

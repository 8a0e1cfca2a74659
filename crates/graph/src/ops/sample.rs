//! Samples of images at places that are data.

use lemma_kernels as kernels;
use lemma_types::tensor::DType;

use crate::commit::Canon;
use crate::error::OpError;
use crate::fact::{Fact, Sym, Type, show};
use crate::operator::{Concrete, Eval, Operands, Operator};
use crate::ops::broadcast::strides;
use crate::ops::expect;
use crate::tensor::Tensor;

/// How a value is made of its neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Between {
    Nearest,
    Linear,
    Cubic,
}

/// What lies outside the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outside {
    Zeros,
    Border,
    Reflection,
}

/// Samples of `[batch, channels, …]` at places `[batch, …, axes]`, which run from −1 to 1 along
/// each axis, the last axis first.
#[derive(Debug)]
pub(crate) struct GridSample {
    pub(crate) between: Between,
    pub(crate) outside: Outside,
    pub(crate) align_corners: bool,
}

/// Elements along one axis and their weights; an element may be a zero from outside.
type Taps = Vec<(Option<usize>, f32)>;

/// Mirrored at the borders until it lies between them.
fn reflect(x: f32, low: f32, high: f32) -> f32 {
    let range = high - low;
    let (distance, below) = if x < low {
        (low - x, true)
    } else if x > high {
        (x - high, false)
    } else {
        return x;
    };
    if range <= 0.0 || !distance.is_finite() {
        return low;
    }
    let whole = (distance / range).floor();
    let rest = distance - whole * range;
    // An even number of crossings ends at the border that was crossed.
    if (whole % 2.0 == 0.0) == below {
        low + rest
    } else {
        high - rest
    }
}

/// Weights of the four neighbours of a place `t` behind the second.
fn cubic(t: f32) -> [f32; 4] {
    const A: f32 = -0.75;
    let far = |x: f32| ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A;
    let near = |x: f32| ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
    [far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)]
}

impl GridSample {
    /// The elements that a place along an axis is made of.
    fn taps(&self, place: f32, size: usize) -> Taps {
        let n = size as f32;
        let mut x = if self.align_corners {
            (place + 1.0) / 2.0 * (n - 1.0)
        } else {
            ((place + 1.0) * n - 1.0) / 2.0
        };
        let (low, high) = if self.align_corners {
            (0.0, n - 1.0)
        } else {
            (-0.5, n - 0.5)
        };
        if self.between == Between::Nearest {
            x = x.round_ties_even();
        }
        match self.outside {
            Outside::Zeros => {}
            // NaN goes to the beginning.
            Outside::Border => x = if x >= 0.0 { x.min(n - 1.0) } else { 0.0 },
            Outside::Reflection => x = reflect(x, low, high),
        }
        let below = x.floor();
        let t = x - below;
        let element = |offset: f32| {
            let at = below + offset;
            let at = match self.outside {
                Outside::Zeros if at >= 0.0 && at < n => at,
                Outside::Zeros => return None,
                Outside::Border => at,
                // Toward zero: between −1 and 0 lies the first element.
                Outside::Reflection => reflect(at, low, high).trunc(),
            };
            Some((at.max(0.0) as usize).min(size - 1))
        };
        match self.between {
            Between::Nearest => vec![(element(0.0), 1.0)],
            Between::Linear => vec![(element(0.0), 1.0 - t), (element(1.0), t)],
            Between::Cubic => {
                let offsets = [-1.0, 0.0, 1.0, 2.0];
                offsets.into_iter().map(element).zip(cubic(t)).collect()
            }
        }
    }
}

/// Σ of elements times the product of their weights, the innermost axis first.
fn weigh(plane: &[f32], steps: &[usize], taps: &[Taps], at: usize) -> f32 {
    let (Some(step), Some(first)) = (steps.first(), taps.first()) else {
        return plane[at];
    };
    // One whole element keeps its bits.
    if let [(Some(i), 1.0)] = first[..] {
        return weigh(plane, &steps[1..], &taps[1..], at + i * step);
    }
    let mut sum = 0.0f32;
    for (element, weight) in first {
        let value = match element {
            Some(i) => weigh(plane, &steps[1..], &taps[1..], at + i * step),
            None => 0.0,
        };
        sum = weight.mul_add(value, sum);
    }
    sum
}

impl Operator for GridSample {
    fn name(&self) -> &'static str {
        "GridSample/1"
    }

    fn attributes(&self, canon: &mut Canon) {
        canon
            .u8(self.between as u8)
            .u8(self.outside as u8)
            .flag(self.align_corners);
    }

    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        let (x, grid) = (inputs.need(0)?, inputs.need(1)?);
        expect(x, "input 0", &[DType::F32])?;
        expect(grid, "input 1", &[DType::F32])?;
        let spatial = x.rank().saturating_sub(2);
        let fits = (1..=3).contains(&spatial)
            && grid.rank() == x.rank()
            && grid.shape()[0].unify(&x.shape()[0]).is_some()
            && grid.shape()[spatial + 1]
                .unify(&Sym::size(spatial))
                .is_some()
            && x.shape()[2..].iter().all(|d| *d != Sym::Known(0));
        if !fits {
            return Err(OpError::shape(format!(
                "places of {} in an image of {}",
                show(grid.shape()),
                show(x.shape())
            )));
        }
        let shape = [&x.shape()[..2], &grid.shape()[1..=spatial]].concat();
        Ok(vec![Type::new(DType::F32, shape)])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let (x, grid) = (cx.slice::<f32>(0)?, cx.slice::<f32>(1)?);
        let [batch, channels, image @ ..] = cx.inputs.need(0)?.shape() else {
            return Err(OpError::shape("an image has spatial dimensions"));
        };
        let grid_shape = cx.inputs.need(1)?.shape();
        if grid_shape[0] != *batch || grid_shape.last() != Some(&image.len()) || image.contains(&0)
        {
            return Err(OpError::shape("the places do not fit the image"));
        }
        let (plane, steps): (usize, _) = (image.iter().product(), strides(image));
        let places: usize = cx.shape()[2..].iter().product();
        let mut y = cx.zeros::<f32>();
        for n in 0..*batch {
            for place in 0..places {
                let at = &grid[(n * places + place) * image.len()..][..image.len()];
                let taps: Vec<Taps> = at
                    .iter()
                    .rev()
                    .zip(image)
                    .map(|(&p, &size)| self.taps(p, size))
                    .collect();
                for c in 0..*channels {
                    let values = &x[(n * channels + c) * plane..][..plane];
                    let value = weigh(values, &steps, &taps, 0);
                    y[(n * channels + c) * places + place] = kernels::canonical(value);
                }
            }
        }
        cx.output(y)
    }

    fn cost(&self, inputs: Operands<'_, Concrete>, outputs: &[Concrete]) -> u64 {
        let taps: u64 = match self.between {
            Between::Nearest => 1,
            Between::Linear => 2,
            Between::Cubic => 4,
        };
        let axes = inputs
            .get(0)
            .map_or(1, |x| x.shape.len().saturating_sub(2) as u32);
        (outputs[0].len() as u64).saturating_mul(taps.pow(axes))
    }

    fn scratch(&self, _: Operands<'_, Concrete>, _: &[Concrete]) -> u64 {
        4096
    }
}

/// The places of an image that a matrix moves, `[batch, axes, axes + 1]`, for images of the size in
/// the second operand: places of [`GridSample`].
#[derive(Debug)]
pub(crate) struct AffineGrid {
    pub(crate) align_corners: bool,
}

impl Operator for AffineGrid {
    fn name(&self) -> &'static str {
        "AffineGrid/1"
    }

    fn attributes(&self, canon: &mut Canon) {
        canon.flag(self.align_corners);
    }

    fn shape_operands(&self) -> &'static [usize] {
        &[1]
    }

    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        let (theta, size) = (inputs.need(0)?, inputs.need(1)?);
        expect(theta, "input 0", &[DType::F32])?;
        let size = size.shape_operand("input 1")?;
        let axes = size.len().saturating_sub(2);
        let fits = (2..=3).contains(&axes)
            && theta.rank() == 3
            && theta.shape()[0].unify(&size[0]).is_some()
            && theta.shape()[1].unify(&Sym::size(axes)).is_some()
            && theta.shape()[2].unify(&Sym::size(axes + 1)).is_some();
        if !fits {
            return Err(OpError::shape(format!(
                "matrices of {} for images of {}",
                show(theta.shape()),
                show(&size)
            )));
        }
        let mut shape = vec![size[0].clone()];
        shape.extend(size[2..].iter().cloned());
        shape.push(Sym::size(axes));
        Ok(vec![Type::new(DType::F32, shape)])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let theta = cx.slice::<f32>(0)?;
        let [batch, image @ .., axes] = cx.shape() else {
            return Err(OpError::shape("places have at least three dimensions"));
        };
        let steps = strides(image);
        let places: usize = image.iter().product();
        let along = |place: usize, axis: usize| {
            let (at, n) = (
                (place / steps[axis] % image[axis]) as f32,
                image[axis] as f32,
            );
            if self.align_corners && image[axis] > 1 {
                -1.0 + 2.0 * at / (n - 1.0)
            } else if self.align_corners {
                0.0
            } else {
                (2.0 * at + 1.0) / n - 1.0
            }
        };
        let mut y = Vec::with_capacity(cx.outputs[0].len());
        for n in 0..*batch {
            let matrix = &theta[n * axes * (axes + 1)..][..axes * (axes + 1)];
            for place in 0..places {
                for row in matrix.chunks_exact(axes + 1) {
                    // The last axis comes first; behind the axes stands a one.
                    let value = (0..*axes).fold(row[*axes], |sum, i| {
                        row[i].mul_add(along(place, axes - 1 - i), sum)
                    });
                    y.push(kernels::canonical(value));
                }
            }
        }
        cx.output(y)
    }

    fn cost(&self, _: Operands<'_, Concrete>, outputs: &[Concrete]) -> u64 {
        outputs[0].len() as u64 * 4
    }
}

/// Regions of images, each sampled on a grid. Operands: `[batch, channels, height, width]`, regions
/// `[regions, 4]` (left, top, right, bottom), and the image of each.
#[derive(Debug)]
pub(crate) struct RoiAlign {
    pub(crate) max: bool,
    pub(crate) half_pixel: bool,
    pub(crate) height: usize,
    pub(crate) width: usize,
    /// Samples along each side of a cell; 0 for as many as the cell is large.
    pub(crate) samples: usize,
    pub(crate) scale: f32,
}

/// The four neighbours of a place, with weights; `None` outside.
fn bilinear(y: f32, x: f32, height: usize, width: usize) -> Option<[(usize, f32); 4]> {
    let inside = |v: f32, n: usize| v >= -1.0 && v <= n as f32;
    if !inside(y, height) || !inside(x, width) {
        return None;
    }
    let side = |v: f32, n: usize| {
        let v = v.max(0.0);
        let low = v as usize;
        if low >= n - 1 {
            (n - 1, n - 1, 0.0)
        } else {
            (low, low + 1, v - low as f32)
        }
    };
    let ((top, bottom, ly), (left, right, lx)) = (side(y, height), side(x, width));
    let (hy, hx) = (1.0 - ly, 1.0 - lx);
    Some([
        (top * width + left, hy * hx),
        (top * width + right, hy * lx),
        (bottom * width + left, ly * hx),
        (bottom * width + right, ly * lx),
    ])
}

impl RoiAlign {
    /// Samples along the sides of a cell, at most: where their number follows from the region, as
    /// many as a region of the whole image calls for.
    fn most_samples(&self, image: &[usize]) -> [usize; 2] {
        match self.samples {
            0 => [
                image[0] / self.height.max(1) + 2,
                image[1] / self.width.max(1) + 2,
            ],
            n => [n, n],
        }
    }

    fn cell(&self, plane: &[f32], samples: &[Option<[(usize, f32); 4]>]) -> f32 {
        let mut result: Option<f32> = None;
        for sample in samples {
            let parts = sample.map_or([0.0; 4], |s| s.map(|(at, w)| w * plane[at]));
            let [a, b, c, d] = parts;
            let value = if self.max {
                kernels::math::max(kernels::math::max(a, b), kernels::math::max(c, d))
            } else {
                ((a + b) + c) + d
            };
            result = Some(match (result, self.max) {
                (None, _) => value,
                (Some(best), true) => kernels::math::max(best, value),
                (Some(sum), false) => sum + value,
            });
        }
        let result = result.unwrap_or(0.0);
        if self.max {
            result
        } else {
            result / samples.len().max(1) as f32
        }
    }
}

impl Operator for RoiAlign {
    fn name(&self) -> &'static str {
        "RoiAlign/1"
    }

    fn attributes(&self, canon: &mut Canon) {
        canon.flag(self.max).flag(self.half_pixel);
        canon.size(self.height).size(self.width).size(self.samples);
        canon.f32(self.scale);
    }

    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        let (x, regions, images) = (inputs.need(0)?, inputs.need(1)?, inputs.need(2)?);
        expect(x, "input 0", &[DType::F32])?;
        expect(regions, "input 1", &[DType::F32])?;
        expect(images, "input 2", &[DType::I64])?;
        let fits = x.rank() == 4
            && regions.rank() == 2
            && images.rank() == 1
            && regions.shape()[1].unify(&Sym::Known(4)).is_some()
            && regions.shape()[0].unify(&images.shape()[0]).is_some()
            && x.shape()[2..].iter().all(|d| *d != Sym::Known(0));
        if !fits {
            return Err(OpError::shape(format!(
                "regions of {} for {} in images of {}",
                show(regions.shape()),
                show(images.shape()),
                show(x.shape())
            )));
        }
        let shape = vec![
            regions.shape()[0].clone(),
            x.shape()[1].clone(),
            Sym::size(self.height),
            Sym::size(self.width),
        ];
        Ok(vec![Type::new(DType::F32, shape)])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let (x, regions, images) = (
            cx.slice::<f32>(0)?,
            cx.slice::<f32>(1)?,
            cx.slice::<i64>(2)?,
        );
        let [batch, channels, height, width] = *cx.inputs.need(0)?.shape() else {
            return Err(OpError::shape("images have four dimensions"));
        };
        if regions.len() != 4 * images.len() || height == 0 || width == 0 {
            return Err(OpError::shape("regions and images do not fit"));
        }
        let cells = self.height * self.width;
        let mut y = cx.zeros::<f32>();
        let offset = if self.half_pixel { 0.5 } else { 0.0 };
        for (n, (region, &image)) in regions.chunks_exact(4).zip(images).enumerate() {
            let image = crate::ops::index::resolve(image, batch)?;
            let [left, top, right, bottom] =
                [0, 1, 2, 3].map(|i: usize| region[i] * self.scale - offset);
            let side = |low: f32, high: f32, cells: usize| {
                let size = high - low;
                let size = if self.half_pixel { size } else { size.max(1.0) };
                let cell = size / cells as f32;
                let samples = match self.samples {
                    0 => cell.ceil(),
                    n => n as f32,
                };
                (cell, samples)
            };
            let ((cell_h, grid_h), (cell_w, grid_w)) = (
                side(top, bottom, self.height),
                side(left, right, self.width),
            );
            let [most_h, most_w] = self.most_samples(&[height, width]);
            if !(grid_h <= most_h as f32 && grid_w <= most_w as f32) {
                return Err(OpError::value(format!(
                    "a region of {region:?} is too large"
                )));
            }
            let (rows, columns) = (grid_h as usize, grid_w as usize);
            for cell in 0..cells {
                let (ph, pw) = ((cell / self.width) as f32, (cell % self.width) as f32);
                let mut samples = Vec::with_capacity(rows * columns);
                for iy in 0..rows {
                    let y = (top + ph * cell_h) + (iy as f32 + 0.5) * cell_h / grid_h;
                    for ix in 0..columns {
                        let x = (left + pw * cell_w) + (ix as f32 + 0.5) * cell_w / grid_w;
                        samples.push(bilinear(y, x, height, width));
                    }
                }
                for c in 0..channels {
                    let plane = &x[(image * channels + c) * height * width..][..height * width];
                    let value = self.cell(plane, &samples);
                    y[(n * channels + c) * cells + cell] = kernels::canonical(value);
                }
            }
        }
        cx.output(y)
    }

    fn cost(&self, inputs: Operands<'_, Concrete>, outputs: &[Concrete]) -> u64 {
        let [h, w] = inputs
            .get(0)
            .map_or([1, 1], |x| self.most_samples(&x.shape[2..]));
        (outputs[0].len() as u64).saturating_mul(4 * h.saturating_mul(w) as u64)
    }

    fn scratch(&self, inputs: Operands<'_, Concrete>, _: &[Concrete]) -> u64 {
        let [h, w] = inputs
            .get(0)
            .map_or([1, 1], |x| self.most_samples(&x.shape[2..]));
        (h as u64).saturating_mul(w as u64).saturating_mul(144)
    }
}

/// Convolution whose filters look at places that are moved by offsets. Operands: data `[batch,
/// channels, height, width]`, filters, offsets `[batch, 2 · groups · kernel, …]`, and optionally a
/// bias and factors `[batch, groups · kernel, …]`.
#[derive(Debug)]
pub(crate) struct DeformConv {
    pub(crate) groups: usize,
    pub(crate) offset_groups: usize,
    pub(crate) window: crate::ops::conv::Sliding,
}

impl DeformConv {
    fn plain(&self) -> crate::ops::conv::Conv {
        crate::ops::conv::Conv {
            groups: self.groups,
            window: self.window.clone(),
        }
    }
}

impl Operator for DeformConv {
    fn name(&self) -> &'static str {
        "DeformConv/1"
    }

    fn attributes(&self, canon: &mut Canon) {
        canon.size(self.groups).size(self.offset_groups);
        self.window.attributes(canon);
    }

    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        let (x, w, offsets) = (inputs.need(0)?, inputs.need(1)?, inputs.need(2)?);
        if x.rank() != 4 {
            return Err(OpError::unsupported("other than two spatial axes"));
        }
        let types = self
            .plain()
            .infer(Operands(&[Some(x), Some(w), inputs.get(3)]))?;
        let taps: usize = self.window.kernel.iter().product();
        let misfit = |what: &str| OpError::operand(what, "does not fit the data and the filters");
        let channels = x.shape()[1].known();
        if channels.is_some_and(|c| c % self.offset_groups as i64 != 0) {
            return Err(OpError::attribute(
                "offset_group",
                "does not divide the channels",
            ));
        }
        let check = |fact: &Fact, what: &str, count: usize| {
            expect(fact, what, &[DType::F32])?;
            let out = &types[0].shape;
            let wanted = [
                out[0].clone(),
                Sym::size(count),
                out[2].clone(),
                out[3].clone(),
            ];
            let fits = fact.rank() == 4
                && fact
                    .shape()
                    .iter()
                    .zip(&wanted)
                    .all(|(a, b)| a.unify(b).is_some());
            if fits { Ok(()) } else { Err(misfit(what)) }
        };
        check(offsets, "input 2", 2 * self.offset_groups * taps)?;
        if let Some(factors) = inputs.get(4) {
            check(factors, "input 4", self.offset_groups * taps)?;
        }
        Ok(types)
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let (x, w, offsets) = (
            cx.slice::<f32>(0)?,
            cx.slice::<f32>(1)?,
            cx.slice::<f32>(2)?,
        );
        let (bias, factors) = (cx.maybe_slice::<f32>(3)?, cx.maybe_slice::<f32>(4)?);
        let [_, channels, height, width] = *cx.inputs.need(0)?.shape() else {
            return Err(OpError::shape("images have four dimensions"));
        };
        let [batch, filters, oh, ow] = *cx.shape() else {
            return Err(OpError::shape("images have four dimensions"));
        };
        let taps: usize = self.window.kernel.iter().product();
        let (out, plane) = (oh * ow, height * width);
        if offsets.len() != batch * 2 * self.offset_groups * taps * out {
            return Err(OpError::shape("the offsets do not fit"));
        }
        let pads = self.window.pads(&[height, width])?;
        let of_group = channels / self.groups;
        let per_group = filters / self.groups;
        let per_offset = channels / self.offset_groups;
        let mut y = cx.zeros::<f32>();
        let mut column = vec![0f32; channels * taps];
        for n in 0..batch {
            for o in 0..out {
                for c in 0..channels {
                    let group = n * self.offset_groups + c / per_offset;
                    for tap in 0..taps {
                        let at = |part: usize| offsets[((group * taps + tap) * 2 + part) * out + o];
                        let base = |axis: usize, o: usize, k: usize| {
                            (o * self.window.strides[axis] + k * self.window.dilations[axis]) as f32
                                - pads.before[axis] as f32
                        };
                        let kw = self.window.kernel[1];
                        let py = base(0, o / ow, tap / kw) + at(0);
                        let px = base(1, o % ow, tap % kw) + at(1);
                        let image = &x[(n * channels + c) * plane..][..plane];
                        let value = beside(image, py, px, height, width);
                        let factor = factors.map_or(1.0, |f| f[(group * taps + tap) * out + o]);
                        column[c * taps + tap] = value * factor;
                    }
                }
                for f in 0..filters {
                    let first = f / per_group * of_group * taps;
                    let row = &w[f * of_group * taps..][..of_group * taps];
                    let sum = kernels::product(row, |k| column[first + k]);
                    let bias = bias.map_or(sum, |b| sum + b[f]);
                    y[(n * filters + f) * out + o] = kernels::canonical(bias);
                }
            }
        }
        cx.output(y)
    }

    fn cost(&self, inputs: Operands<'_, Concrete>, outputs: &[Concrete]) -> u64 {
        self.plain().cost(inputs, outputs)
    }

    fn scratch(&self, inputs: Operands<'_, Concrete>, _: &[Concrete]) -> u64 {
        let taps: usize = self.window.kernel.iter().product();
        inputs.get(0).map_or(0, |x| 4 * (x.shape[1] * taps) as u64)
    }
}

/// Between four elements of an image, with zeros around it.
fn beside(image: &[f32], y: f32, x: f32, height: usize, width: usize) -> f32 {
    let (top, left) = (y.floor(), x.floor());
    let (ty, tx) = (y - top, x - left);
    let at = |dy: f32, dx: f32| {
        let (y, x) = (top + dy, left + dx);
        let inside = y >= 0.0 && y < height as f32 && x >= 0.0 && x < width as f32;
        if inside {
            image[y as usize * width + x as usize]
        } else {
            0.0
        }
    };
    let row = |dy: f32| tx.mul_add(at(dy, 1.0), (1.0 - tx).mul_add(at(dy, 0.0), 0.0));
    ty.mul_add(row(1.0), (1.0 - ty).mul_add(row(0.0), 0.0))
}

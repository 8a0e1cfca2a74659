//! Images resized, sampled, unfolded, pooled in rarer ways.

use std::sync::Arc;

use lemma_kernels::Reduction as R;
use lemma_types::tensor::DType;

use super::linear::{convolution, groups, sliding};
use super::{Lowered, NodeContext, axis};
use crate::error::OpError;
use crate::fact::{Sym, Type};
use crate::operator::Op;
use crate::ops::conv::{Padding, Sliding};
use crate::ops::late::Late;
use crate::ops::reduce::Reduce;
use crate::ops::resize::{Coordinates, Interpolation, Nearest, Ratio, Resize};
use crate::ops::sample::{AffineGrid, Between, DeformConv, GridSample, Outside, RoiAlign};
use crate::ops::spread::{Col2Im, ConvTranspose, MaxUnpool};
use crate::ops::window::{Det, Kind, Lrn, WindowPool};
use crate::tensor::Tensor;

type Context<'n, 'a> = NodeContext<'n, 'a>;

pub(super) fn lower(cx: &mut Context<'_, '_>, op: &str) -> Option<Lowered> {
    Some(match op {
        "Resize" => resize(cx),
        "Upsample" => upsample(cx),
        "GridSample" => grid_sample(cx),
        "AffineGrid" => affine_grid(cx),
        "RoiAlign" => roi_align(cx),
        "DeformConv" => deform_conv(cx),
        "ConvTranspose" => conv_transpose(cx),
        "Col2Im" => col2im(cx),
        "MaxUnpool" => max_unpool(cx),
        "LpPool" => lp_pool(cx),
        "GlobalLpPool" => global_lp_pool(cx),
        "LRN" => lrn(cx),
        "Det" => det(cx),
        _ => return None,
    })
}

fn unknown<T>(name: &str, value: &str) -> Result<T, OpError> {
    Err(OpError::attribute(name, format!("`{value}` is not known")))
}

fn interpolation(cx: &mut Context<'_, '_>) -> Result<Interpolation, OpError> {
    let cubic = cx.float("cubic_coeff_a", -0.75)?;
    let way = match cx.text("nearest_mode", "round_prefer_floor")?.as_str() {
        "round_prefer_floor" => Nearest::RoundPreferFloor,
        "round_prefer_ceil" => Nearest::RoundPreferCeil,
        "floor" => Nearest::Floor,
        "ceil" => Nearest::Ceil,
        other => return unknown("nearest_mode", other),
    };
    match cx.text("mode", "nearest")?.as_str() {
        "nearest" => Ok(Interpolation::Nearest(way)),
        "linear" => Ok(Interpolation::Linear),
        "cubic" => Ok(Interpolation::Cubic(cubic)),
        other => unknown("mode", other),
    }
}

fn resize(cx: &mut Context<'_, '_>) -> Lowered {
    if cx.opset < 11 {
        return upsample(cx);
    }
    cx.arity(1, 4)?;
    let interpolation = interpolation(cx)?;
    let coordinates = match cx
        .text("coordinate_transformation_mode", "half_pixel")?
        .as_str()
    {
        "half_pixel" => Coordinates::HalfPixel,
        "half_pixel_symmetric" => Coordinates::HalfPixelSymmetric,
        "pytorch_half_pixel" => Coordinates::PytorchHalfPixel,
        "align_corners" => Coordinates::AlignCorners,
        "asymmetric" => Coordinates::Asymmetric,
        "tf_crop_and_resize" => Coordinates::CropAndResize,
        "tf_half_pixel_for_nn" if cx.opset < 13 => {
            return Err(OpError::attribute(
                "coordinate_transformation_mode",
                "`tf_half_pixel_for_nn` is not supported",
            )
            .into());
        }
        other => return Ok(unknown("coordinate_transformation_mode", other)?),
    };
    let ratio = match cx.text("keep_aspect_ratio_policy", "stretch")?.as_str() {
        "stretch" => Ratio::Stretch,
        "not_larger" => Ratio::NotLarger,
        "not_smaller" => Ratio::NotSmaller,
        other => return Ok(unknown("keep_aspect_ratio_policy", other)?),
    };
    let rank = cx.rank(0)?;
    let axes: Vec<usize> = match cx.ints("axes")? {
        None => (0..rank).collect(),
        Some(list) => {
            super::axes(&list, rank)?;
            let resolved: Result<_, _> = list.iter().map(|&a| axis(a, rank)).collect();
            resolved?
        }
    };
    let antialias = cx.flag("antialias", false)?;
    let exclude_outside = cx.flag("exclude_outside", false)?;
    let extrapolation = cx.float("extrapolation_value", 0.0)?;
    // Both may be there, one of them of no elements.
    let given = |index: usize| {
        let value = cx.maybe(index)?;
        (cx.builder.fact(value).ty.elements() != Some(0)).then_some(value)
    };
    let (by_size, target) = match (given(2), given(3)) {
        (Some(scales), None) => (false, scales),
        (None, Some(sizes)) => (true, sizes),
        _ => return Err(OpError::operand("scales and sizes", "one of them must be given").into()),
    };
    let cropped = coordinates == Coordinates::CropAndResize;
    let roi = if cropped { given(1) } else { None };
    let x = cx.input(0)?;
    let op = Resize {
        axes,
        by_size,
        ratio,
        coordinates,
        interpolation,
        antialias,
        exclude_outside,
        extrapolation,
    };
    Ok(vec![cx.add(op, &[Some(x), roi, Some(target)])?])
}

/// The form before operator set 11, for both names.
fn upsample(cx: &mut Context<'_, '_>) -> Lowered {
    let interpolation = match cx.text("mode", "nearest")?.as_str() {
        "nearest" => Interpolation::Nearest(Nearest::Floor),
        "linear" => Interpolation::Linear,
        other => return Ok(unknown("mode", other)?),
    };
    let scales = if cx.opset < 9 {
        cx.arity(1, 1)?;
        let scales = cx.floats("scales")?;
        let scales = scales.ok_or_else(|| OpError::attribute("scales", "is missing"))?;
        cx.tensor(Tensor::vector(scales))
    } else {
        cx.arity(2, 2)?;
        cx.input(1)?
    };
    let x = cx.input(0)?;
    let op = Resize {
        axes: (0..cx.rank(0)?).collect(),
        by_size: false,
        ratio: Ratio::Stretch,
        coordinates: Coordinates::Asymmetric,
        interpolation,
        antialias: false,
        exclude_outside: false,
        extrapolation: 0.0,
    };
    Ok(vec![cx.add(op, &[Some(x), None, Some(scales)])?])
}

fn grid_sample(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(2, 2)?;
    let align_corners = cx.flag("align_corners", false)?;
    let between = match cx
        .text("mode", if cx.opset < 20 { "bilinear" } else { "linear" })?
        .as_str()
    {
        "nearest" => Between::Nearest,
        "linear" | "bilinear" => Between::Linear,
        "cubic" | "bicubic" => Between::Cubic,
        other => return Ok(unknown("mode", other)?),
    };
    let outside = match cx.text("padding_mode", "zeros")?.as_str() {
        "zeros" => Outside::Zeros,
        "border" => Outside::Border,
        "reflection" => Outside::Reflection,
        other => return Ok(unknown("padding_mode", other)?),
    };
    cx.one(GridSample {
        between,
        outside,
        align_corners,
    })
}

fn affine_grid(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(2, 2)?;
    let align_corners = cx.flag("align_corners", false)?;
    cx.one(AffineGrid { align_corners })
}

fn roi_align(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(3, 3)?;
    let half_pixel = match cx
        .text(
            "coordinate_transformation_mode",
            if cx.opset < 16 {
                "output_half_pixel"
            } else {
                "half_pixel"
            },
        )?
        .as_str()
    {
        "half_pixel" => true,
        "output_half_pixel" => false,
        other => return Ok(unknown("coordinate_transformation_mode", other)?),
    };
    let max = match cx.text("mode", "avg")?.as_str() {
        "avg" => false,
        "max" => true,
        other => return Ok(unknown("mode", other)?),
    };
    let height = cx.positive("output_height")?.unwrap_or(1);
    let width = cx.positive("output_width")?.unwrap_or(1);
    let samples = cx.int("sampling_ratio", 0)?;
    let samples = usize::try_from(samples).ok().filter(|&n| n <= 4096);
    let samples = samples.ok_or_else(|| OpError::attribute("sampling_ratio", "is out of range"))?;
    let scale = cx.float("spatial_scale", 1.0)?;
    cx.one(RoiAlign {
        max,
        half_pixel,
        height,
        width,
        samples,
        scale,
    })
}

fn deform_conv(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(3, 5)?;
    let window = convolution(cx, 0, 1)?;
    let groups = groups(cx)?;
    let offset_groups = cx.positive("offset_group")?.unwrap_or(1);
    cx.one(DeformConv {
        groups,
        offset_groups,
        window,
    })
}

fn conv_transpose(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(2, 3)?;
    let window = convolution(cx, 0, 1)?;
    let groups = groups(cx)?;
    let spatial = window.kernel.len();
    let extra = cx
        .sizes("output_padding")?
        .unwrap_or_else(|| vec![0; spatial]);
    let sizes = cx.sizes("output_shape")?;
    // Older files give batch and channels too.
    let sizes = sizes.map(|s| s[s.len().saturating_sub(spatial)..].to_vec());
    cx.one(ConvTranspose {
        groups,
        window,
        extra,
        sizes,
    })
}

/// A window without data to take its number of axes from.
fn free_window(cx: &mut Context<'_, '_>, kernel: Vec<usize>) -> Result<Sliding, OpError> {
    let spatial = kernel.len();
    let strides = cx.sizes("strides")?.unwrap_or_else(|| vec![1; spatial]);
    let dilations = cx.sizes("dilations")?.unwrap_or_else(|| vec![1; spatial]);
    let pads = cx.sizes("pads")?.unwrap_or_else(|| vec![0; 2 * spatial]);
    if pads.len() != 2 * spatial
        || [&kernel, &strides, &dilations]
            .iter()
            .any(|l| l.contains(&0))
    {
        return Err(OpError::attribute("pads", "do not fit, or a size is 0"));
    }
    let (before, after) = pads.split_at(spatial);
    Ok(Sliding {
        kernel,
        strides,
        dilations,
        padding: Padding::Explicit {
            before: before.to_vec(),
            after: after.to_vec(),
        },
    })
}

fn as_sizes(values: &[i64], what: &str) -> Result<Vec<usize>, OpError> {
    let sizes: Result<Vec<usize>, _> = values.iter().map(|&n| usize::try_from(n)).collect();
    sizes.map_err(|_| OpError::operand(what, format!("{values:?} has a negative entry")))
}

fn col2im(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(3, 3)?;
    let x = cx.input(0)?;
    let count = cx.fact(1)?.ty.elements().unwrap_or(0) as usize;
    let spatial: Vec<usize> = vec![1; count];
    let free = free_window(cx, spatial)?;
    let make = move |image: &[i64], block: &[i64]| {
        let kernel = as_sizes(block, "block_shape")?;
        if kernel.contains(&0) || kernel.len() != free.strides.len() {
            return Err(OpError::operand("block_shape", "does not fit"));
        }
        Ok(Col2Im {
            image: as_sizes(image, "image_shape")?,
            window: Sliding {
                kernel,
                ..free.clone()
            },
        })
    };
    if let (Ok(Some(image)), Ok(Some(block))) = (cx.known_ints(1), cx.known_ints(2)) {
        return Ok(vec![cx.add(make(&image, &block)?, &[Some(x)])?]);
    }
    let image = cx.input(1)?;
    let block = cx.input(2)?;
    let probe = make(&vec![1; count], &vec![1; count])?;
    let mut canon = vec![count as u64];
    canon.extend(probe.window.strides.iter().map(|&n| n as u64));
    canon.extend(probe.window.dilations.iter().map(|&n| n as u64));
    if let Padding::Explicit { before, after } = &probe.window.padding {
        canon.extend(before.iter().chain(after).map(|&n| n as u64));
    }
    let late = Late {
        name: "Col2Im/1",
        attributes: canon,
        data: 1,
        build: Box::new(move |_, parameters| {
            let op = make(&parameters[0], &parameters[1])?;
            Ok(Some(Arc::new(op) as Op))
        }),
        open: Box::new(move |inputs| {
            let x = inputs.need(0)?;
            crate::ops::expect(x, "input 0", &[DType::F32])?;
            let batch = x.shape().first().cloned().unwrap_or(Sym::Unknown);
            let mut shape = vec![Sym::Unknown; count + 2];
            shape[0] = batch;
            Ok(vec![Type::new(DType::F32, shape)])
        }),
    };
    Ok(vec![cx.add(late, &[Some(x), Some(image), Some(block)])?])
}

fn max_unpool(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(2, 3)?;
    let kernel = cx.sizes("kernel_shape")?;
    let kernel = kernel.ok_or_else(|| OpError::attribute("kernel_shape", "is missing"))?;
    let window = free_window(cx, kernel)?;
    let Padding::Explicit { before, after } = window.padding.clone() else {
        return Err(OpError::attribute("pads", "are not explicit").into());
    };
    let inner = move |x: &[Sym]| -> Option<Vec<usize>> {
        (0..window.kernel.len())
            .map(|i| {
                let dim = usize::try_from(x.get(i + 2)?.known()?).ok()?;
                let reach = dim.checked_sub(1)?.checked_mul(window.strides[i])?;
                let full = reach.checked_add(window.kernel[i])?;
                full.checked_sub(before[i])?.checked_sub(after[i])
            })
            .collect()
    };
    let (x, positions) = (cx.input(0)?, cx.input(1)?);
    let sizes = inner(cx.fact(0)?.shape())
        .ok_or_else(|| OpError::unsupported("data of spatial sizes that are not known"))?;
    let Some(shape) = cx.maybe(2) else {
        let op = MaxUnpool {
            inner: sizes.clone(),
            outer: sizes,
        };
        return Ok(vec![cx.add(op, &[Some(x), Some(positions)])?]);
    };
    let spatial = sizes.len();
    let make = move |shape: &[i64]| {
        let outer = as_sizes(shape, "output_shape")?;
        if outer.len() != spatial + 2 {
            return Err(OpError::operand("output_shape", "does not fit"));
        }
        Ok(MaxUnpool {
            inner: sizes.clone(),
            outer: outer[2..].to_vec(),
        })
    };
    if let Ok(Some(known)) = cx.known_ints(2) {
        return Ok(vec![cx.add(make(&known)?, &[Some(x), Some(positions)])?]);
    }
    let late = Late {
        name: "MaxUnpool/1",
        attributes: vec![u64::MAX],
        data: 2,
        build: Box::new(move |_, parameters| Ok(Some(Arc::new(make(&parameters[0])?) as Op))),
        open: Box::new(move |inputs| {
            let x = inputs.need(0)?;
            let mut shape = x.shape().to_vec();
            shape[2..].fill(Sym::Unknown);
            Ok(vec![Type::new(x.dtype(), shape)])
        }),
    };
    Ok(vec![
        cx.add(late, &[Some(x), Some(positions), Some(shape)])?,
    ])
}

fn lp_pool(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(1, 1)?;
    let window = sliding(cx, None, cx.opset >= 18)?;
    let ceil_mode = cx.opset >= 18 && cx.flag("ceil_mode", false)?;
    let p = power(cx)?;
    cx.one(WindowPool {
        kind: Kind::Lp(p),
        pool: WindowPool::geometry(window, ceil_mode),
    })
}

fn power(cx: &mut Context<'_, '_>) -> Result<u32, OpError> {
    let p = cx.int("p", 2)?;
    let p = u32::try_from(p).ok().filter(|p| (1..=64).contains(p));
    p.ok_or_else(|| OpError::attribute("p", "must be a number from 1 to 64"))
}

fn global_lp_pool(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(1, 1)?;
    let op = match power(cx)? {
        1 => R::L1,
        2 => R::L2,
        _ => return Err(OpError::attribute("p", "other than 1 and 2 is not supported").into()),
    };
    let axes: Vec<usize> = (2..cx.rank(0)?).collect();
    if axes.is_empty() {
        return Err(OpError::shape("data needs a batch, a channel, and spatial dimensions").into());
    }
    cx.one(Reduce {
        op,
        axes,
        keep: true,
    })
}

fn lrn(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(1, 1)?;
    let size = cx.positive("size")?;
    let size = size.ok_or_else(|| OpError::attribute("size", "is missing"))?;
    let (alpha, beta) = (cx.float("alpha", 1e-4)?, cx.float("beta", 0.75)?);
    let bias = cx.float("bias", 1.0)?;
    cx.one(Lrn {
        size,
        alpha,
        beta,
        bias,
    })
}

fn det(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(1, 1)?;
    cx.one(Det)
}

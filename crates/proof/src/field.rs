//! The field: KoalaBear, p = 2³¹ − 2²⁴ + 1, and its extension of degree 5, with about 2¹⁵⁵
//! elements. The only module besides `pcs` that knows where they come from.

use p3_field::extension::QuinticTrinomialExtensionField;
use p3_field::{BasedVectorSpace, ExtensionField, Field, PackedValue};
use p3_koala_bear::KoalaBear;

pub(crate) use p3_field::{
    Algebra, Field as InvertibleField, PackedFieldExtension, PrimeCharacteristicRing, PrimeField32,
};

/// An element of the base field.
pub(crate) type Base = KoalaBear;

/// An element of the extension field: challenges and claims.
pub(crate) type Ext = QuinticTrinomialExtensionField<Base>;

/// As many base elements as a vector register holds.
pub(crate) type PackedBase = <Base as Field>::Packing;

/// As many extension elements.
pub(crate) type PackedExt = <Ext as ExtensionField<Base>>::ExtensionPacking;

/// Lanes of the packed types: a power of two.
pub(crate) const LANES: usize = <PackedBase as PackedValue>::WIDTH;

/// The modulus.
pub(crate) const MODULUS: u32 = Base::ORDER_U32;

/// Bytes of an extension element.
pub(crate) const EXT_BYTES: usize = 20;

/// A small signed integer as a field element.
pub(crate) fn small(v: i32) -> Base {
    Base::from_i32(v)
}

/// A power of two.
pub(crate) fn power_of_two(bits: u32) -> Base {
    Base::from_u32(1 << bits)
}

/// The canonical bytes of an element: five little-endian words below the modulus.
pub(crate) fn to_bytes(value: &Ext, out: &mut Vec<u8>) {
    let words: &[Base] = value.as_basis_coefficients_slice();
    for word in words {
        out.extend(word.as_canonical_u32().to_le_bytes());
    }
}

/// Reads one base element; `None` if it is not reduced.
pub(crate) fn base_from_bytes(bytes: [u8; 4]) -> Option<Base> {
    let word = u32::from_le_bytes(bytes);
    (word < MODULUS).then(|| Base::from_u32(word))
}

/// Reads an element, and whether its words are reduced.
pub(crate) fn from_bytes(bytes: &[u8; EXT_BYTES]) -> (Ext, bool) {
    let (words, _) = bytes.as_chunks::<4>();
    let words: [u32; 5] = std::array::from_fn(|i| u32::from_le_bytes(words[i]));
    let value = Ext::from_basis_coefficients_fn(|i| Base::from_u32(words[i] % MODULUS));
    (value, words.iter().all(|&w| w < MODULUS))
}

/// An extension element from its coefficients.
#[cfg(test)]
pub(crate) fn ext_from_fn(f: impl FnMut(usize) -> Base) -> Ext {
    Ext::from_basis_coefficients_fn(f)
}

/// The lane of an index.
pub(crate) fn lane(index: usize) -> usize {
    index.rem_euclid(LANES)
}

/// Packs elements; their number is a multiple of [`LANES`].
pub(crate) fn pack(values: &[Ext]) -> Vec<PackedExt> {
    values
        .chunks_exact(LANES)
        .map(|c| PackedExt::from_ext_fn(|lane| c[lane]))
        .collect()
}

/// The elements of packed values.
pub(crate) fn unpack(values: &[PackedExt]) -> Vec<Ext> {
    values
        .iter()
        .flat_map(|v| (0..LANES).map(move |lane| v.extract(lane)))
        .collect()
}

/// Sums, one by one.
pub(crate) fn add<T: PrimeCharacteristicRing + Copy, const N: usize>(
    a: [T; N],
    b: [T; N],
) -> [T; N] {
    std::array::from_fn(|i| a[i] + b[i])
}

/// The sum of the lanes.
pub(crate) fn lane_sum(value: PackedExt) -> Ext {
    (0..LANES).map(|lane| value.extract(lane)).sum()
}

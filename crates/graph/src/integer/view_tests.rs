use super::*;

/// Reads the map back from its factors.
fn read(factors: Vec<Factor>, axes: &[usize], dims: &[usize]) -> Vec<i32> {
    let view = View {
        source: Source::Input(0),
        factors,
    };
    view.check(axes, dims).expect("a valid view");
    let values: Vec<i32> = (1..=dims.iter().product::<usize>() as i32).collect();
    let over: Vec<usize> = (0..axes.len()).collect();
    view.gather(&values, dims, axes, &over).into_owned()
}

fn as_values(map: &[u32]) -> Vec<i32> {
    map.iter()
        .map(|&m| if m == NOTHING { 0 } else { m as i32 + 1 })
        .collect()
}

#[test]
fn a_transpose_is_two_identities() {
    let (axes, dims) = ([3, 2], [2, 3]);
    let map: Vec<u32> = (0..6).map(|i| (i % 2) * 3 + i / 2).collect();
    let factors = factorise(&map, &axes, &dims, &[false; 2]).expect("injective");
    assert!(factors.iter().all(|f| f.relation == Relation::Identity));
    assert_eq!(read(factors, &axes, &dims), as_values(&map));
}

#[test]
fn a_padded_window_has_one_relation_for_each_spatial_axis() {
    // output [4, 4], kernel [3, 3], input [4, 4] with one place of padding
    let (axes, dims) = ([4, 4, 3, 3], [4, 4]);
    let mut map = Vec::new();
    for i in 0..axes.iter().product::<usize>() {
        let (oy, ox, ky, kx) = (i / 36, i / 9 % 4, i / 3 % 3, i % 3);
        let inside = |o: usize, k: usize| (o + k).checked_sub(1).filter(|&v| v < 4);
        map.push(match (inside(oy, ky), inside(ox, kx)) {
            (Some(y), Some(x)) => (y * 4 + x) as u32,
            _ => NOTHING,
        });
    }
    let factors = factorise(&map, &axes, &dims, &[false; 4]).expect("injective");
    let groups: Vec<_> = factors
        .iter()
        .map(|f| (f.axes.clone(), f.dims.clone()))
        .collect();
    assert_eq!(groups, [(vec![0, 2], vec![0]), (vec![1, 3], vec![1])]);
    assert_eq!(read(factors, &axes, &dims), as_values(&map));
}

#[test]
fn what_is_no_product_stays_one_relation() {
    let (axes, dims) = ([2, 2], [2, 2]);
    let map = [0, 1, 2, NOTHING];
    let factors = factorise(&map, &axes, &dims, &[false; 2]).expect("injective");
    assert_eq!(factors.len(), 1);
    assert_eq!(read(factors, &axes, &dims), as_values(&map));
}

#[test]
fn sums_over_reduced_axes() {
    // [2, 3] summed over the second axis
    let map: Vec<u32> = (0..6).collect();
    let factors = factorise(&map, &[2, 3], &[2, 3], &[false, true]).expect("each read once");
    assert_eq!(read(factors, &[2], &[2, 3]), [1 + 2 + 3, 4 + 5 + 6]);
    // an element that is read twice cannot be written with zeros and ones
    assert!(factorise(&[0, 0], &[2], &[1], &[true]).is_none());
}

#[test]
fn repeats_and_selections() {
    // [2] repeated along a new axis, and one column of a matrix
    let map = [0, 0, 0, 1, 1, 1];
    let factors = factorise(&map, &[2, 3], &[2], &[false; 2]).expect("injective");
    assert_eq!(read(factors, &[2, 3], &[2]), as_values(&map));
    let map = [1, 4];
    let factors = factorise(&map, &[2], &[2, 3], &[false]).expect("injective");
    assert_eq!(read(factors, &[2], &[2, 3]), as_values(&map));
}

#[test]
fn malformed_views_are_refused() {
    let view = |factors| View {
        source: Source::Input(0),
        factors,
    };
    let factor = |axes: &[usize], dims: &[usize], relation| Factor {
        axes: axes.to_vec(),
        dims: dims.to_vec(),
        relation,
    };
    let pairs = |p: &[(u32, u32)]| Relation::Pairs(p.to_vec());
    for (name, factors) in [
        ("open dimension", vec![]),
        ("sizes differ", vec![factor(&[0], &[0], Relation::Identity)]),
        ("out of range", vec![factor(&[0], &[0], pairs(&[(0, 3)]))]),
        (
            "out of order",
            vec![factor(&[0], &[0], pairs(&[(1, 0), (0, 0)]))],
        ),
        ("twice", vec![factor(&[0, 0], &[0], pairs(&[]))]),
        ("no such axis", vec![factor(&[1], &[0], pairs(&[]))]),
    ] {
        assert!(view(factors).check(&[2], &[3]).is_err(), "{name}");
    }
    let identity = factor(&[0], &[0], pairs(&[(0, 0), (1, 1)]));
    assert!(view(vec![identity]).check(&[2], &[2]).is_err());
}

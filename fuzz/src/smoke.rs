//! A small mutator, so that every fuzz entry runs in the ordinary test suite. It is deterministic: a failure repeats.

use std::{fs, path::Path};

/// Mutations of each target's seeds.
const MUTATIONS: usize = 4_000;
/// Values at which decoders of lengths and counts go wrong.
const BOUNDARIES: [u64; 8] = [0, 1, 0x7f, 0x80, 0xffff, 0x7fff_ffff, 0xffff_ffff, u64::MAX];

/// Runs `entry` over the seeds of `target` and over mutations of them. It says whether it accepted the bytes.
///
/// # Panics
/// If `entry` does, or accepts none of the seeds: mutations of what is no good already find little.
pub fn run(target: &str, entry: fn(&[u8]) -> bool) {
    let seeds = seeds(target);
    let accepted = seeds.iter().filter(|seed| entry(seed)).count();
    assert!(accepted > 0, "no seed in fuzz/seeds/{target} is accepted");
    entry(&[]);
    let mut rng = SplitMix(seed_of(target));
    for round in 0..MUTATIONS {
        let mut data = seeds[round % seeds.len()].clone();
        for _ in 0..=rng.below(3) {
            mutate(&mut data, &mut rng, &seeds);
        }
        entry(&data);
    }
}

/// A number of its own for each target.
fn seed_of(target: &str) -> u64 {
    let step = |state: u64, byte| state.wrapping_mul(31).wrapping_add(u64::from(byte));
    target.bytes().fold(1, step)
}

/// The seeds of a target, in the order of their names.
fn seeds(target: &str) -> Vec<Vec<u8>> {
    // Test suites run in their own crates, two folders below the root; this package is one below.
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = here
        .ancestors()
        .find(|folder| folder.join("fuzz/seeds").is_dir());
    let folder = root
        .expect("fuzz/seeds exists")
        .join("fuzz/seeds")
        .join(target);
    let entries =
        fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> = entries
        .map(|entry| entry.expect("a readable entry").path())
        .collect();
    files.sort();
    files
        .iter()
        .map(|file| fs::read(file).expect("a readable seed"))
        .collect()
}

fn mutate(data: &mut Vec<u8>, rng: &mut SplitMix, seeds: &[Vec<u8>]) {
    let (start, end) = rng.range(data.len());
    match rng.below(9) {
        0 if !data.is_empty() => data[start.min(end - 1)] ^= 1 << rng.below(8),
        1 if !data.is_empty() => data[start.min(end - 1)] = rng.next() as u8,
        2 => data.truncate(start),
        3 => drop(data.drain(start..end)),
        4 => {
            let part = data[start..end].to_vec();
            data.splice(start..start, part);
        }
        5 => {
            let random: Vec<u8> = (0..rng.below(9)).map(|_| rng.next() as u8).collect();
            data.splice(start..start, random);
        }
        6 => {
            let value = BOUNDARIES[rng.below(BOUNDARIES.len())];
            let bytes = if rng.below(2) == 0 {
                value.to_le_bytes()
            } else {
                value.to_be_bytes()
            };
            let width = [1, 2, 4, 8][rng.below(4)].min(data.len() - start);
            data[start..start + width].copy_from_slice(&bytes[..width]);
        }
        7 => {
            let other = &seeds[rng.below(seeds.len())];
            let (from, to) = rng.range(other.len());
            data.splice(start..end, other[from..to].iter().copied());
        }
        // Texts: a digit becomes another.
        _ => {
            if let Some(digit) = data[start..].iter_mut().find(|byte| byte.is_ascii_digit()) {
                *digit = b'0' + rng.below(10) as u8;
            }
        }
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): enough randomness to choose mutations.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    /// Start and end within `length`; mostly short, not empty unless `length` is 0.
    fn range(&mut self, length: usize) -> (usize, usize) {
        let start = self.below(length);
        let longest = (length - start).min(if self.below(4) == 0 { length } else { 16 });
        (start, (start + 1 + self.below(longest)).min(length))
    }
}

//! Bit flips, cuts, extensions and noise: errors, never acceptance, never a panic.

use super::{Case, fixtures};
use crate::profile::Weights;
use crate::proof::Proof;

fn accepts(case: &Case, bytes: &[u8]) -> bool {
    Proof::from_bytes(bytes).is_ok_and(|proof| case.verify(&case.statement, &proof).is_ok())
}

#[test]
fn every_byte_of_a_proof_matters() {
    let case = Case::small(Weights::Succinct);
    let proof = case.prove();
    let bytes = proof.to_bytes();
    assert!(accepts(&case, &bytes));
    let messages = 8 + 32 + 4 + proof.messages.len();
    for place in 0..bytes.len() {
        // Every byte of the header and the messages; of the openings one in 61.
        if place > messages && place % 61 != 0 {
            continue;
        }
        let mut forged = bytes.clone();
        forged[place] ^= 1 << (place % 8);
        assert!(!accepts(&case, &forged), "byte {place} of {}", bytes.len());
    }
}

#[test]
fn every_bit_of_a_few_messages_matters() {
    let case = Case::small(Weights::Holder);
    let bytes = case.prove().to_bytes();
    for place in (0..8 + 32 + 4 + 20 * 12).chain([bytes.len() - 1]) {
        for bit in 0..8 {
            let mut forged = bytes.clone();
            forged[place] ^= 1 << bit;
            assert!(!accepts(&case, &forged), "bit {bit} of byte {place}");
        }
    }
}

#[test]
fn proofs_of_another_length_are_refused() {
    let case = Case::small(Weights::Holder);
    let proof = case.prove();
    let bytes = proof.to_bytes();
    for cut in (0..bytes.len())
        .step_by(97)
        .chain(bytes.len() - 40..bytes.len())
    {
        assert!(!accepts(&case, &bytes[..cut]), "cut to {cut}");
    }
    assert!(!accepts(&case, &[&bytes[..], &[0]].concat()));
    // Lengths that agree with one another, but not with the statement.
    for part in 0..3 {
        for change in [-20i64, -1, 1, 20] {
            let mut forged = proof.clone();
            let part = match part {
                0 => &mut forged.messages,
                1 => &mut forged.witness_opening,
                _ => &mut forged.model_opening,
            };
            let length = part.len() as i64 + change;
            if length < 0 {
                continue;
            }
            part.resize(length as usize, 0);
            assert!(case.verify(&case.statement, &forged).is_err());
            assert!(!accepts(&case, &forged.to_bytes()));
        }
    }
}

#[test]
fn noise_is_refused() {
    let case = Case::small(Weights::Holder);
    let honest = case.prove().to_bytes();
    for seed in 0..300u32 {
        let noise = fixtures::noise(seed, honest.len(), 127);
        // Behind an honest beginning of some length, so that later readers meet noise too.
        let keep = [0, 8, 44, 2000, honest.len() - 3000][seed as usize % 5];
        let mut forged = honest[..keep].to_vec();
        forged.extend(noise[keep..].iter().map(|&v| v as u8));
        assert!(!accepts(&case, &forged), "seed {seed}");
        // And noise alone, shorter and longer.
        let alone: Vec<u8> = noise.iter().map(|&v| v as u8).collect();
        assert!(!accepts(&case, &alone[..seed as usize * 3]));
    }
}

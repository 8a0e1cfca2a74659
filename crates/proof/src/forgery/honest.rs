//! Honest proofs are accepted.

use super::fixtures::{mlp, noise};
use crate::{
    HeldWeights, Model, Profile, Proof, Security, Weights, prove_inference, verify_inference,
    verify_with_weights,
};

fn accepted(widths: &[usize], samples: usize, profile: Profile) {
    let model = Model::register(mlp(widths)).expect("registers");
    let inputs = vec![noise(9, widths[0] * samples, 127)];
    let (statement, proof) = prove_inference(&model, inputs, samples, profile).expect("proves");
    let proof = Proof::from_bytes(&proof.to_bytes()).expect("reads");
    let soundness = match profile.weights {
        Weights::Succinct => verify_inference(model.key(), &statement, &proof, profile),
        Weights::Holder => {
            verify_with_weights(&HeldWeights::new(&model), &statement, &proof, profile)
        }
    };
    let soundness = soundness.expect("accepts");
    assert!(soundness.bits >= f64::from(profile.security.target()));
}

#[test]
fn honest_proofs_are_accepted() {
    for (widths, samples) in [
        (&[4, 3, 2][..], 1),
        (&[5, 7, 6, 3], 1),
        (&[5, 7, 6, 3], 3),
        (&[31, 40, 10], 2),
        (&[31, 256, 1], 1),
    ] {
        for security in [Security::Bits100, Security::Bits112] {
            for weights in [Weights::Succinct, Weights::Holder] {
                accepted(widths, samples, Profile { security, weights });
            }
        }
    }
}

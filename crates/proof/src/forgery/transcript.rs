//! Every message reaches every later challenge; and an altered message fails even if it does not.

use super::Case;
use crate::field::{EXT_BYTES, Ext};
use crate::profile::Weights;
use crate::proof::Proof;
use crate::transcript::Step;

/// For each element sent, how many challenges are drawn before it.
fn drawn_before(case: &Case) -> Vec<usize> {
    let mut drawn = 0;
    let mut before = Vec::new();
    for step in case.plan.schedule(case.profile.succinct()).0 {
        match step {
            Step::Send(_, n) => before.extend(std::iter::repeat_n(drawn, n)),
            Step::Draw(_, n) => drawn += n,
            _ => {}
        }
    }
    before
}

fn altered(proof: &Proof, element: usize) -> Proof {
    let mut forged = proof.clone();
    forged.messages[element * EXT_BYTES + (element % 5) * 4] ^= 1;
    forged
}

#[test]
fn every_message_changes_every_later_challenge() {
    let case = Case::small(Weights::Holder);
    let proof = case.prove();
    let honest = case.challenges(&case.statement, &proof);
    let before = drawn_before(&case);
    assert_eq!(before.len() * EXT_BYTES, proof.messages.len());
    for (element, &drawn) in before.iter().enumerate() {
        let forged = case.challenges(&case.statement, &altered(&proof, element));
        assert_eq!(forged[..drawn], honest[..drawn], "element {element}");
        for place in drawn..honest.len() {
            assert_ne!(
                forged[place], honest[place],
                "element {element}, challenge {place}"
            );
        }
    }
}

#[test]
fn every_public_value_changes_every_challenge() {
    let case = Case::small(Weights::Holder);
    let proof = case.prove();
    let honest = case.challenges(&case.statement, &proof);
    let all_differ = |name: &str, challenges: Vec<Ext>| {
        assert!(
            challenges.iter().zip(&honest).all(|(a, b)| a != b),
            "{name}"
        );
    };
    for i in 0..case.statement.inputs[0].len() {
        let mut other = case.statement.clone();
        other.inputs[0][i] ^= 1;
        all_differ("input", case.challenges(&other, &proof));
    }
    for i in 0..case.statement.outputs[0].len() {
        let mut other = case.statement.clone();
        other.outputs[0][i] += 1;
        all_differ("output", case.challenges(&other, &proof));
    }
    let mut other = case.statement.clone();
    other.model_root[3] ^= 1;
    all_differ("model root", case.challenges(&other, &proof));
    let mut forged = proof.clone();
    forged.witness_root[0] ^= 1;
    all_differ("witness root", case.challenges(&case.statement, &forged));
    forged = proof.clone();
    forged.profile.security = crate::Security::Bits112;
    all_differ("profile", case.challenges(&case.statement, &forged));
}

/// With the honest challenges replayed against an altered message, some equation fails: so no
/// message is merely hashed. The openings, whose challenges are not replayed, are taken away.
#[test]
fn replayed_challenges_do_not_save_an_altered_message() {
    use super::{Removed, without};
    use crate::error::Check;
    for weights in [Weights::Holder, Weights::Succinct] {
        let case = Case::small(weights);
        let mut proof = case.prove();
        let tape = case.challenges(&case.statement, &proof);
        // The openings cannot be checked against replayed challenges: they are the first thing
        // that fails after all equations hold.
        proof.witness_opening.clear();
        let outcome = |proof: &Proof| {
            without(Removed::None, || {
                let mut session = case.session(&case.statement, proof).expect("a session");
                session.tape = Some(tape.clone());
                session.check()
            })
        };
        let opening = crate::VerifyError::Rejected(Check::WitnessOpening);
        assert_eq!(outcome(&proof), Err(opening.clone()), "the equations hold");
        for element in 0..proof.messages.len() / EXT_BYTES {
            let failed = outcome(&altered(&proof, element)).expect_err("refused");
            assert_ne!(
                failed, opening,
                "element {element} takes part in no equation"
            );
        }
    }
}

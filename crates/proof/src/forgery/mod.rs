//! The forgery harness: what the mode is accepted by.
//!
//! A malicious prover ([`cheats`]) changes the witness, the statement, or its own messages, and
//! proves everything after that consistently. Each of its forgeries is aimed at one check of the
//! verifier: with all checks it is refused by exactly that one; with that one taken away it is
//! accepted. [`bits`] flips bits and cuts and pads proofs; [`transcript`] looks at the challenges;
//! [`cells`] searches the witness for cells that no constraint holds; [`graphs`] compares with the
//! executor on random graphs; [`select`] forges choices: rows by index, and indices of largest elements.

mod bits;
mod cells;
mod cheats;
mod fixtures;
mod graphs;
mod honest;
mod select;
mod transcript;

use std::cell::Cell;

use lemma_graph::integer::IntegerGraph;

use crate::error::{Check, ProveError, VerifyError};
use crate::field::Ext;
use crate::model::Model;
use crate::plan::Plan;
use crate::profile::{Profile, Weights};
use crate::proof::{Proof, Statement};
use crate::prover::prove_witness;
use crate::transcript::{Honest, Hook};
use crate::verifier::Session;
use crate::witness::Witness;

#[derive(Clone, Copy, PartialEq)]
enum Removed {
    None,
    One(Check),
    All,
}

thread_local! {
    static REMOVED: Cell<Removed> = const { Cell::new(Removed::None) };
}

/// Whether a check is taken away for the test at hand.
pub(crate) fn removed(check: Check) -> bool {
    match REMOVED.get() {
        Removed::None => false,
        Removed::One(one) => one == check,
        Removed::All => true,
    }
}

/// Runs something without a check.
fn without<T>(check: Removed, run: impl FnOnce() -> T) -> T {
    let before = REMOVED.replace(check);
    let result = run();
    REMOVED.set(before);
    result
}

/// A model with an honest statement and witness.
struct Case {
    model: Model,
    plan: Plan,
    statement: Statement,
    witness: Witness,
    profile: Profile,
}

impl Case {
    fn new(graph: IntegerGraph, inputs: Vec<Vec<i32>>, samples: usize, weights: Weights) -> Case {
        let plan = Plan::new(graph.skeleton(), samples).expect("fits");
        let trace = graph.run(&inputs, samples).expect("runs");
        let model = Model::register(graph).expect("registers");
        let statement = Statement {
            model_root: model.root(),
            samples,
            inputs,
            outputs: trace.outputs.clone(),
        };
        Case {
            witness: Witness::new(&plan, trace),
            model,
            plan,
            statement,
            profile: Profile {
                weights,
                ..Profile::default()
            },
        }
    }

    /// A small perceptron.
    fn small(weights: Weights) -> Case {
        let input = fixtures::noise(9, 5, 127);
        Case::new(fixtures::mlp(&[5, 6, 4, 4]), vec![input], 1, weights)
    }

    fn prove(&self) -> Proof {
        self.prove_with(&self.statement, &self.witness, &mut Honest)
            .expect("proves")
    }

    fn prove_with(
        &self,
        statement: &Statement,
        witness: &Witness,
        hook: &mut dyn Hook,
    ) -> Result<Proof, ProveError> {
        prove_witness(
            &self.model,
            &self.plan,
            statement,
            witness,
            self.profile,
            hook,
        )
    }

    fn verify(&self, statement: &Statement, proof: &Proof) -> Result<(), VerifyError> {
        self.session(statement, proof)?.check().map(|_| ())
    }

    fn session<'a>(
        &'a self,
        statement: &'a Statement,
        proof: &'a Proof,
    ) -> Result<Session<'a>, VerifyError> {
        let held = (self.profile.weights == Weights::Holder).then_some(&self.model.cells[..]);
        Session::new(self.model.key(), statement, proof, held)
    }

    /// The challenges of a verification that goes on whatever fails.
    fn challenges(&self, statement: &Statement, proof: &Proof) -> Vec<Ext> {
        without(Removed::All, || {
            let mut session = self.session(statement, proof).expect("a session");
            session.check().expect("no check is left");
            session.drawn
        })
    }
}

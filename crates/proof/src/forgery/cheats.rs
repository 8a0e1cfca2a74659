//! The malicious prover. Each forgery is aimed at one check; a table of them is printed.

use lemma_graph::integer::{IntegerGraph, Trace};

use super::{Case, Removed, fixtures, without};
use crate::claims::{Accumulator, Claim, Target, Weight};
use crate::error::{Check, VerifyError};
use crate::field::{Base, Ext, InvertibleField, PrimeCharacteristicRing, small};
use crate::model::Model;
use crate::plan::{Column, Plan};
use crate::profile::{Profile, Security, Weights};
use crate::proof::{Proof, Statement};
use crate::prover::prove_witness;
use crate::soundness::Errors;
use crate::transcript::{Honest, Hook, Schedule, Step, VerifierTranscript};
use crate::verifier::{HeldWeights, Session, few_lookups, verify_with_weights};
use crate::witness::Witness;

type Outcome = Result<(), VerifyError>;

/// The nodes and outputs that follow from given values of some node.
fn replayed(
    graph: &IntegerGraph,
    inputs: &[Vec<i32>],
    samples: usize,
    node: usize,
    values: &[i32],
) -> Trace {
    // A graph in which the node's tensor is an input instead.
    let honest = graph.run(inputs, samples).expect("runs");
    let mut trace = honest;
    trace.values[node] = values.to_vec();
    let skeleton = graph.skeleton();
    let later = node + 1..skeleton.nodes.len();
    for i in later {
        let sums = dense_sums(graph, &trace, i, samples);
        trace.values[i] = sums
            .iter()
            .map(|s| {
                i32::from(skeleton.tables[0].entries[(*s >> skeleton.nodes[i].shift) as usize])
            })
            .collect();
        trace.sums[i] = sums;
    }
    let last = skeleton.nodes.len();
    trace.outputs[0] = dense_values(graph, &trace, last, samples);
    trace
}

/// The sums of a layer of a perceptron, from the values of the layer before.
fn dense_values(graph: &IntegerGraph, trace: &Trace, layer: usize, samples: usize) -> Vec<i32> {
    let (weights, bias) = (
        &graph.constants()[2 * layer],
        &graph.constants()[2 * layer + 1],
    );
    let input = &trace.values[layer - 1];
    let width = input.len() / samples;
    input
        .chunks(width)
        .flat_map(|x| {
            weights
                .chunks(width)
                .zip(bias)
                .map(|(w, b)| w.iter().zip(x).map(|(w, x)| w * x).sum::<i32>() + b)
                .collect::<Vec<i32>>()
        })
        .collect()
}

fn dense_sums(graph: &IntegerGraph, trace: &Trace, layer: usize, samples: usize) -> Vec<u32> {
    let offset = graph.skeleton().nodes[layer].offset;
    dense_values(graph, trace, layer, samples)
        .into_iter()
        .map(|v| (v + offset) as u32)
        .collect()
}

impl Case {
    /// The statement with other outputs.
    pub(super) fn claiming(&self, outputs: &[Vec<i32>]) -> Statement {
        Statement {
            outputs: outputs.to_vec(),
            ..self.statement.clone()
        }
    }

    fn cell(&self, column: Column, at: usize) -> usize {
        self.plan.stack.blocks[self.plan.column(column).expect("a column")].start + at
    }

    fn forged(&self, statement: &Statement, witness: &Witness, hook: &mut dyn Hook) -> Outcome {
        let proof = self.prove_with(statement, witness, hook).expect("proves");
        self.verify(statement, &proof)
    }

    fn copy(&self) -> Witness {
        Witness {
            cells: self.witness.cells.clone(),
            trace: self.witness.trace.clone(),
        }
    }
}

fn header() -> Outcome {
    let case = Case::small(Weights::Holder);
    let proof = case.prove();
    let demanded = Profile {
        security: Security::Bits112,
        weights: Weights::Holder,
    };
    let weights = HeldWeights::new(&case.model);
    verify_with_weights(&weights, &case.statement, &proof, demanded).map(|_| ())
}

/// A proof that names another model.
fn model_root() -> Outcome {
    let case = Case::small(Weights::Succinct);
    let mut statement = case.statement.clone();
    statement.model_root[0] ^= 1;
    case.forged(&statement, &case.witness, &mut Honest)
}

/// An input outside of its range, which the interval analysis has not seen.
fn inputs() -> Outcome {
    let case = Case::small(Weights::Holder);
    let mut wide = case.model.graph().skeleton().clone();
    wide.inputs[0].1.high = 128;
    let wide = IntegerGraph::new(wide, case.model.graph().constants().to_vec()).expect("valid");
    let mut statement = case.statement.clone();
    statement.inputs[0][0] = 128;
    let trace = wide.run(&statement.inputs, 1).expect("runs");
    statement.outputs = trace.outputs.clone();
    case.forged(&statement, &Witness::new(&case.plan, trace), &mut Honest)
}

/// More outputs than the model has.
fn outputs() -> Outcome {
    let case = Case::small(Weights::Holder);
    let mut statement = case.statement.clone();
    statement.outputs[0].push(7);
    case.forged(&statement, &case.witness, &mut Honest)
}

fn length() -> Outcome {
    let case = Case::small(Weights::Holder);
    let mut proof = case.prove();
    proof.messages.extend([0; 20]);
    case.verify(&case.statement, &proof)
}

/// The same element, written with a word above the modulus.
fn canonical() -> Outcome {
    let case = Case::small(Weights::Holder);
    let mut proof = case.prove();
    let (words, _) = proof.messages.as_chunks_mut::<4>();
    let small = words
        .iter_mut()
        .find(|w| u32::from_le_bytes(**w) < u32::MAX - crate::field::MODULUS)
        .expect("half of the words are small");
    *small = (u32::from_le_bytes(*small) + crate::field::MODULUS).to_le_bytes();
    case.verify(&case.statement, &proof)
}

/// A verifier that leaves the order of messages.
fn schedule() -> Outcome {
    let schedule = Schedule(vec![Step::Draw("a", 1), Step::Send("b", 0)]);
    let mut transcript = VerifierTranscript::new(schedule, &[]).expect("no elements");
    transcript.receive_all("b", 0)?;
    let _ = transcript.draw("a")?;
    transcript.finish()
}

fn soundness() -> Outcome {
    let case = Case::small(Weights::Succinct);
    let errors = Errors::new(&case.plan, case.profile).expect("bounded");
    errors.require(errors.soundness().bits as u32 + 1)
}

fn lookup_count() -> Outcome {
    few_lookups(1 << 30)
}

/// A count of table entries that is off by one.
fn lookup_sum() -> Outcome {
    let case = Case::small(Weights::Holder);
    let mut witness = case.copy();
    witness.cells[case.cell(Column::TableCount(0), 3)] += Base::ONE;
    case.forged(&case.statement, &witness, &mut Honest)
}

/// A prover with given challenges.
struct Taped(Vec<Ext>);

impl Hook for Taped {
    fn tape(&self) -> Option<Vec<Ext>> {
        Some(self.0.clone())
    }
}

/// Challenges at which two denominators vanish: then numerator and denominator of the sum are both
/// zero, whatever the other fractions are.
fn lookup_denominator() -> Outcome {
    let case = Case::small(Weights::Holder);
    let mut tape = case.challenges(&case.statement, &case.prove());
    let mut witness = case.copy();
    witness.cells[case.cell(Column::TableCount(0), 3)] += Base::ONE;
    // α = key + β · value + β² · tag of the first table entry; a second fraction with the same
    // denominator is the lookup that reads it.
    let (index, value) = (
        case.cell(Column::Index(0), 0),
        case.cell(Column::Value(0), 0),
    );
    let tag = Base::from_u32(case.plan.table_tag(0));
    tape[0] = tape[1] * witness.cells[value] + tape[1].square() * tag + witness.cells[index];
    let proof = case
        .prove_with(&case.statement, &witness, &mut Taped(tape.clone()))
        .expect("proves");
    taped(&case, &proof, tape)
}

/// Verifies with given challenges; openings go on with their own.
fn taped(case: &Case, proof: &Proof, tape: Vec<Ext>) -> Outcome {
    let mut session = case.session(&case.statement, proof)?;
    session.tape = Some(tape);
    session.check().map(|_| ())
}

/// Replaces the claimed sum of all fractions by the one that is expected.
struct ClaimSum<'a> {
    plan: &'a Plan,
    alpha: Ext,
}

impl Hook for ClaimSum<'_> {
    fn message(&mut self, label: &'static str, values: &mut [Ext]) {
        if label == "sum of fractions" {
            let padding = Base::from_u32(self.plan.padding_count() as u32);
            values[0] = self.alpha.inverse() * padding * values[1];
        }
    }
}

fn lookup_layer() -> Outcome {
    let case = Case::small(Weights::Holder);
    let mut witness = case.copy();
    witness.cells[case.cell(Column::TableCount(0), 3)] += Base::ONE;
    // The first challenges depend on nothing but statement and witness.
    let proof = case
        .prove_with(&case.statement, &witness, &mut Honest)
        .expect("proves");
    let alpha = case.challenges(&case.statement, &proof)[0];
    let mut hook = ClaimSum {
        plan: &case.plan,
        alpha,
    };
    case.forged(&case.statement, &witness, &mut hook)
}

/// Runs the lookups on another witness than the committed one.
struct OtherLookups(Witness);

impl Hook for OtherLookups {
    fn lookup_witness(&self) -> Option<&Witness> {
        Some(&self.0)
    }
}

/// Numerators that are not the committed counts.
fn leaf_numerator() -> Outcome {
    let case = Case::small(Weights::Holder);
    let mut witness = case.copy();
    witness.cells[case.cell(Column::TableCount(0), 3)] += Base::ONE;
    case.forged(&case.statement, &witness, &mut OtherLookups(case.copy()))
}

/// A value that is not the table's, carried on to the output; the lookups run on the honest one.
fn leaf_denominator() -> Outcome {
    let case = Case::small(Weights::Holder);
    let last = case.plan.skeleton.nodes.len() - 1;
    let mut values = case.witness.trace.values[last].clone();
    values[0] += 1;
    let trace = replayed(case.model.graph(), &case.statement.inputs, 1, last, &values);
    let statement = case.claiming(&trace.outputs);
    let witness = Witness::new(&case.plan, trace);
    case.forged(&statement, &witness, &mut OtherLookups(case.copy()))
}

/// Another entry of the table than the sum calls for: wrong rounding, carried on to the output.
fn node_sum() -> Outcome {
    let case = Case::small(Weights::Holder);
    let last = case.plan.skeleton.nodes.len() - 1;
    let node = &case.plan.skeleton.nodes[last];
    let entries = &case.plan.skeleton.tables[node.table].entries;
    let mut trace = case.witness.trace.clone();
    let sum = trace.sums[last][0];
    trace.sums[last][0] = sum + (1 << node.shift);
    let mut values = trace.values[last].clone();
    values[0] = i32::from(entries[(trace.sums[last][0] >> node.shift) as usize]);
    let sums = trace.sums.clone();
    let mut trace = replayed(case.model.graph(), &case.statement.inputs, 1, last, &values);
    trace.sums = sums;
    let statement = case.claiming(&trace.outputs);
    case.forged(&statement, &Witness::new(&case.plan, trace), &mut Honest)
}

fn output_sum() -> Outcome {
    let case = Case::small(Weights::Holder);
    let mut statement = case.statement.clone();
    statement.outputs[0][1] += 1;
    case.forged(&statement, &case.witness, &mut Honest)
}

/// Claims one more for the product of the last layer.
struct ClaimMore {
    expression: usize,
    at: usize,
}

impl Hook for ClaimMore {
    fn message(&mut self, label: &'static str, values: &mut [Ext]) {
        if label == "terms" {
            if self.at == self.expression {
                values[0] += Ext::ONE;
            }
            self.at += 1;
        }
    }
}

/// Every output one too large (their number is a power of two, so that their polynomial is too),
/// and the product of the last layer with them.
fn product() -> Outcome {
    let case = Case::small(Weights::Holder);
    let mut statement = case.statement.clone();
    statement.outputs[0].iter_mut().for_each(|v| *v += 1);
    let mut hook = ClaimMore {
        expression: case.plan.skeleton.nodes.len(),
        at: 0,
    };
    case.forged(&statement, &case.witness, &mut hook)
}

/// Computes with other inputs than the statement's.
struct OtherInputs(Vec<Vec<i32>>);

impl Hook for OtherInputs {
    fn inputs(&self) -> Option<&[Vec<i32>]> {
        Some(&self.0)
    }
}

fn input_claim() -> Outcome {
    let case = Case::small(Weights::Holder);
    let other = vec![fixtures::noise(123, 5, 127)];
    let trace = case.model.graph().run(&other, 1).expect("runs");
    let statement = case.claiming(&trace.outputs);
    case.forged(
        &statement,
        &Witness::new(&case.plan, trace),
        &mut OtherInputs(other),
    )
}

/// A model of the same shape with other constants.
fn with_constants(case: &Case, edit: impl FnOnce(&mut Vec<Vec<i32>>)) -> Model {
    let graph = case.model.graph();
    let mut constants = graph.constants().to_vec();
    edit(&mut constants);
    let other = IntegerGraph::new(graph.skeleton().clone(), constants).expect("valid");
    Model::register(other).expect("registers")
}

/// A model of the same shape with other weights: one of them one larger.
fn other_model(case: &Case) -> Model {
    with_constants(case, |constants| {
        constants[2][0] -= constants[2][0].signum();
    })
}

/// What another model gives, claimed to be of this one, and the other's proof of it.
fn proof_of(other: &Model, case: &Case) -> (Statement, Proof) {
    let trace = other.graph().run(&case.statement.inputs, 1).expect("runs");
    let statement = case.claiming(&trace.outputs);
    let witness = Witness::new(&case.plan, trace);
    let proof = prove_witness(
        other,
        &case.plan,
        &statement,
        &witness,
        case.profile,
        &mut Honest,
    )
    .expect("proves");
    (statement, proof)
}

fn constant_claim() -> Outcome {
    let case = Case::small(Weights::Holder);
    let (statement, proof) = proof_of(&other_model(&case), &case);
    case.verify(&statement, &proof)
}

fn model_opening() -> Outcome {
    let case = Case::small(Weights::Succinct);
    let (statement, proof) = proof_of(&other_model(&case), &case);
    case.verify(&statement, &proof)
}

fn witness_opening() -> Outcome {
    let case = Case::small(Weights::Holder);
    let mut proof = case.prove();
    proof.witness_opening[100] ^= 1;
    case.verify(&case.statement, &proof)
}

fn edges() -> Outcome {
    let mut claims = Accumulator::new(2);
    claims.deliver(
        0,
        Claim {
            target: Target::Input(0),
            weight: Weight::Point(Vec::new()),
            value: Ext::ONE,
        },
    );
    claims.finish().map(|_| ())
}

/// Splits the end of a product differently between its operands: two false claims whose product is
/// right.
struct SplitDifferently {
    product: usize,
    at: usize,
}

impl Hook for SplitDifferently {
    fn message(&mut self, label: &'static str, values: &mut [Ext]) {
        if label == "operands" {
            if self.at == self.product {
                values[0] = values[0].double();
                values[1] = values[1].halve();
            }
            self.at += 1;
        }
    }
}

fn batch() -> Outcome {
    let case = Case::small(Weights::Succinct);
    let mut hook = SplitDifferently { product: 1, at: 0 };
    case.forged(&case.statement, &case.witness, &mut hook)
}

/// A round whose equality weight is zero leaves the next claim open.
fn round() -> Outcome {
    let schedule = {
        let mut s = Schedule::default();
        s.sumcheck(1);
        s
    };
    let mut transcript = VerifierTranscript::new(schedule, &[0; 40]).expect("two elements");
    crate::sumcheck::verify(Ext::ZERO, 1, &[Ext::ZERO], &mut transcript).map(|_| ())
}

/// A forgery.
type Forgery = fn() -> Outcome;

/// Every check, and the forgery that it alone stops.
const FORGERIES: [(Check, &str, Forgery); 24] = [
    (Check::Header, "a weaker profile than demanded", header),
    (Check::ModelRoot, "another model's name", model_root),
    (Check::Inputs, "an input out of range", inputs),
    (Check::Outputs, "a surplus output", outputs),
    (Check::Length, "surplus bytes", length),
    (
        Check::Canonical,
        "an element written differently",
        canonical,
    ),
    (Check::Schedule, "messages out of order", schedule),
    (Check::Soundness, "too few bits", soundness),
    (
        Check::LookupCount,
        "as many lookups as the characteristic",
        lookup_count,
    ),
    (Check::LookupSum, "a wrong count", lookup_sum),
    (
        Check::LookupDenominator,
        "a vanishing denominator",
        lookup_denominator,
    ),
    (Check::LookupLayer, "a wrong sum of fractions", lookup_layer),
    (
        Check::LeafNumerator,
        "numerators that are not the counts",
        leaf_numerator,
    ),
    (
        Check::LeafDenominator,
        "a value that is not the table's",
        leaf_denominator,
    ),
    (Check::NodeSum, "wrong rounding", node_sum),
    (Check::OutputSum, "a wrong output", output_sum),
    (Check::Product, "a wrong product", product),
    (Check::InputClaim, "another input", input_claim),
    (
        Check::ConstantClaim,
        "another weight, to a holder",
        constant_claim,
    ),
    (Check::Edges, "an edge without a claim", edges),
    (Check::Batch, "false claims with a true product", batch),
    (Check::Round, "a round without information", round),
    (Check::WitnessOpening, "a damaged opening", witness_opening),
    (
        Check::ModelOpening,
        "another weight, against the root",
        model_opening,
    ),
];

#[test]
#[allow(
    clippy::print_stderr,
    reason = "the list is for the reader of the test's output"
)]
fn every_check_is_needed_and_sufficient() {
    let listed: Vec<Check> = FORGERIES.iter().map(|(check, ..)| *check).collect();
    assert_eq!(listed, Check::ALL);
    let mut report = String::from("check: the forgery that only it stops\n");
    for (check, name, forgery) in FORGERIES {
        assert_eq!(forgery(), Err(VerifyError::Rejected(check)), "{name}");
        let accepted = without(Removed::One(check), forgery);
        assert_eq!(accepted, Ok(()), "{name} without {check:?}");
        report += &format!("  {check:?}: {name}\n");
    }
    eprintln!("{report}");
}

/// Junk where a tensor has no elements.
#[test]
fn padding_is_not_free() {
    let input = fixtures::noise(4, 5 * 3, 127);
    let case = Case::new(fixtures::mlp(&[5, 6, 3]), vec![input], 3, Weights::Holder);
    // 3 samples of 6 elements in a cube of 4 × 8.
    let padding = [6, 7, 24, 31];
    for column in [Column::Index(0), Column::Value(0), Column::Limb(0, 0)] {
        for at in padding {
            let mut witness = case.copy();
            let cell = case.cell(column, at);
            assert_eq!(witness.cells[cell], Base::ZERO);
            witness.cells[cell] = small(5);
            let outcome = case.forged(&case.statement, &witness, &mut Honest);
            assert!(outcome.is_err(), "{column:?} at {at}");
        }
    }
}

/// The same sum with other parts: one entry of the table less, and a limb beyond its range; or
/// the wrap around the modulus.
#[test]
fn sums_have_one_decomposition() {
    let case = Case::small(Weights::Holder);
    let shift = case.plan.skeleton.nodes[0].shift;
    let limbs = case.plan.limbs(0);
    for at in 0..case.witness.trace.sums[0].len() {
        let mut witness = case.copy();
        let index = case.cell(Column::Index(0), at);
        let top = case.cell(Column::Limb(0, limbs.len() - 1), at);
        witness.cells[index] -= Base::ONE;
        witness.cells[top] += Base::from_u32(1 << limbs[limbs.len() - 1]);
        assert!(case.forged(&case.statement, &witness, &mut Honest).is_err());
        // index − 2⁻ˢʰⁱᶠᵗ and the lowest limb plus one: the same sum in the field.
        let mut witness = case.copy();
        witness.cells[index] -= crate::field::power_of_two(shift).inverse();
        witness.cells[case.cell(Column::Limb(0, 0), at)] += Base::ONE;
        assert!(case.forged(&case.statement, &witness, &mut Honest).is_err());
    }
}

/// Values outside of the table, with counts that pretend otherwise.
#[test]
fn counts_cannot_hide_a_wrong_lookup() {
    let case = Case::small(Weights::Holder);
    for count in [0u32, 1, crate::field::MODULUS - 1] {
        let mut witness = case.copy();
        let value = case.cell(Column::Value(0), 1);
        witness.cells[value] += Base::TWO;
        let index = case.witness.cells[case.cell(Column::Index(0), 1)];
        let entry = case.cell(
            Column::TableCount(0),
            crate::field::PrimeField32::as_canonical_u32(&index) as usize,
        );
        witness.cells[entry] += Base::from_u32(count);
        assert!(case.forged(&case.statement, &witness, &mut Honest).is_err());
    }
}

/// Two layers of one shape, exchanged.
#[test]
fn layers_cannot_be_exchanged() {
    let case = Case::new(
        fixtures::mlp(&[5, 5, 5, 5]),
        vec![fixtures::noise(1, 5, 127)],
        1,
        Weights::Succinct,
    );
    let swapped = with_constants(&case, |constants| constants.swap(0, 2));
    assert_ne!(swapped.root(), case.model.root());
    let (statement, proof) = proof_of(&swapped, &case);
    assert_eq!(
        case.verify(&statement, &proof),
        Err(VerifyError::Rejected(Check::ModelOpening))
    );
}

/// An output that is another integer with the same residue.
#[test]
fn outputs_are_integers_and_not_residues() {
    let case = Case::small(Weights::Holder);
    let modulus = i64::from(crate::field::MODULUS);
    for (place, sign) in [(0, -1), (1, -1), (2, 1), (3, 1)] {
        let mut statement = case.statement.clone();
        let other = i64::from(statement.outputs[0][place]) + sign * modulus;
        let Ok(other) = i32::try_from(other) else {
            continue;
        };
        statement.outputs[0][place] = other;
        let outcome = case.forged(&statement, &case.witness, &mut Honest);
        assert_eq!(outcome, Err(VerifyError::Rejected(Check::Outputs)));
    }
}

/// A constant in the verifying key is bound by the model root, and by its claims.
#[test]
fn constants_in_the_key_are_bound() {
    let input = vec![fixtures::noise(1, 31, 127)];
    let case = Case::new(fixtures::mlp(&[31, 256, 1]), input, 1, Weights::Succinct);
    let keyed = |i: usize| case.plan.constants.is_keyed(i);
    assert!(
        !keyed(0) && keyed(1),
        "the first bias would double the stack"
    );
    let other = with_constants(&case, |constants| {
        constants[1][7] -= constants[1][7].signum();
    });
    assert_ne!(other.root(), case.model.root());
    let (statement, proof) = proof_of(&other, &case);
    assert_eq!(
        case.verify(&statement, &proof),
        Err(VerifyError::Rejected(Check::ConstantClaim))
    );
    let key = case.model.key();
    let bytes = key.to_bytes();
    assert_eq!(
        &crate::VerifyingKey::from_bytes(&bytes).expect("reads"),
        key
    );
    for cut in (0..bytes.len()).step_by(101) {
        assert!(crate::VerifyingKey::from_bytes(&bytes[..cut]).is_err());
    }
}

/// The verifier takes public values from its caller: a proof holds none.
#[test]
fn a_proof_is_of_one_statement() {
    let case = Case::small(Weights::Succinct);
    let proof = case.prove();
    let other = Case::new(
        fixtures::mlp(&[5, 6, 4, 4]),
        vec![fixtures::noise(10, 5, 127)],
        1,
        Weights::Succinct,
    );
    assert!(case.verify(&case.statement, &proof).is_ok());
    assert!(case.verify(&other.statement, &proof).is_err());
    let session = Session::new(other.model.key(), &other.statement, &proof, None);
    assert!(session.expect("fits").check().is_err());
}

/// Constants in pieces, where padding would double their stack, are bound like whole ones.
#[test]
fn constants_in_pieces_are_bound() {
    for weights in [Weights::Succinct, Weights::Holder] {
        let input = fixtures::noise(2, 33, 127);
        let case = Case::new(fixtures::mlp(&[33, 33, 33]), vec![input], 1, weights);
        let constants = &case.plan.constants;
        assert_eq!(constants.stack.bits, 12, "33² · 2 elements");
        assert!(constants.pieces.iter().all(|pieces| pieces.len() >= 2));
        let proof = case.prove();
        assert_eq!(case.verify(&case.statement, &proof), Ok(()));
        // One weight of each piece of each matrix.
        for place in [0, 32, 32 * 33, 33 * 33 - 1] {
            for constant in [0, 2] {
                let other = with_constants(&case, |constants| constants[constant][place] += 1);
                assert_ne!(other.root(), case.model.root());
                let (statement, proof) = proof_of(&other, &case);
                let expected = match weights {
                    Weights::Succinct => Check::ModelOpening,
                    Weights::Holder => Check::ConstantClaim,
                };
                let outcome = case.verify(&statement, &proof);
                assert_eq!(outcome, Err(VerifyError::Rejected(expected)));
            }
        }
    }
}

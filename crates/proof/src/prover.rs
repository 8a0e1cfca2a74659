//! The prover.

use std::borrow::Cow;

use lemma_graph::integer::{Expression, Source, Term, View};

use crate::batch::prove_batch;
use crate::claims::{Accumulator, Claim, Target, Weight, by_axis};
use crate::error::ProveError;
use crate::field::{Base, Ext};
use crate::fractions::prove_sum;
use crate::layout::{Block, Piece};
use crate::model::{Model, shared_pcs};
use crate::operands::{Tensor, bind};
use crate::plan::{Column, Lookup, Plan, Product, variables};
use crate::profile::Profile;
use crate::proof::{Proof, Statement, value_bytes};
use crate::schemes::Role;
use crate::sumcheck::{Multiply, prove};
use crate::transcript::{Hook, ProverTranscript, Watched};
use crate::witness::{Witness, fractions, padded};

/// How far a prover is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What it does now.
    pub step: &'static str,
    /// Steps that are done.
    pub done: usize,
    /// All steps; they differ in length.
    pub of: usize,
}

/// Executes a model on inputs and proves the result.
///
/// `inputs` holds for each input the elements of `samples` samples, one after the other.
///
/// # Errors
/// When the inputs do not fit the model, or the batch is too large.
pub fn prove_inference(
    model: &Model,
    inputs: Vec<Vec<i32>>,
    samples: usize,
    profile: Profile,
) -> Result<(Statement, Proof), ProveError> {
    prove_inference_watched(model, inputs, samples, profile, &|_| {})
}

/// As [`prove_inference`], and tells `watch` before each step how far it is.
///
/// # Errors
/// As [`prove_inference`].
pub fn prove_inference_watched(
    model: &Model,
    inputs: Vec<Vec<i32>>,
    samples: usize,
    profile: Profile,
    watch: &(dyn Fn(Progress) + Sync),
) -> Result<(Statement, Proof), ProveError> {
    // Inside the pool from the start: its threads would else be woken for every small step.
    rayon::scope(|_| execute_and_prove(model, inputs, samples, profile, watch))
}

fn execute_and_prove(
    model: &Model,
    inputs: Vec<Vec<i32>>,
    samples: usize,
    profile: Profile,
    watch: &(dyn Fn(Progress) + Sync),
) -> Result<(Statement, Proof), ProveError> {
    let plan = Plan::new(model.graph().skeleton(), samples)?;
    watch(plan.progress("execution", 0));
    let trace = model.graph().run(&inputs, samples)?;
    let statement = Statement {
        model_root: model.root(),
        samples,
        inputs,
        outputs: trace.outputs.clone(),
    };
    let witness = Witness::new(&plan, trace);
    let proof = prove_witness(
        model,
        &plan,
        &statement,
        &witness,
        profile,
        &mut Watched(watch),
    )?;
    Ok((statement, proof))
}

/// Proves a statement with a witness, honest or not.
pub(crate) fn prove_witness(
    model: &Model,
    plan: &Plan,
    statement: &Statement,
    witness: &Witness,
    profile: Profile,
    hook: &mut dyn Hook,
) -> Result<Proof, ProveError> {
    hook.progress(plan.progress("commitment", 1));
    let pcs = shared_pcs(plan.stack.bits, Role::Witness, profile.security)?;
    let committed = pcs
        .commit(witness.cells.clone())
        .map_err(ProveError::Parameters)?;
    let mut transcript = ProverTranscript::new(plan.schedule(profile.succinct()), hook);
    transcript.bind("profile", &[crate::proof::VERSION, profile.code()]);
    transcript.bind("model root", &statement.model_root);
    transcript.bind("samples", &(statement.samples as u64).to_le_bytes());
    transcript.bind("inputs", &value_bytes(&statement.inputs));
    transcript.bind("outputs", &value_bytes(&statement.outputs));
    transcript.root("witness", &committed.root);
    let values = transcript
        .hook()
        .inputs()
        .unwrap_or(&statement.inputs)
        .to_vec();
    let inputs = values
        .iter()
        .zip(&plan.skeleton.inputs)
        .map(|(values, (_, range))| padded(values, &range.shape))
        .collect();
    let mut prover = Prover {
        model,
        plan,
        values,
        witness,
        inputs,
        claims: Accumulator::new(plan.edges()),
        edge: 0,
    };
    transcript.progress(plan.progress("lookups", 2));
    let points = prover.lookups(&mut transcript);
    for (index, (node, point)) in plan.skeleton.nodes.iter().zip(&points).enumerate() {
        transcript.progress(plan.progress("layers", 3 + index));
        prover.expression(&node.expression, point, &mut transcript);
    }
    for (_, expression) in &plan.skeleton.outputs {
        let point = transcript.draw_all("output point", variables(&expression.shape));
        prover.expression(expression, &point, &mut transcript);
    }
    let last = 3 + plan.skeleton.nodes.len();
    transcript.progress(plan.progress("openings", last));
    let claims = prover.claims.finish().unwrap_or_default();
    let at = prove_batch(
        &claims,
        plan.stack.bits,
        |t| plan.column_pieces(t),
        &witness.cells,
        &mut transcript,
    );
    let opens_model = profile.succinct() && plan.reads_constants();
    let model_at = opens_model.then(|| {
        prove_batch(
            &claims,
            plan.constants.stack.bits,
            |t| plan.constant_pieces(t),
            &model.cells,
            &mut transcript,
        )
    });
    let witness_opening = transcript
        .opening("witness opening", |c| pcs.open(&committed, &at, c))
        .map_err(ProveError::Parameters)?;
    let model_opening = match model_at {
        None => Vec::new(),
        Some(at) => {
            let pcs = shared_pcs(plan.constants.stack.bits, Role::Model, profile.security)?;
            transcript
                .opening("model opening", |c| pcs.open(&model.committed, &at, c))
                .map_err(ProveError::Parameters)?
        }
    };
    let mut messages = Vec::new();
    transcript
        .finish()
        .iter()
        .for_each(|v| crate::field::to_bytes(v, &mut messages));
    Ok(Proof {
        profile,
        witness_root: committed.root,
        messages,
        witness_opening,
        model_opening,
    })
}

impl Plan {
    /// The progress of a proof: execution, commitment, lookups, every node, openings.
    fn progress(&self, step: &'static str, done: usize) -> Progress {
        let of = self.skeleton.nodes.len() + 4;
        Progress { step, done, of }
    }

    /// What a claim is about in the witness.
    pub(crate) fn column_pieces(&self, target: Target) -> Cow<'_, [Piece]> {
        let block = match target {
            Target::Column(i) => self.stack.blocks.get(i).copied(),
            _ => None,
        };
        Cow::Owned(block.map(Piece::whole).into_iter().collect())
    }

    /// What a claim is about in the committed constants.
    pub(crate) fn constant_pieces(&self, target: Target) -> Cow<'_, [Piece]> {
        let pieces = match target {
            Target::Constant(i) => self.constants.pieces.get(i),
            _ => None,
        };
        Cow::Borrowed(pieces.map_or(&[], Vec::as_slice))
    }
}

struct Prover<'a> {
    model: &'a Model,
    plan: &'a Plan,
    values: Vec<Vec<i32>>,
    witness: &'a Witness,
    inputs: Vec<Vec<Base>>,
    claims: Accumulator,
    edge: usize,
}

impl Prover<'_> {
    /// Proves all lookups; gives for each node the point at which its sums are claimed.
    fn lookups(&mut self, transcript: &mut ProverTranscript<'_>) -> Vec<Vec<Ext>> {
        let challenges = transcript.draw_all("lookup challenges", 2);
        let (numerators, denominators) = {
            let witness = transcript.hook().lookup_witness().unwrap_or(self.witness);
            fractions(self.plan, witness, challenges[0], challenges[1])
        };
        let leaf = prove_sum(numerators, denominators, transcript);
        let low = |block: &Block| leaf.point[self.plan.leaves.bits - block.bits..].to_vec();
        let mut evaluations = Vec::new();
        let mut claims = Vec::new();
        for (lookup, block) in self.plan.lookups.iter().zip(&self.plan.leaves.blocks) {
            for column in lookup_columns(self.plan, lookup) {
                let weight = Weight::Point(low(block));
                evaluations.push(weight.sum(self.witness.column(self.plan, column)));
                claims.push((Target::Column(column), weight));
            }
        }
        transcript.send_all("lookup columns", &mut evaluations);
        for ((target, weight), value) in claims.into_iter().zip(evaluations) {
            self.claims.add(Claim {
                target,
                weight,
                value,
            });
        }
        node_points(self.plan, &leaf.point)
    }

    fn tensor(&self, source: Source) -> Tensor<'_> {
        let plan = self.plan;
        match source {
            Source::Input(i) => Tensor {
                values: &self.values[i],
                cells: Cow::Borrowed(&self.inputs[i]),
                shape: &plan.skeleton.inputs[i].1.shape,
            },
            Source::Constant(i) => Tensor {
                values: &self.model.graph().constants()[i],
                cells: self.model.constant(i),
                shape: &plan.skeleton.constants[i].shape,
            },
            Source::Node(i) => Tensor {
                values: &self.witness.trace.values[i],
                cells: Cow::Borrowed(
                    self.witness
                        .column(plan, plan.column(Column::Value(i)).unwrap_or(0)),
                ),
                shape: &plan.skeleton.nodes[i].expression.shape,
            },
        }
    }

    fn deliver(&mut self, view: &View, weight: Weight, value: Ext) {
        let plan = self.plan;
        let target = plan.target(view.source);
        self.claims.deliver(
            self.edge,
            Claim {
                target,
                weight,
                value,
            },
        );
        self.edge += 1;
    }

    /// Proves the sum of an expression at a point, term by term.
    fn expression(
        &mut self,
        expression: &Expression,
        point: &[Ext],
        transcript: &mut ProverTranscript<'_>,
    ) {
        let coordinates = by_axis(point, &expression.shape);
        let mut operands = Vec::new();
        let mut values: Vec<Ext> = Vec::with_capacity(expression.terms.len());
        let mut weights = Vec::new();
        for term in &expression.terms {
            match term {
                Term::Linear { view, .. } => {
                    let tensor = self.tensor(view.source);
                    let weight = Weight::view(view, &expression.shape, &coordinates, tensor.shape);
                    values.push(weight.sum(&tensor.cells));
                    weights.push(Some(weight));
                }
                Term::Product {
                    left,
                    right,
                    contracted,
                    ..
                } => {
                    let product = Product::new(expression, left, right, contracted);
                    let at = |axes: &[usize]| -> Vec<Ext> {
                        axes.iter()
                            .flat_map(|&a| coordinates[a].iter().copied())
                            .collect()
                    };
                    let split = &product.split;
                    let batch = at(&split.batch);
                    let a = bind(
                        &product,
                        left,
                        &split.left,
                        &at(&split.left),
                        self.tensor(left.source),
                    );
                    let b = bind(
                        &product,
                        right,
                        &split.right,
                        &at(&split.right),
                        self.tensor(right.source),
                    );
                    values.push(crate::sumcheck::weighted_sum(&a, &b, &batch));
                    operands.push((product, batch, a, b));
                    weights.push(None);
                }
            }
        }
        transcript.send_all("terms", &mut values);
        let mut operands = operands.into_iter();
        for ((term, weight), value) in expression.terms.iter().zip(weights).zip(values) {
            match term {
                Term::Linear { view, .. } => {
                    if let Some(weight) = weight {
                        self.deliver(view, weight, value);
                    }
                }
                Term::Product { left, right, .. } => {
                    let Some((product, batch, a, b)) = operands.next() else {
                        continue;
                    };
                    let (at, ends) =
                        prove(&Multiply, [a, b], product.variables(), &batch, transcript);
                    let ends = transcript.send("operands", ends);
                    let coordinates = product.coordinates(&coordinates, &at);
                    for (view, value) in [left, right].into_iter().zip(ends) {
                        let shape = self.plan.skeleton.shape(view.source);
                        let weight = Weight::view(view, &product.axes, &coordinates, shape);
                        self.deliver(view, weight, value);
                    }
                }
            }
        }
    }
}

/// The columns that a group of lookups evaluates, in the order in which they are sent.
pub(crate) fn lookup_columns(plan: &Plan, lookup: &Lookup) -> Vec<usize> {
    let columns: &[Column] = match *lookup {
        Lookup::Node(i) => &[Column::Index(i), Column::Value(i)],
        Lookup::Limb(i, limb) => &[Column::Limb(i, limb)],
        Lookup::Table(t) => &[Column::TableCount(t)],
        Lookup::Range(width) => &[Column::RangeCount(width)],
    };
    columns.iter().filter_map(|&c| plan.column(c)).collect()
}

/// For each node the part of the leaves' point that belongs to its variables.
pub(crate) fn node_points(plan: &Plan, leaf: &[Ext]) -> Vec<Vec<Ext>> {
    let point = |e: &Expression| leaf[leaf.len() - variables(&e.shape)..].to_vec();
    plan.skeleton
        .nodes
        .iter()
        .map(|n| point(&n.expression))
        .collect()
}

impl Product {
    /// Coordinates for all axes: those of the result where an operand was bound, those of the
    /// sumcheck's point for batch and contracted axes.
    pub(crate) fn coordinates(&self, result: &[Vec<Ext>], at: &[Ext]) -> Vec<Vec<Ext>> {
        let mut coordinates: Vec<Vec<Ext>> = result.to_vec();
        coordinates.resize(self.axes.len(), Vec::new());
        let mut rest = at;
        for &axis in self.split.batch.iter().chain(&self.split.contracted) {
            let (head, tail) = rest.split_at(crate::plan::log2(self.axes[axis]));
            coordinates[axis] = head.to_vec();
            rest = tail;
        }
        coordinates
    }
}

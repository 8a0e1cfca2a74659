//! The verifier.

use lemma_graph::integer::{Expression, Term, View};

use crate::batch::verify_batch;
use crate::claims::{Accumulator, Claim, Target, Weight, by_axis, uncovered};
use crate::error::{Check, VerifyError, require};
use crate::field::{Base, Ext, MODULUS, PrimeCharacteristicRing, power_of_two, small};
use crate::fractions::{LeafClaim, verify_sum};
use crate::layout::Block;
use crate::model::{ModelRoot, VerifyingKey, shared_pcs};
use crate::plan::{Lookup, Plan, Product, variables};
use crate::poly::{below, eq_index, evaluate, index_eval};
use crate::profile::Profile;
use crate::proof::{Proof, Statement, value_bytes};
use crate::prover::{lookup_columns, node_points};
use crate::schemes::Role;
use crate::soundness::{Errors, Soundness};
use crate::sumcheck::verify;
use crate::transcript::VerifierTranscript;
use crate::witness::{constant_cells, padded};

/// The weights of a model, held by a verifier to check proofs of the holder's profile, or any.
pub struct HeldWeights {
    cells: Vec<Base>,
    key: VerifyingKey,
}

impl HeldWeights {
    /// The weights of a registered model.
    #[must_use]
    pub fn new(model: &crate::model::Model) -> HeldWeights {
        HeldWeights {
            cells: constant_cells(model.graph()),
            key: model.key().clone(),
        }
    }

    /// The root of the model whose weights they are.
    #[must_use]
    pub fn model_root(&self) -> ModelRoot {
        self.key.model_root()
    }
}

/// Checks that a proof proves a statement, and gives the soundness that it has.
///
/// `key` is the model's; that it is, is checked. `profile` is what the caller demands.
///
/// # Errors
/// Which check failed, or why the statement does not fit the model.
pub fn verify_inference(
    key: &VerifyingKey,
    statement: &Statement,
    proof: &Proof,
    profile: Profile,
) -> Result<Soundness, VerifyError> {
    require(
        Check::Header,
        profile.succinct() && proof.profile == profile,
    )?;
    rayon::scope(|_| Session::new(key, statement, proof, None)?.check()).map(|e| e.soundness())
}

/// Checks a proof of the holder's profile against weights that the caller has.
///
/// # Errors
/// As [`verify_inference`].
pub fn verify_with_weights(
    weights: &HeldWeights,
    statement: &Statement,
    proof: &Proof,
    profile: Profile,
) -> Result<Soundness, VerifyError> {
    require(
        Check::Header,
        !profile.succinct() && proof.profile == profile,
    )?;
    rayon::scope(|_| Session::new(&weights.key, statement, proof, Some(&weights.cells))?.check())
        .map(|e| e.soundness())
}

/// The soundness of proofs about a model, without a proof.
///
/// # Errors
/// When the model cannot be proved with this profile.
pub fn soundness(
    key: &VerifyingKey,
    samples: usize,
    profile: Profile,
) -> Result<Soundness, VerifyError> {
    let plan = Plan::new(key.skeleton(), samples)?;
    Ok(Errors::new(&plan, profile)?.soundness())
}

/// Counts are field elements: with fewer lookups than the characteristic none wraps around.
pub(crate) fn few_lookups(count: u64) -> Result<(), VerifyError> {
    require(Check::LookupCount, count < u64::from(MODULUS) / 2)
}

/// One verification.
pub(crate) struct Session<'a> {
    root: ModelRoot,
    constants_root: [u8; 32],
    plan: Plan,
    statement: &'a Statement,
    proof: &'a Proof,
    weights: Option<&'a [Base]>,
    /// Constants in the key, in their cubes.
    keyed: &'a [Option<Vec<Base>>],
    claims: Accumulator,
    edge: usize,
    #[cfg(test)]
    pub(crate) tape: Option<Vec<Ext>>,
    #[cfg(test)]
    pub(crate) drawn: Vec<Ext>,
}

impl<'a> Session<'a> {
    pub(crate) fn new(
        key: &'a VerifyingKey,
        statement: &'a Statement,
        proof: &'a Proof,
        weights: Option<&'a [Base]>,
    ) -> Result<Session<'a>, VerifyError> {
        let plan = Plan::new(key.skeleton(), statement.samples)?;
        Ok(Session {
            root: key.model_root(),
            constants_root: key.constants_root(),
            claims: Accumulator::new(plan.edges()),
            plan,
            statement,
            proof,
            weights,
            keyed: key.keyed_cells(),
            edge: 0,
            #[cfg(test)]
            tape: None,
            #[cfg(test)]
            drawn: Vec::new(),
        })
    }

    /// See [`crate::evidence::Verification::work`].
    pub(crate) fn work(&self) -> Result<u64, VerifyError> {
        crate::work::work(&self.plan, self.proof.profile)
    }

    pub(crate) fn check(&mut self) -> Result<Errors, VerifyError> {
        let profile = self.proof.profile;
        require(Check::ModelRoot, self.statement.model_root == self.root)?;
        self.statement.check(&self.plan.skeleton)?;
        let errors = Errors::new(&self.plan, profile)?;
        errors.require(profile.security.target())?;
        few_lookups(self.plan.lookup_count())?;
        let schedule = self.plan.schedule(profile.succinct());
        let mut transcript = VerifierTranscript::new(schedule, &self.proof.messages)?;
        #[cfg(test)]
        if let Some(tape) = self.tape.clone() {
            transcript.freeze(tape);
        }
        let result = self.messages(profile, &mut transcript);
        #[cfg(test)]
        {
            self.drawn = transcript.drawn().to_vec();
        }
        result?;
        transcript.finish()?;
        Ok(errors)
    }

    fn messages(
        &mut self,
        profile: Profile,
        transcript: &mut VerifierTranscript<'_>,
    ) -> Result<(), VerifyError> {
        let statement = self.statement;
        transcript.bind("profile", &[crate::proof::VERSION, profile.code()])?;
        transcript.bind("model root", &statement.model_root)?;
        transcript.bind("samples", &(statement.samples as u64).to_le_bytes())?;
        transcript.bind("inputs", &value_bytes(&statement.inputs))?;
        transcript.bind("outputs", &value_bytes(&statement.outputs))?;
        transcript.root("witness", &self.proof.witness_root)?;
        let (points, sums) = self.lookups(transcript)?;
        let nodes = self.plan.skeleton.nodes.clone();
        for ((node, point), sum) in nodes.iter().zip(&points).zip(sums) {
            let total = self.expression(&node.expression, point, transcript)?;
            let sizes = &node.expression.shape;
            let all: Vec<usize> = (0..sizes.len()).collect();
            let selected = uncovered(&all, sizes, &by_axis(point, sizes));
            require(Check::NodeSum, total + selected * small(node.offset) == sum)?;
        }
        let outputs = self.plan.skeleton.outputs.clone();
        for ((_, expression), values) in outputs.iter().zip(&statement.outputs) {
            let point = transcript.draw_all("output point", variables(&expression.shape))?;
            let total = self.expression(expression, &point, transcript)?;
            let claimed = evaluate(&padded(values, &expression.shape), &point);
            require(Check::OutputSum, total == claimed)?;
        }
        self.openings(profile, transcript)
    }

    /// Checks the lookups; gives for each node a point and the claimed value of its sums there.
    #[allow(clippy::type_complexity)]
    fn lookups(
        &mut self,
        transcript: &mut VerifierTranscript<'_>,
    ) -> Result<(Vec<Vec<Ext>>, Vec<Ext>), VerifyError> {
        let challenges = transcript.draw_all("lookup challenges", 2)?;
        let (alpha, beta) = (challenges[0], challenges[1]);
        let ([numerator, denominator], leaf) = verify_sum(self.plan.leaves.bits, transcript)?;
        // All lookups less all table entries is what the padding looked up: zeros, with tag 0.
        let padding = Base::from_u32(self.plan.padding_count() as u32);
        require(Check::LookupSum, numerator * alpha == denominator * padding)?;
        require(
            Check::LookupDenominator,
            denominator != Ext::ZERO && alpha != Ext::ZERO,
        )?;
        let evaluations = transcript.receive_all("lookup columns", self.plan.leaf_evaluations())?;
        self.leaves(&leaf, alpha, beta, &evaluations)?;
        let points = node_points(&self.plan, &leaf.point);
        let mut rest = &evaluations[..];
        let mut sums = vec![Ext::ZERO; points.len()];
        for (lookup, block) in self.plan.lookups.iter().zip(&self.plan.leaves.blocks) {
            let columns = lookup_columns(&self.plan, lookup);
            let (own, after) = rest.split_at(columns.len());
            rest = after;
            match *lookup {
                Lookup::Node(i) => {
                    sums[i] += own[0] * power_of_two(self.plan.skeleton.nodes[i].shift)
                }
                Lookup::Limb(i, limb) => {
                    let below: u32 = self.plan.limbs(i)[..limb].iter().sum();
                    sums[i] += own[0] * power_of_two(below);
                }
                _ => {}
            }
            let point = &leaf.point[self.plan.leaves.bits - block.bits..];
            for (column, &value) in columns.into_iter().zip(own) {
                self.claims.add(Claim {
                    target: Target::Column(column),
                    weight: Weight::Point(point.to_vec()),
                    value,
                });
            }
        }
        Ok((points, sums))
    }

    /// Checks the claim on the leaves against the columns' evaluations.
    fn leaves(
        &self,
        leaf: &LeafClaim,
        alpha: Ext,
        beta: Ext,
        evaluations: &[Ext],
    ) -> Result<(), VerifyError> {
        let bits = self.plan.leaves.bits;
        let mut rest = evaluations;
        let mut next = || match rest.split_first() {
            Some((first, tail)) => {
                rest = tail;
                *first
            }
            None => Ext::ZERO,
        };
        let (mut numerator, mut denominator, mut covered) = (Ext::ZERO, Ext::ZERO, Ext::ZERO);
        for (lookup, block) in self.plan.lookups.iter().zip(&self.plan.leaves.blocks) {
            let Block { bits: own, start } = *block;
            let (high, low) = leaf.point.split_at(bits - own);
            let place = eq_index(high, start >> own);
            covered += place;
            let selected = |node: usize| {
                let sizes = &self.plan.skeleton.nodes[node].expression.shape;
                let axes: Vec<usize> = (0..sizes.len()).collect();
                uncovered(&axes, sizes, &by_axis(low, sizes))
            };
            let tag = |tag: u32| beta.square() * Base::from_u32(tag);
            let (n, d) = match *lookup {
                Lookup::Node(i) => {
                    let (index, value) = (next(), next());
                    let tag = tag(self.plan.table_tag(self.plan.skeleton.nodes[i].table));
                    (Ext::ONE, alpha - index - beta * value - tag * selected(i))
                }
                Lookup::Limb(i, limb) => {
                    let tag = tag(self.plan.range_tag(self.plan.limbs(i)[limb]));
                    (Ext::ONE, alpha - next() - tag * selected(i))
                }
                Lookup::Table(t) => {
                    let entries = &self.plan.skeleton.tables[t].entries;
                    let values: Vec<Base> = entries.iter().map(|&e| small(i32::from(e))).collect();
                    let value = evaluate(&values, low);
                    let tag = tag(self.plan.table_tag(t));
                    (-next(), alpha - index_eval(low) - beta * value - tag)
                }
                Lookup::Range(width) => {
                    let tag = tag(self.plan.range_tag(width));
                    (-next(), alpha - index_eval(low) - tag)
                }
            };
            numerator += place * n;
            denominator += place * d;
        }
        // Beyond the blocks the leaves are 0 / 1.
        let end: usize = self
            .plan
            .leaves
            .blocks
            .iter()
            .map(|b| 1usize << b.bits)
            .sum();
        debug_assert_eq!(covered, below(end, &leaf.point));
        denominator += Ext::ONE - covered;
        require(Check::LeafNumerator, numerator == leaf.numerator)?;
        require(Check::LeafDenominator, denominator == leaf.denominator)
    }

    fn deliver(&mut self, view: &View, axes: &[usize], coordinates: &[Vec<Ext>], value: Ext) {
        let plan = &self.plan;
        let shape = plan.skeleton.shape(view.source);
        let weight = Weight::view(view, axes, coordinates, shape);
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

    /// Checks the terms of an expression at a point; gives their sum.
    fn expression(
        &mut self,
        expression: &Expression,
        point: &[Ext],
        transcript: &mut VerifierTranscript<'_>,
    ) -> Result<Ext, VerifyError> {
        let coordinates = by_axis(point, &expression.shape);
        let values = transcript.receive_all("terms", expression.terms.len())?;
        let mut total = Ext::ZERO;
        for (term, &value) in expression.terms.iter().zip(&values) {
            let free: Vec<usize> = (0..expression.shape.len())
                .filter(|&a| !term.views().iter().any(|v| v.covers(a)))
                .collect();
            let repeated = uncovered(&free, &expression.shape, &coordinates);
            total += repeated * value * small(term.coefficient());
            match term {
                Term::Linear { view, .. } => {
                    self.deliver(view, &expression.shape, &coordinates, value);
                }
                Term::Product {
                    left,
                    right,
                    contracted,
                    ..
                } => {
                    let product = Product::new(expression, left, right, contracted);
                    let batch: Vec<Ext> = product
                        .split
                        .batch
                        .iter()
                        .flat_map(|&a| coordinates[a].iter().copied())
                        .collect();
                    let (at, end) = verify(value, product.variables(), &batch, transcript)?;
                    let ends = transcript.receive::<2>("operands")?;
                    require(Check::Product, end == ends[0] * ends[1])?;
                    let coordinates = product.coordinates(&coordinates, &at);
                    for (view, value) in [left, right].into_iter().zip(ends) {
                        self.deliver(view, &product.axes, &coordinates, value);
                    }
                }
            }
        }
        Ok(total)
    }

    /// Checks all claims: on inputs and held constants directly, the others by openings.
    fn openings(
        &mut self,
        profile: Profile,
        transcript: &mut VerifierTranscript<'_>,
    ) -> Result<(), VerifyError> {
        let claims = std::mem::replace(&mut self.claims, Accumulator::new(0)).finish()?;
        let plan = &self.plan;
        let inputs: Vec<Vec<Base>> = self
            .statement
            .inputs
            .iter()
            .zip(&plan.skeleton.inputs)
            .map(|(values, (_, range))| padded(values, &range.shape))
            .collect();
        for claim in &claims {
            if let Target::Input(i) = claim.target {
                require(
                    Check::InputClaim,
                    claim.weight.sum(&inputs[i]) == claim.value,
                )?;
            }
            if let Target::Constant(i) = claim.target {
                let weight = &claim.weight;
                let value = match &plan.constants.pieces[i][..] {
                    [] => self.keyed[i].as_ref().map(|cells| weight.sum(cells)),
                    _ if profile.succinct() => continue,
                    pieces => self.weights.map(|cells| {
                        let each = pieces.iter().map(|piece| weight.sum_in(piece, cells));
                        each.sum()
                    }),
                };
                require(Check::ConstantClaim, value == Some(claim.value))?;
            }
        }
        let (at, value) = verify_batch(
            &claims,
            plan.stack.bits,
            |t| plan.column_pieces(t),
            transcript,
        )?;
        let opens_model = profile.succinct() && plan.reads_constants();
        let model = opens_model
            .then(|| {
                verify_batch(
                    &claims,
                    plan.constants.stack.bits,
                    |t| plan.constant_pieces(t),
                    transcript,
                )
            })
            .transpose()?;
        let failed = |e: crate::error::ProveError| VerifyError::Parameters(e.to_string());
        let pcs = shared_pcs(plan.stack.bits, Role::Witness, profile.security).map_err(failed)?;
        transcript.opening("witness opening", |challenger| {
            let opens = pcs.verify(
                &self.proof.witness_root,
                &at,
                value,
                &self.proof.witness_opening,
                challenger,
            );
            require(Check::WitnessOpening, opens)
        })?;
        match model {
            None => require(Check::Length, self.proof.model_opening.is_empty()),
            Some((at, value)) => {
                let pcs = shared_pcs(plan.constants.stack.bits, Role::Model, profile.security)
                    .map_err(failed)?;
                transcript.opening("model opening", |challenger| {
                    let opens = pcs.verify(
                        &self.constants_root,
                        &at,
                        value,
                        &self.proof.model_opening,
                        challenger,
                    );
                    require(Check::ModelOpening, opens)
                })
            }
        }
    }
}

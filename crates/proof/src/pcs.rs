//! The commitment: WHIR (Arnon, Chiesa, Fenzi, Yogev, ePrint 2024/1586) from Plonky3, for one
//! multilinear polynomial over the base field, opened at one point of the extension. With `trees`,
//! the only module that names Plonky3's commitment crates.
//!
//! Only the Johnson bound can be asked for: the regime up to capacity, whose conjecture is
//! disproved (ePrint 2025/2046), has no name here.

use p3_blake3::Blake3;
use p3_commit::MultilinearPcs;
use p3_dft::Radix2DFTSmallBatch;
use p3_matrix::dense::RowMajorMatrix;
use p3_merkle_tree::MerkleTreeMmcs;
use p3_merkle_tree::PrunedMerklePaths;
use p3_multilinear_util::point::Point;
use p3_multilinear_util::poly::Poly;
use p3_sumcheck::layout::{Layout, SuffixProver, Table};
use p3_sumcheck::{
    OpeningBatch, OpeningProtocol, PrescribedPointPcs, SumcheckData, TableShape, TableSpec,
};
use p3_symmetric::{CompressionFunctionFromHasher, MerkleCap, SerializingHasher};
use p3_whir::parameters::{FoldingFactor, ProtocolParameters, SecurityAssumption, WhirConfig};
use p3_whir::pcs::proof::{PcsProof, QueryOpenings, SharedProofOpening, WhirProof, WhirRoundProof};
use p3_whir::pcs::prover::WhirProver;

use crate::field::{Base, EXT_BYTES, Ext, PrimeField32, base_from_bytes, from_bytes, to_bytes};
use crate::profile::Security;
use crate::schemes::{Role, Scheme, scheme};
use crate::transcript::Challenger;
use crate::trees::Shared;

type Hasher = SerializingHasher<Blake3>;
type Compress = CompressionFunctionFromHasher<Blake3, 2, 32>;
type Trees = MerkleTreeMmcs<Base, u8, Hasher, Compress, 2, 32>;
type Mmcs = Shared<Trees>;
type Dft = Radix2DFTSmallBatch<Base>;
type Config = WhirConfig<Ext, Base, Challenger>;
type Whir = WhirProver<Ext, Base, Dft, Mmcs, Challenger, SuffixProver<Base, Ext>>;
type Data = <Whir as MultilinearPcs<Ext, Challenger>>::ProverData;
type Opening = PcsProof<Base, Ext, Mmcs>;

/// Variables folded in each round.
const FOLD: usize = 4;

/// The scheme for polynomials of some number of variables.
pub(crate) struct Pcs {
    config: Config,
    whir: Whir,
    protocol: OpeningProtocol,
}

/// A commitment with what its opening needs.
pub(crate) struct Committed {
    pub(crate) root: [u8; 32],
    data: Data,
}

/// Parameters as the library derives them.
fn config(variables: usize, role: Role, security: Security) -> Result<Config, String> {
    let folding = FoldingFactor::Constant(FOLD);
    let unusable = |reason: String| format!("no commitment for 2^{variables} cells: {reason}");
    let (rounds, _) = folding
        .compute_number_of_rounds(variables)
        .map_err(|e| unusable(format!("{e:?}")))?;
    let start = role.log_inverse_rate(variables);
    // The code shrinks by half in each round. The model's is twice as long as the witness's, but only where it is committed
    // to once: afterwards it is shorter, which costs a few more queries and spares the prover half of the largest round.
    let rates = (0..rounds).map(|round| role.round_rate() + (FOLD - 1) * round);
    let parameters = ProtocolParameters {
        starting_log_inv_rate: start,
        round_log_inv_rates: rates.collect(),
        folding_factor: folding,
        soundness_type: SecurityAssumption::JohnsonBound,
        security_level: security.phase_bits(),
        pow_bits: security.grinding_bits(),
    };
    let config = Config::new_with_initial_claims(variables, parameters, 1)
        .map_err(|e| unusable(format!("{e:?}")))?;
    if !config.check_pow_bits() {
        return Err(unusable(format!(
            "{} grinding bits would be needed",
            config.max_pow_bits()
        )));
    }
    Ok(config)
}

/// What a table of parameters has of them; see [`Scheme::schedule`].
fn schedule(config: &Config) -> Vec<u16> {
    let mut numbers = vec![
        config.commitment_ood_samples(),
        config.starting_folding_pow_bits(),
    ];
    for round in config.round_parameters() {
        numbers.extend([
            round.num_queries,
            round.pow_bits,
            round.folding_pow_bits,
            round.ood_samples,
            round.num_variables,
            round.domain_size.ilog2() as usize,
            round.folding_factor,
            round.log_inv_rate,
        ]);
    }
    let last = config.terminal();
    numbers.extend([
        last.num_queries,
        last.pow_bits,
        config.final_folding_pow_bits(),
        config.final_sumcheck_rounds(),
    ]);
    let narrow = |n| u16::try_from(n).unwrap_or(u16::MAX);
    numbers.into_iter().map(narrow).collect()
}

/// The library's parameters for a scheme, if they are those that are written down.
pub(crate) fn check_scheme(scheme: &Scheme) -> Result<Config, String> {
    let config = config(scheme.variables, scheme.role, scheme.security)?;
    if schedule(&config) == scheme.schedule {
        Ok(config)
    } else {
        Err(format!(
            "this machine derives other parameters for a commitment to 2^{} cells than are written down: its \
             floating-point arithmetic is not IEEE 754's",
            scheme.variables
        ))
    }
}

fn protocol(variables: usize) -> OpeningProtocol {
    let schedule = vec![OpeningBatch::new(vec![0], vec![])];
    let shape = TableShape::new(variables, 1);
    OpeningProtocol::new(vec![TableSpec::new(shape, schedule)]).pad_to_min_num_variables(FOLD)
}

fn whir(config: Config) -> Whir {
    let trees = Trees::new(Hasher::new(Blake3 {}), Compress::new(Blake3 {}), 0);
    // Its roots of unity are computed when something is encoded: a verifier does not.
    WhirProver::new(config, Dft::default(), Shared(trees))
}

/// What a table of parameters is made from, errors in bits.
#[cfg(test)]
pub(crate) struct Derived {
    pub(crate) schedule: Vec<u16>,
    /// The opening's own error, all of its phases together.
    pub(crate) error_bits: f64,
    /// log₂ of the number of polynomials to which a commitment may still be close.
    pub(crate) candidates: f64,
    /// The error of combining claims, which the library compares when it verifies.
    pub(crate) claims_bits: f64,
}

#[cfg(test)]
pub(crate) fn derive(variables: usize, role: Role, security: Security) -> Result<Derived, String> {
    let config = config(variables, role, security)?;
    let claims_bits = config.initial_claims_error(1 + config.commitment_ood_samples());
    let schedule = schedule(&config);
    let security = whir(config)
        .prescribed_security(&protocol(variables))
        .ok_or("the commitment's error cannot be bounded")?;
    Ok(Derived {
        schedule,
        error_bits: security.error().bits(),
        candidates: security.log2_max_candidates,
        claims_bits,
    })
}

impl Pcs {
    /// The scheme for polynomials of some number of variables.
    pub(crate) fn new(variables: usize, role: Role, security: Security) -> Result<Pcs, String> {
        let scheme = scheme(variables, role, security)
            .ok_or_else(|| format!("there is no commitment to 2^{variables} cells"))?;
        let config = check_scheme(scheme)?;
        Ok(Pcs {
            whir: whir(config.clone()),
            protocol: protocol(variables),
            config,
        })
    }

    /// Commits to cells.
    pub(crate) fn commit(&self, cells: Vec<Base>) -> Result<Committed, String> {
        let height = cells.len();
        let table = Table::new(RowMajorMatrix::new(cells, height));
        let witness =
            <SuffixProver<Base, Ext> as Layout<Base, Ext>>::new_witness(vec![table], FOLD);
        // The root is absorbed by our own transcript; this challenger is not used again.
        let mut unused = scratch_challenger();
        let (commitment, data) =
            <Whir as MultilinearPcs<Ext, Challenger>>::commit(&self.whir, witness, &mut unused)
                .map_err(|e| format!("{e:?}"))?;
        let root = commitment.roots().first().copied().unwrap_or_default();
        Ok(Committed { root, data })
    }

    /// Opens a commitment at a point; leaves the commitment as it is.
    pub(crate) fn open(
        &self,
        committed: &Committed,
        point: &[Ext],
        challenger: &mut Challenger,
    ) -> Result<Vec<u8>, String> {
        let points = [Point::new(point.to_vec())];
        let proof = self
            .whir
            .open_at(committed.data.clone(), &self.protocol, &points, challenger)
            .map_err(|e| format!("{e:?}"))?;
        let mut out = Vec::new();
        write_opening(&proof, &mut out);
        Ok(out)
    }

    /// Checks that the polynomial under `root` has `value` at `point`.
    pub(crate) fn verify(
        &self,
        root: &[u8; 32],
        point: &[Ext],
        value: Ext,
        bytes: &[u8],
        challenger: &mut Challenger,
    ) -> bool {
        let Some(proof) = self.read_opening(bytes) else {
            return false;
        };
        let commitment = MerkleCap::<Base, [u8; 32]>::new(vec![*root]);
        let points = [Point::new(point.to_vec())];
        match self
            .whir
            .verify_at(&commitment, &proof, &self.protocol, &points, challenger)
        {
            Ok(evaluations) => matches!(&evaluations[..], [one] if one.current() == [value]),
            Err(_) => false,
        }
    }

    /// Reads an opening whose every length follows from the parameters, but for the number of
    /// Merkle siblings, which is bounded by them.
    fn read_opening(&self, bytes: &[u8]) -> Option<Opening> {
        let config = &self.config;
        let mut r = Reader(bytes);
        let answers = r.elements(config.commitment_ood_samples())?;
        let initial = r.sumcheck(
            config.round_folding_factor(0),
            config.starting_folding_pow_bits(),
        )?;
        let mut rounds = Vec::new();
        for (index, round) in config.round_parameters().iter().enumerate() {
            rounds.push(WhirRoundProof {
                commitment: Some(MerkleCap::new(vec![r.root()?])),
                ood_answers: r.elements(round.ood_samples)?,
                pow_witness: r.base()?,
                openings: r.openings(
                    index,
                    round.num_queries,
                    round.folding_factor,
                    round.domain_size,
                )?,
                sumcheck: r.sumcheck(
                    config.round_folding_factor(index + 1),
                    round.folding_pow_bits,
                )?,
            });
        }
        let last = config.final_round_config();
        let final_poly = Poly::new(r.elements(1 << last.num_variables)?);
        let final_pow_witness = r.base()?;
        let final_openings = r.openings(
            rounds.len(),
            last.num_queries,
            last.folding_factor,
            last.domain_size,
        )?;
        let final_sumcheck = match config.final_sumcheck_rounds() {
            0 => None,
            n => Some(r.sumcheck(n, config.final_folding_pow_bits())?),
        };
        let evals = vec![OpeningBatch::new(r.elements(1)?, vec![])];
        let whir = WhirProof {
            initial_ood_answers: answers,
            initial_sumcheck: initial,
            rounds,
            final_poly: Some(final_poly),
            final_pow_witness,
            final_openings,
            final_sumcheck,
        };
        r.0.is_empty().then_some(PcsProof { whir, evals })
    }
}

fn scratch_challenger() -> Challenger {
    Challenger::new(p3_challenger::HashChallenger::new(Vec::new(), Blake3 {}))
}

fn write_base(value: Base, out: &mut Vec<u8>) {
    out.extend(value.as_canonical_u32().to_le_bytes());
}

fn write_elements(values: &[Ext], out: &mut Vec<u8>) {
    values.iter().for_each(|v| to_bytes(v, out));
}

fn write_sumcheck(data: &SumcheckData<Base, Ext>, out: &mut Vec<u8>) {
    data.polynomial_evaluations
        .iter()
        .for_each(|pair| write_elements(pair, out));
    data.pow_witnesses.iter().for_each(|&w| write_base(w, out));
}

fn write_openings<P>(openings: &QueryOpenings<Base, Ext, P>, out: &mut Vec<u8>)
where
    P: std::borrow::Borrow<PrunedMerklePaths<u8, 32>>,
{
    let paths = match openings {
        QueryOpenings::Base(o) => {
            o.rows.iter().flatten().for_each(|&v| write_base(v, out));
            o.proof.borrow()
        }
        QueryOpenings::Extension(o) => {
            o.rows.iter().for_each(|row| write_elements(row, out));
            o.proof.borrow()
        }
    };
    out.extend((paths.sibling_hashes.len() as u32).to_le_bytes());
    paths.sibling_hashes.iter().for_each(|h| out.extend(h));
}

fn write_opening(proof: &Opening, out: &mut Vec<u8>) {
    let whir = &proof.whir;
    write_elements(&whir.initial_ood_answers, out);
    write_sumcheck(&whir.initial_sumcheck, out);
    for round in &whir.rounds {
        if let Some(commitment) = &round.commitment {
            commitment.roots().iter().for_each(|root| out.extend(root));
        }
        write_elements(&round.ood_answers, out);
        write_base(round.pow_witness, out);
        write_openings(&round.openings, out);
        write_sumcheck(&round.sumcheck, out);
    }
    if let Some(poly) = &whir.final_poly {
        write_elements(poly.as_slice(), out);
    }
    write_base(whir.final_pow_witness, out);
    write_openings(&whir.final_openings, out);
    if let Some(sumcheck) = &whir.final_sumcheck {
        write_sumcheck(sumcheck, out);
    }
    proof
        .evals
        .iter()
        .for_each(|batch| write_elements(batch.current(), out));
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(head)
    }

    fn base(&mut self) -> Option<Base> {
        base_from_bytes(*self.take(4)?.first_chunk()?)
    }

    fn root(&mut self) -> Option<[u8; 32]> {
        self.take(32)?.first_chunk().copied()
    }

    fn bases(&mut self, n: usize) -> Option<Vec<Base>> {
        let (words, _) = self.take(n.checked_mul(4)?)?.as_chunks::<4>();
        words.iter().map(|w| base_from_bytes(*w)).collect()
    }

    fn elements(&mut self, n: usize) -> Option<Vec<Ext>> {
        let (chunks, _) = self
            .take(n.checked_mul(EXT_BYTES)?)?
            .as_chunks::<EXT_BYTES>();
        let read = |c| {
            Some(from_bytes(c))
                .filter(|(_, reduced)| *reduced)
                .map(|(v, _)| v)
        };
        chunks.iter().map(read).collect()
    }

    fn sumcheck(&mut self, rounds: usize, grinding: usize) -> Option<SumcheckData<Base, Ext>> {
        let values = self.elements(2 * rounds)?;
        let (pairs, _) = values.as_chunks::<2>();
        Some(SumcheckData {
            polynomial_evaluations: pairs.to_vec(),
            pow_witnesses: self.bases(if grinding > 0 { rounds } else { 0 })?,
        })
    }

    fn openings(
        &mut self,
        round: usize,
        queries: usize,
        fold: usize,
        domain: usize,
    ) -> Option<QueryOpenings<Base, Ext, PrunedMerklePaths<u8, 32>>> {
        let width = 1usize << fold;
        // A phase that asks for as many positions as there are opens all of them.
        let queries = queries.min(domain >> fold);
        let depth = domain.max(1).ilog2() as usize;
        if round == 0 {
            let cells = self.bases(queries * width)?;
            let rows = cells.chunks(width).map(<[Base]>::to_vec).collect();
            let proof = self.siblings(queries * depth)?;
            Some(QueryOpenings::Base(SharedProofOpening { rows, proof }))
        } else {
            let cells = self.elements(queries * width)?;
            let rows = cells.chunks(width).map(<[Ext]>::to_vec).collect();
            let proof = self.siblings(queries * depth)?;
            Some(QueryOpenings::Extension(SharedProofOpening { rows, proof }))
        }
    }

    fn siblings(&mut self, most: usize) -> Option<PrunedMerklePaths<u8, 32>> {
        let count = u32::from_le_bytes(*self.take(4)?.first_chunk()?) as usize;
        if count > most {
            return None;
        }
        let (hashes, _) = self.take(count * 32)?.as_chunks::<32>();
        Some(PrunedMerklePaths {
            sibling_hashes: hashes.to_vec(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::PrimeCharacteristicRing;
    use crate::field::ext_from_fn;

    fn cells(bits: usize) -> Vec<Base> {
        (0..1u32 << bits)
            .map(|i| Base::from_u32(i.wrapping_mul(2_654_435_761) >> 4))
            .collect()
    }

    fn point(bits: usize) -> Vec<Ext> {
        (0..bits as u32)
            .map(|i| ext_from_fn(|d| Base::from_u32(i * 977 + d as u32 * 31 + 5)))
            .collect()
    }

    #[test]
    fn openings_bind_root_point_and_value() {
        let bits = 10;
        let pcs = Pcs::new(bits, Role::Witness, Security::default()).expect("parameters");
        let committed = pcs.commit(cells(bits)).expect("commits");
        let at = point(bits);
        let value = crate::poly::evaluate(&cells(bits), &at);
        let bytes = pcs
            .open(&committed, &at, &mut scratch_challenger())
            .expect("opens");
        assert!(pcs.read_opening(&bytes).is_some(), "reads");
        let check = |root: &[u8; 32], at: &[Ext], value: Ext, bytes: &[u8]| {
            pcs.verify(root, at, value, bytes, &mut scratch_challenger())
        };
        assert!(check(&committed.root, &at, value, &bytes));
        assert!(!check(&[7; 32], &at, value, &bytes), "another root");
        assert!(
            !check(&committed.root, &at, value + Ext::ONE, &bytes),
            "another value"
        );
        let mut other = at.clone();
        other.swap(0, 1);
        assert!(
            !check(&committed.root, &other, value, &bytes),
            "another point"
        );
        assert!(
            !check(&committed.root, &at, value, &bytes[..bytes.len() - 1]),
            "truncated"
        );
        assert!(
            !check(&committed.root, &at, value, &[&bytes[..], &[0]].concat()),
            "longer"
        );
    }
}

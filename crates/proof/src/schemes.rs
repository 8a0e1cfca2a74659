//! The commitment's parameters in integers.
//!
//! Plonky3 derives queries, samples, grinding and errors in floating point. Validators must agree on
//! what they accept, so here all of it is written down: a scheme is used only if what the library
//! derives is what the table says, and errors are taken from the table alone. `schemes/table.rs` is
//! made, and compared with the library's derivation, by a test of this module.

mod table;

use crate::profile::Security;

/// What is committed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// The witness, for each proof: the code is short, which costs the prover least.
    Witness,
    /// The constants of a model, once: the code is twice as long, which makes every opening smaller.
    Model,
}

impl Role {
    /// log₂ of the inverse rate of the code that 2^`variables` cells are committed to with.
    pub(crate) fn log_inverse_rate(self, variables: usize) -> usize {
        match self {
            // Memory counts more than the size of proofs.
            Role::Model if variables < 24 => 2,
            _ => 1,
        }
    }

    /// The same of the code after the first round.
    pub(crate) fn round_rate(self) -> usize {
        match self {
            Role::Witness => 4,
            Role::Model => 3,
        }
    }
}

/// The parameters of a commitment to 2^`variables` cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scheme {
    pub(crate) variables: usize,
    pub(crate) role: Role,
    pub(crate) security: Security,
    /// Samples out of the domain and grinding of the first fold; for each round: queries, grinding,
    /// grinding of the fold, samples, variables, log₂ of the domain, variables folded, log₂ of the
    /// inverse rate; at the end: queries, grinding, grinding of the fold, rounds of the last sumcheck.
    pub(crate) schedule: &'static [u16],
    /// The opening's error, all phases together, in units of 1 ÷ |F|, rounded up.
    pub(crate) error: u64,
    /// How many polynomials a commitment may still be close to, rounded up.
    pub(crate) candidates: u64,
}

/// Numbers of a schedule before its rounds, for each round, and after.
pub(crate) const SCHEDULE: (usize, usize, usize) = (2, 8, 4);

/// The scheme for a size; `None` where there is none of this security.
pub(crate) fn scheme(variables: usize, role: Role, security: Security) -> Option<&'static Scheme> {
    table::SCHEMES
        .iter()
        .find(|s| (s.variables, s.role, s.security) == (variables, role, security))
}

/// Compares all parameters that are written down with those that the library derives on this machine.
///
/// # Errors
/// The first that differ. Such a machine must not take part in a network: it would refuse proofs that
/// others accept.
pub fn check_parameters() -> Result<(), String> {
    table::SCHEMES
        .iter()
        .try_for_each(|scheme| crate::pcs::check_scheme(scheme).map(|_| ()))
}

impl Scheme {
    /// Work of a verifier, in multiplications of field elements, rounded up.
    pub(crate) fn work(&self) -> u64 {
        let (before, each, _) = SCHEDULE;
        let rounds = self.schedule.get(before..).unwrap_or(&[]);
        let (rounds, last) = rounds.split_at(rounds.len() / each * each);
        let variables = self.variables as u64;
        let mut domain = variables + self.role.log_inverse_rate(self.variables) as u64;
        let mut work = 0;
        let phases = rounds.chunks(each).map(|r| (r[0], r[5]));
        let queries = phases.chain(last.first().map(|&q| (q, 0)));
        for (queries, log_domain) in queries {
            domain = if log_domain > 0 {
                u64::from(log_domain)
            } else {
                domain
            };
            // Folding a row, hashing it and its path, and the query's place in the last equation.
            let each = 16 + HASH * (5 + domain) + 2 * variables;
            work += u64::from(queries) * each;
        }
        work + 400 * variables
    }
}

/// Hashing 64 bytes, in multiplications of field elements.
pub(crate) const HASH: u64 = 12;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::soundness::FIELD_BITS;
    use std::fmt::Write;

    /// Sizes from the smallest stack to the largest that the field's roots of unity allow.
    const SIZES: std::ops::RangeInclusive<usize> = 10..=27;

    type Row = (usize, Role, Security, Vec<u16>, u64, u64);

    fn derived() -> Vec<Row> {
        let each = |variables, role, security| {
            let parameters = crate::pcs::derive(variables, role, security).ok()?;
            // Up, with room for the library's own rounding.
            let up = |log2: f64| (log2.exp2() * (1.0 + 1e-6)).ceil() as u64;
            let error = up(FIELD_BITS - parameters.error_bits);
            let candidates = up(parameters.candidates.max(0.0));
            Some((
                variables,
                role,
                security,
                parameters.schedule,
                error,
                candidates,
            ))
        };
        let both = [Security::Bits100, Security::Bits112];
        let roles = [Role::Witness, Role::Model];
        SIZES
            .flat_map(|v| roles.map(|r| both.map(|s| each(v, r, s))))
            .flatten()
            .flatten()
            .collect()
    }

    /// `LEMMA_WRITE_SCHEMES=1 cargo test -p lemma-proof --lib schemes` writes the table.
    #[test]
    fn the_table_is_what_the_library_derives() {
        let derived = derived();
        if std::env::var_os("LEMMA_WRITE_SCHEMES").is_some() {
            let mut text = String::from(
                "//! Made by `LEMMA_WRITE_SCHEMES=1 cargo test -p lemma-proof --lib schemes`.\n\n\
                 use super::Role::{Model, Witness};\nuse super::Scheme;\nuse crate::profile::Security::{Bits100, Bits112};\n\n\
                 pub(super) const SCHEMES: &[Scheme] = &[\n",
            );
            for (variables, role, security, schedule, error, candidates) in &derived {
                writeln!(
                    text,
                    "    Scheme {{ variables: {variables}, role: {role:?}, security: {security:?}, schedule: &{schedule:?}, error: {error}, candidates: {candidates} }},"
                )
                .expect("text");
            }
            text += "];\n";
            let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/schemes/table.rs");
            std::fs::write(path, text).expect("written");
            return;
        }
        let written: Vec<_> = table::SCHEMES
            .iter()
            .map(|s| {
                (
                    s.variables,
                    s.role,
                    s.security,
                    s.schedule.to_vec(),
                    s.error,
                    s.candidates,
                )
            })
            .collect();
        assert_eq!(written, derived);
        assert_eq!(check_parameters(), Ok(()));
    }

    /// The library compares errors with targets in floating point when it verifies; none is so close
    /// that the way of rounding could matter.
    #[test]
    fn no_comparison_of_the_library_is_close() {
        for scheme in table::SCHEMES {
            let spare = crate::pcs::derive(scheme.variables, scheme.role, scheme.security)
                .expect("derives")
                .claims_bits
                - scheme.security.phase_bits() as f64;
            assert!(spare > 0.5, "{scheme:?}: {spare}");
        }
    }
}

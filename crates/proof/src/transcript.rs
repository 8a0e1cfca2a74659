//! The typed transcript.
//!
//! Prover and verifier walk one [`Schedule`], which follows from the statement alone: what is sent
//! when, under which label, and how much of it. Sending and drawing are the only operations; each
//! absorbs its label, each is checked against the schedule, and what is sent is absorbed before
//! anything else is drawn. So no message can be left out of the challenges, and the number of
//! elements in a proof is known before it is read.

use p3_blake3::Blake3;
use p3_challenger::{CanObserve, FieldChallenger, HashChallenger, SerializingChallenger32};
use p3_symmetric::Hash;

use crate::error::{Check, VerifyError, require};
use crate::field::{Base, EXT_BYTES, Ext, from_bytes, to_bytes};

/// The challenger under the transcript; the commitment scheme goes on with it.
pub(crate) type Challenger = SerializingChallenger32<Base, HashChallenger<u8, Blake3, 32>>;

const CONTEXT: &str = "lemma proof v1 transcript";

/// One step of a protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Public bytes that both sides know.
    Bind(&'static str),
    /// The root of a commitment.
    Root(&'static str),
    /// Field elements from the prover.
    Send(&'static str, usize),
    /// Challenges.
    Draw(&'static str, usize),
    /// The opening of a commitment, a protocol of its own.
    Opening(&'static str),
}

/// All steps of a protocol, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Schedule(pub(crate) Vec<Step>);

impl Schedule {
    pub(crate) fn push(&mut self, step: Step) {
        self.0.push(step);
    }

    /// The rounds of a sumcheck.
    pub(crate) fn sumcheck(&mut self, rounds: usize) {
        for _ in 0..rounds {
            self.push(Step::Send("round", 2));
            self.push(Step::Draw("round challenge", 1));
        }
    }

    /// Elements that the prover sends altogether.
    pub(crate) fn elements(&self) -> usize {
        self.0
            .iter()
            .map(|step| if let Step::Send(_, n) = step { *n } else { 0 })
            .sum()
    }

    fn digest(&self) -> [u8; 32] {
        let mut bytes = Vec::new();
        for step in &self.0 {
            let (kind, label, count) = match *step {
                Step::Bind(l) => (0u8, l, 0),
                Step::Root(l) => (1, l, 1),
                Step::Send(l, n) => (2, l, n),
                Step::Draw(l, n) => (3, l, n),
                Step::Opening(l) => (4, l, 0),
            };
            bytes.push(kind);
            bytes.extend((count as u64).to_le_bytes());
            bytes.push(label.len() as u8);
            bytes.extend(label.as_bytes());
        }
        blake3::derive_key(CONTEXT, &bytes)
    }
}

/// The state that both sides share.
struct State {
    challenger: Challenger,
    steps: Vec<Step>,
    at: usize,
    /// Challenges drawn so far, for the tests that compare and replay them.
    #[cfg(test)]
    drawn: Vec<Ext>,
    #[cfg(test)]
    frozen: Option<Vec<Ext>>,
}

impl State {
    fn new(schedule: Schedule) -> State {
        let inner = HashChallenger::new(schedule.digest().to_vec(), Blake3 {});
        State {
            challenger: Challenger::new(inner),
            steps: schedule.0,
            at: 0,
            #[cfg(test)]
            drawn: Vec::new(),
            #[cfg(test)]
            frozen: None,
        }
    }

    /// Whether `step` is the next one; moves on.
    fn expects(&mut self, step: Step) -> bool {
        let expected = self.steps.get(self.at) == Some(&step);
        self.at += 1;
        expected
    }

    /// Absorbs a label with bytes, as the digest of both.
    fn absorb(&mut self, label: &str, bytes: &[u8]) {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&(label.len() as u64).to_le_bytes());
        hasher.update(label.as_bytes());
        hasher.update(bytes);
        let digest = *hasher.finalize().as_bytes();
        self.challenger.observe(Hash::<Base, u8, 32>::from(digest));
    }

    fn absorb_elements(&mut self, label: &str, values: &[Ext]) {
        let mut bytes = Vec::with_capacity(values.len() * EXT_BYTES);
        values.iter().for_each(|v| to_bytes(v, &mut bytes));
        self.absorb(label, &bytes);
    }

    fn draw(&mut self, label: &str, count: usize) -> Vec<Ext> {
        self.absorb(label, &[]);
        let drawn: Vec<Ext> = (0..count)
            .map(|_| self.challenger.sample_algebra_element())
            .collect();
        #[cfg(test)]
        let drawn = {
            let place = self.drawn.len();
            let drawn = match &self.frozen {
                Some(tape) => tape[place..place + count].to_vec(),
                None => drawn,
            };
            self.drawn.extend(&drawn);
            drawn
        };
        drawn
    }
}

/// What a prover may do to its own messages; the honest one does nothing.
pub(crate) trait Hook {
    /// Changes elements before they are sent.
    fn message(&mut self, _label: &'static str, _values: &mut [Ext]) {}

    /// Another witness whose columns the lookups run on.
    fn lookup_witness(&self) -> Option<&crate::witness::Witness> {
        None
    }

    /// Told how far the prover is.
    fn progress(&mut self, _progress: crate::prover::Progress) {}

    /// Other inputs than the statement's to compute with.
    fn inputs(&self) -> Option<&[Vec<i32>]> {
        None
    }

    /// Challenges instead of those of the hash.
    #[cfg(test)]
    fn tape(&self) -> Option<Vec<Ext>> {
        None
    }
}

/// The honest prover.
#[cfg(test)]
pub(crate) struct Honest;

#[cfg(test)]
impl Hook for Honest {}

/// The honest prover, watched.
pub(crate) struct Watched<'a>(pub(crate) &'a (dyn Fn(crate::prover::Progress) + Sync));

impl Hook for Watched<'_> {
    fn progress(&mut self, progress: crate::prover::Progress) {
        (self.0)(progress);
    }
}

/// The prover's side: records what it sends.
pub(crate) struct ProverTranscript<'h> {
    state: State,
    sent: Vec<Ext>,
    hook: &'h mut dyn Hook,
}

impl<'h> ProverTranscript<'h> {
    pub(crate) fn new(schedule: Schedule, hook: &'h mut dyn Hook) -> Self {
        #[cfg_attr(not(test), allow(unused_mut))]
        let mut state = State::new(schedule);
        #[cfg(test)]
        {
            state.frozen = hook.tape();
        }
        ProverTranscript {
            state,
            sent: Vec::new(),
            hook,
        }
    }

    fn step(&mut self, step: Step) {
        let expected = self.state.expects(step);
        assert!(expected, "the prover left the schedule at {step:?}");
    }

    pub(crate) fn bind(&mut self, label: &'static str, bytes: &[u8]) {
        self.step(Step::Bind(label));
        self.state.absorb(label, bytes);
    }

    pub(crate) fn root(&mut self, label: &'static str, root: &[u8; 32]) {
        self.step(Step::Root(label));
        self.state.absorb(label, root);
    }

    /// Tells the hook how far the prover is.
    pub(crate) fn progress(&mut self, progress: crate::prover::Progress) {
        self.hook.progress(progress);
    }

    /// The prover's hook.
    pub(crate) fn hook(&self) -> &dyn Hook {
        self.hook
    }

    /// Sends elements; gives them as they were sent.
    pub(crate) fn send<const N: usize>(
        &mut self,
        label: &'static str,
        mut values: [Ext; N],
    ) -> [Ext; N] {
        self.send_all(label, &mut values);
        values
    }

    pub(crate) fn send_all(&mut self, label: &'static str, values: &mut [Ext]) {
        self.step(Step::Send(label, values.len()));
        self.hook.message(label, values);
        self.state.absorb_elements(label, values);
        self.sent.extend_from_slice(values);
    }

    pub(crate) fn draw(&mut self, label: &'static str) -> Ext {
        self.draw_all(label, 1)[0]
    }

    pub(crate) fn draw_all(&mut self, label: &'static str, count: usize) -> Vec<Ext> {
        self.step(Step::Draw(label, count));
        self.state.draw(label, count)
    }

    /// Runs the opening of a commitment, which goes on with the challenger.
    pub(crate) fn opening<T>(
        &mut self,
        label: &'static str,
        run: impl FnOnce(&mut Challenger) -> T,
    ) -> T {
        self.step(Step::Opening(label));
        self.state.absorb(label, &[]);
        run(&mut self.state.challenger)
    }

    /// The elements sent.
    pub(crate) fn finish(self) -> Vec<Ext> {
        assert_eq!(
            self.state.at,
            self.state.steps.len(),
            "the prover stopped early"
        );
        self.sent
    }
}

/// The verifier's side: reads what was sent.
pub(crate) struct VerifierTranscript<'p> {
    state: State,
    rest: &'p [u8],
}

impl<'p> VerifierTranscript<'p> {
    /// A transcript over the elements of a proof, which `bytes` must hold exactly.
    pub(crate) fn new(schedule: Schedule, bytes: &'p [u8]) -> Result<Self, VerifyError> {
        let expected = schedule.elements() * EXT_BYTES;
        require(Check::Length, bytes.len() == expected)?;
        Ok(VerifierTranscript {
            state: State::new(schedule),
            rest: bytes,
        })
    }

    fn step(&mut self, step: Step) -> Result<(), VerifyError> {
        let expected = self.state.expects(step);
        require(Check::Schedule, expected)
    }

    pub(crate) fn bind(&mut self, label: &'static str, bytes: &[u8]) -> Result<(), VerifyError> {
        self.step(Step::Bind(label))?;
        self.state.absorb(label, bytes);
        Ok(())
    }

    pub(crate) fn root(&mut self, label: &'static str, root: &[u8; 32]) -> Result<(), VerifyError> {
        self.step(Step::Root(label))?;
        self.state.absorb(label, root);
        Ok(())
    }

    pub(crate) fn receive<const N: usize>(
        &mut self,
        label: &'static str,
    ) -> Result<[Ext; N], VerifyError> {
        let values = self.receive_all(label, N)?;
        values
            .try_into()
            .map_err(|_| VerifyError::Rejected(Check::Length))
    }

    pub(crate) fn receive_all(
        &mut self,
        label: &'static str,
        count: usize,
    ) -> Result<Vec<Ext>, VerifyError> {
        self.step(Step::Send(label, count))?;
        let (head, rest) = self
            .rest
            .split_at_checked(count * EXT_BYTES)
            .ok_or(VerifyError::Rejected(Check::Length))?;
        self.rest = rest;
        let (chunks, _) = head.as_chunks::<EXT_BYTES>();
        let values = chunks
            .iter()
            .map(|c| {
                let (value, reduced) = from_bytes(c);
                require(Check::Canonical, reduced).map(|()| value)
            })
            .collect::<Result<Vec<Ext>, _>>()?;
        self.state.absorb_elements(label, &values);
        Ok(values)
    }

    pub(crate) fn draw(&mut self, label: &'static str) -> Result<Ext, VerifyError> {
        Ok(self.draw_all(label, 1)?[0])
    }

    pub(crate) fn draw_all(
        &mut self,
        label: &'static str,
        count: usize,
    ) -> Result<Vec<Ext>, VerifyError> {
        self.step(Step::Draw(label, count))?;
        Ok(self.state.draw(label, count))
    }

    pub(crate) fn opening<T>(
        &mut self,
        label: &'static str,
        run: impl FnOnce(&mut Challenger) -> Result<T, VerifyError>,
    ) -> Result<T, VerifyError> {
        self.step(Step::Opening(label))?;
        self.state.absorb(label, &[]);
        run(&mut self.state.challenger)
    }

    /// Checks that everything was played and read.
    pub(crate) fn finish(self) -> Result<(), VerifyError> {
        require(Check::Schedule, self.state.at == self.state.steps.len())?;
        require(Check::Length, self.rest.is_empty())
    }

    #[cfg(test)]
    pub(crate) fn drawn(&self) -> &[Ext] {
        &self.state.drawn
    }

    /// Lets challenges come from a tape instead of the hash.
    #[cfg(test)]
    pub(crate) fn freeze(&mut self, tape: Vec<Ext>) {
        self.state.frozen = Some(tape);
    }
}

//! The state as a running transaction sees it, and what happens when it needs a value that is not at hand.

use crate::{Missing, State, StateKey, StateValue, modules::history};
use alloy_primitives::{Address, B256, U256};
use revm::{
    Database,
    database_interface::DBErrorMarker,
    state::{AccountInfo, Bytecode},
};
use std::{collections::BTreeSet, sync::mpsc};

/// The most keys that one run discovers before it gives up and reports them.
const MAX_MISSING: usize = 512;

/// Values for keys, as they come from storage.
pub(crate) type Values = Vec<(StateKey, Option<StateValue>)>;

/// A way to ask for values and to wait for them.
pub(crate) struct Port {
    pub(crate) questions: mpsc::Sender<Missing>,
    pub(crate) answers: mpsc::Receiver<Values>,
}

/// A running transaction's view of the state.
///
/// Without a [`Port`], reading what is missing notes the key and goes on with zero, so that one run discovers many
/// keys; its result is worthless. With one, it waits for the value.
pub(crate) struct View {
    pub(crate) state: State,
    missing: Vec<StateKey>,
    port: Option<Port>,
}

/// Ends a run that can not go on: too much is missing, or nobody answers any more.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("state values are missing")]
pub(crate) struct Interrupted;

impl DBErrorMarker for Interrupted {}

impl View {
    pub(crate) fn new(state: State, port: Option<Port>) -> Self {
        Self {
            state,
            missing: Vec::new(),
            port,
        }
    }

    /// Ends the view: gives back the state, and tells what was missing, without duplicates.
    pub(crate) fn close(mut self) -> (State, Result<(), Missing>) {
        let mut seen = BTreeSet::new();
        self.missing.retain(|key| seen.insert(*key));
        let complete = if self.missing.is_empty() {
            Ok(())
        } else {
            Err(Missing(self.missing))
        };
        (self.state, complete)
    }

    fn read<T: Default>(
        &mut self,
        read: impl Fn(&mut State) -> Result<T, Missing>,
    ) -> Result<T, Interrupted> {
        loop {
            let missing = match read(&mut self.state) {
                Ok(value) => return Ok(value),
                Err(missing) => missing,
            };
            let Some(port) = &self.port else {
                self.missing.extend(missing.0);
                let room = self.missing.len() <= MAX_MISSING;
                return room.then(T::default).ok_or(Interrupted);
            };
            port.questions.send(missing).map_err(|_| Interrupted)?;
            for (key, value) in port.answers.recv().map_err(|_| Interrupted)? {
                self.state.supply(key, value);
            }
        }
    }
}

impl Database for View {
    type Error = Interrupted;

    fn basic(&mut self, address: Address) -> Result<Option<AccountInfo>, Interrupted> {
        self.read(|state| state.info(address))
    }

    fn code_by_hash(&mut self, hash: B256) -> Result<Bytecode, Interrupted> {
        self.read(|state| state.bytecode(hash))
    }

    fn storage(&mut self, address: Address, slot: U256) -> Result<U256, Interrupted> {
        self.read(|state| state.storage(address, slot))
    }

    fn block_hash(&mut self, number: u64) -> Result<B256, Interrupted> {
        self.storage(history::ADDRESS, history::recent_slot(number))
            .map(B256::from)
    }
}

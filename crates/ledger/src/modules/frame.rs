//! One call of a module: what it may do, each act paid for in gas.

use super::log::Slots;
use crate::evm::LedgerContext;
use alloy_primitives::{Address, Bytes, Keccak256, Log, U256};
use alloy_sol_types::{Revert, SolError, SolEvent};
use revm::{
    context_interface::{Block, Cfg, ContextTr, JournalTr},
    interpreter::{CallInputs, Gas, InstructionResult, InterpreterResult},
};

/// Gas of a call itself, besides Ethereum's own for calling an address: dispatch and decoding.
const CALL_GAS: u64 = 200;
/// Gas of each 32-byte word of call data: it is copied, checked and hashed.
const INPUT_WORD_GAS: u64 = 12;
/// Gas of deriving a slot or hashing an inner node: Ethereum's for keccak-256 over two or three words.
pub(super) const HASH_GAS: u64 = 48;

// Ethereum's gas schedule (EIP-2929, Yellow Paper appendix G).
const WARM_READ_GAS: u64 = 100;
const COLD_READ_GAS: u64 = 2100;
const LOG_GAS: u64 = 375;
const LOG_TOPIC_GAS: u64 = 375;
const LOG_BYTE_GAS: u64 = 8;

/// Why a call ends early.
#[derive(Debug)]
pub(super) enum Stop {
    /// Everything the call changed is undone; the caller gets this data.
    Revert(Bytes),
    /// The same, and all gas is gone.
    OutOfGas,
    /// The state at hand does not suffice; whatever is returned is discarded.
    Interrupted,
}

impl Stop {
    /// Reverts with one of the interface's errors.
    pub(super) fn error(error: impl SolError) -> Self {
        Self::Revert(error.abi_encode().into())
    }

    /// Reverts with Solidity's `Error(string)`.
    fn message(reason: &str) -> Self {
        Self::error(Revert::from(reason))
    }
}

/// A running call of a module.
pub(super) struct Frame<'a> {
    context: &'a mut LedgerContext,
    module: Address,
    caller: Address,
    read_only: bool,
    gas: Gas,
}

impl<'a> Frame<'a> {
    /// Opens the frame and hands it and the call data to `body`; turns what comes of it into the EVM's terms.
    pub(super) fn run(
        context: &'a mut LedgerContext,
        inputs: &CallInputs,
        body: impl FnOnce(&mut Frame<'a>, &[u8]) -> Result<Vec<u8>, Stop>,
    ) -> InterpreterResult {
        let data = inputs.input.bytes(context);
        let mut frame = Frame {
            context,
            module: inputs.bytecode_address,
            caller: inputs.caller,
            read_only: inputs.is_static,
            gas: Gas::new_with_regular_gas_and_reservoir(inputs.gas_limit, inputs.reservoir),
        };
        let result = frame
            .admit(inputs, &data)
            .and_then(|()| body(&mut frame, &data));
        let mut gas = frame.gas;
        let (result, output) = match result {
            Ok(output) => (InstructionResult::Return, output.into()),
            Err(Stop::Revert(output)) => (InstructionResult::Revert, output),
            Err(Stop::OutOfGas | Stop::Interrupted) => {
                gas.spend_all();
                (InstructionResult::PrecompileOOG, Bytes::new())
            }
        };
        InterpreterResult::new(result, output, gas)
    }

    /// What holds for calls of every method of every module.
    fn admit(&mut self, inputs: &CallInputs, data: &[u8]) -> Result<(), Stop> {
        self.charge(CALL_GAS)?;
        self.charge_words(data.len(), INPUT_WORD_GAS)?;
        if inputs.target_address != self.module {
            // Under DELEGATECALL the caller would be whoever called the caller: an impersonation.
            return Err(Stop::message("system modules can not be delegate-called"));
        }
        if !inputs.call_value().is_zero() {
            return Err(Stop::message("system modules accept no funds"));
        }
        Ok(())
    }

    /// The reason of a call whose data fits no method.
    pub(super) fn no_such_method() -> Stop {
        Stop::message("no such method, or malformed arguments")
    }

    /// To be called first by methods that change something.
    pub(super) fn writable(&self) -> Result<(), Stop> {
        if self.read_only {
            return Err(Stop::message(
                "this method changes state and can not be called statically",
            ));
        }
        Ok(())
    }

    /// Who calls: `msg.sender`.
    pub(super) fn caller(&self) -> Address {
        self.caller
    }

    /// The current block's height.
    pub(super) fn height(&self) -> u64 {
        self.context.block().number().saturating_to()
    }

    /// The EIP-155 id of this network.
    pub(super) fn chain_id(&self) -> u64 {
        self.context.cfg().chain_id()
    }

    pub(super) fn charge(&mut self, gas: u64) -> Result<(), Stop> {
        if self.gas.record_regular_cost(gas) {
            Ok(())
        } else {
            Err(Stop::OutOfGas)
        }
    }

    pub(super) fn charge_words(&mut self, bytes: usize, gas: u64) -> Result<(), Stop> {
        let words = u64::try_from(bytes.div_ceil(32)).unwrap_or(u64::MAX);
        self.charge(words.saturating_mul(gas))
    }

    /// The slot of an entry in one of the module's tables: the first of as many as the entry needs.
    pub(super) fn slot(&mut self, table: &str, key: &[&[u8]]) -> Result<U256, Stop> {
        self.charge(HASH_GAS)?;
        Ok(slot(table, key))
    }

    /// Reads a slot of another module, or of this one.
    pub(super) fn load_from(&mut self, module: Address, slot: U256) -> Result<U256, Stop> {
        let journal = self.context.journal_mut();
        journal
            .load_account(module)
            .map_err(|_| Stop::Interrupted)?;
        let word = journal.sload(module, slot).map_err(|_| Stop::Interrupted)?;
        self.charge(if word.is_cold {
            COLD_READ_GAS
        } else {
            WARM_READ_GAS
        })?;
        Ok(word.data)
    }

    /// Reads a 64-bit number.
    pub(super) fn load_u64(&mut self, slot: U256) -> Result<u64, Stop> {
        Ok(self.load(slot)?.saturating_to())
    }

    /// Reads an address.
    pub(super) fn load_address(&mut self, slot: U256) -> Result<Address, Stop> {
        Ok(to_address(self.load(slot)?))
    }

    /// Reads a string as Solidity lays it out: up to 31 bytes in the slot itself, longer ones from
    /// keccak-256 of the slot on.
    pub(super) fn load_string(&mut self, slot: U256) -> Result<String, Stop> {
        let head = self.load(slot)?;
        let mut bytes = Vec::new();
        let length = string_length(head);
        if head.bit(0) {
            let first = self.long_string_slot(slot)?;
            for chunk in chunk_slots(first, length) {
                bytes.extend_from_slice(&self.load(chunk)?.to_be_bytes::<32>());
            }
        } else {
            bytes.extend_from_slice(&head.to_be_bytes::<32>());
        }
        bytes.truncate(length);
        // Only strings that were valid UTF-8 are stored.
        String::from_utf8(bytes).map_err(|_| Stop::Interrupted)
    }

    /// Writes a string as Solidity lays it out, and clears what a longer one leaves behind.
    pub(super) fn store_string(&mut self, slot: U256, text: &str) -> Result<(), Stop> {
        let old = self.load(slot)?;
        let (was_long, old_length) = (old.bit(0), string_length(old));
        let length = U256::from(text.len()).wrapping_shl(1);
        let is_long = text.len() > 31;
        let new = if is_long {
            length | U256::ONE
        } else {
            left_aligned(text.as_bytes()) | length
        };
        self.store(slot, new)?;
        if !was_long && !is_long {
            return Ok(());
        }
        let first = self.long_string_slot(slot)?;
        let kept = if is_long { text.len() } else { 0 };
        for (chunk, bytes) in chunk_slots(first, kept).zip(text.as_bytes().chunks(32)) {
            self.store(chunk, left_aligned(bytes))?;
        }
        let stale = if was_long { old_length } else { 0 };
        for chunk in chunk_slots(first, stale).skip(kept.div_ceil(32)) {
            self.store(chunk, U256::ZERO)?;
        }
        Ok(())
    }

    fn long_string_slot(&mut self, slot: U256) -> Result<U256, Stop> {
        self.charge(HASH_GAS)?;
        Ok(alloy_primitives::keccak256(slot.to_be_bytes::<32>()).into())
    }

    /// Emits an event.
    pub(super) fn emit(&mut self, event: &impl SolEvent) -> Result<(), Stop> {
        let data = event.encode_log_data();
        let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        let topics = count(data.topics().len()).saturating_mul(LOG_TOPIC_GAS);
        let bytes = count(data.data.len()).saturating_mul(LOG_BYTE_GAS);
        self.charge(LOG_GAS.saturating_add(topics).saturating_add(bytes))?;
        self.context.journal_mut().log(Log {
            address: self.module,
            data,
        });
        Ok(())
    }
}

impl Slots for Frame<'_> {
    type Error = Stop;

    fn load(&mut self, slot: U256) -> Result<U256, Stop> {
        self.load_from(self.module, slot)
    }

    /// Writes a slot of the module, at the price and with the refund of `SSTORE`.
    fn store(&mut self, slot: U256, word: U256) -> Result<(), Stop> {
        let written = self.context.journal_mut().sstore(self.module, slot, word);
        let written = written.map_err(|_| Stop::Interrupted)?;
        let prices = self.context.cfg().gas_params();
        let dynamic = prices.sstore_dynamic_gas(true, &written.data, written.is_cold);
        let refund = prices.sstore_refund(true, &written.data);
        let cost = prices.sstore_static_gas().saturating_add(dynamic);
        self.charge(cost)?;
        self.gas.record_refund(refund);
        Ok(())
    }
}

/// See [`Frame::slot`].
pub(super) fn slot(table: &str, key: &[&[u8]]) -> U256 {
    let mut hasher = Keccak256::new();
    hasher.update(table);
    hasher.update([0]);
    for part in key {
        hasher.update(part);
    }
    hasher.finalize().into()
}

/// The address in a word's low 20 bytes.
pub(super) fn to_address(word: U256) -> Address {
    Address::from_slice(&word.to_be_bytes::<32>()[12..])
}

fn string_length(head: U256) -> usize {
    let length = if head.bit(0) {
        head.wrapping_shr(1)
    } else {
        (head & U256::from(0xff)).wrapping_shr(1)
    };
    // The bound only matters for words that no string ever had.
    length.saturating_to::<usize>().min(1 << 16)
}

fn chunk_slots(first: U256, length: usize) -> impl Iterator<Item = U256> {
    (0..length.div_ceil(32)).map(move |chunk| first.wrapping_add(U256::from(chunk)))
}

fn left_aligned(bytes: &[u8]) -> U256 {
    let mut word = [0; 32];
    for (to, from) in word.iter_mut().zip(bytes) {
        *to = *from;
    }
    U256::from_be_bytes(word)
}

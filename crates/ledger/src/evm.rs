//! The EVM set up for this ledger: rules, block environment, system modules, and how a transaction's run is
//! interrupted and resumed.

use crate::{
    BlockContext, Genesis, Missing, SPEC, State, StateKey, StateValue,
    modules::Modules,
    view::{Interrupted, Port, Values, View},
};
use alloy_primitives::{Address, U256};
use revm::{
    Context, ExecuteEvm, MainContext,
    context::{BlockEnv, CfgEnv, Evm, FrameStack, Journal, TxEnv},
    context_interface::result::{EVMError, ResultAndState},
    handler::{EthFrame, instructions::EthInstructions},
    interpreter::interpreter::EthInterpreter,
};
use std::{sync::mpsc, thread};

pub(crate) type LedgerContext = Context<BlockEnv, TxEnv, CfgEnv, View, Journal<View>, ()>;

type LedgerEvm = Evm<
    LedgerContext,
    (),
    EthInstructions<EthInterpreter, LedgerContext>,
    Modules,
    EthFrame<EthInterpreter>,
>;

pub(crate) type TransactionOutcome = Result<ResultAndState, EVMError<Interrupted>>;

/// How often a transaction is run from its beginning before it is run as a coroutine.
///
/// Running again is cheap and discovers many keys at once; contracts usually need three runs: for the first chunk
/// of the code, for the rest of it, for the slots. But who reads a thousand slots, each found in the one before, would
/// make everybody run a thousand times.
const RESTARTS: u32 = 8;

/// The EVM between transactions: its rules, its block and its state.
///
/// revm's own EVM can not move between threads, but a block's execution does while it waits for storage. So one is
/// built for each transaction, which takes a few microseconds, and gives the state back.
pub(crate) struct Machine {
    pub(crate) cfg: CfgEnv,
    pub(crate) block: BlockEnv,
    state: State,
    /// The transaction that last missed something, and how often it did.
    retried: Option<(TxEnv, u32)>,
    suspended: Option<Suspended>,
}

/// A transaction in the middle of its run, waiting for values on a thread of its own.
///
/// The thread runs only while [`Machine::transact`] waits for it, so this is a coroutine and no concurrency: nothing
/// depends on timing.
struct Suspended {
    transaction: TxEnv,
    questions: mpsc::Receiver<Missing>,
    answers: mpsc::Sender<Values>,
    /// The question that waits for an answer.
    asked: Option<Missing>,
    supplied: Values,
    thread: thread::JoinHandle<(State, TransactionOutcome)>,
}

impl Machine {
    /// For transactions of one block, over an empty view of the state.
    pub(crate) fn new(genesis: &Genesis, block: &BlockContext) -> Self {
        Self {
            cfg: rules(genesis),
            block: block_environment(block),
            state: State::new(),
            retried: None,
            suspended: None,
        }
    }

    /// The state, without what an interrupted transaction has done.
    pub(crate) fn state(&mut self) -> &mut State {
        if let Some(suspended) = self.suspended.take() {
            self.state = suspended.abandon();
        }
        &mut self.state
    }

    /// Makes a value known, to an interrupted transaction too.
    pub(crate) fn supply(&mut self, key: StateKey, value: Option<StateValue>) {
        match &mut self.suspended {
            Some(suspended) => suspended.supplied.push((key, value)),
            None => self.state.supply(key, value),
        }
    }

    /// Executes a transaction without committing to what it did, or goes on with it.
    pub(crate) fn transact(&mut self, transaction: &TxEnv) -> Result<TransactionOutcome, Missing> {
        if let Some(suspended) = self
            .suspended
            .take_if(|suspended| suspended.transaction == *transaction)
        {
            return self.resume(suspended);
        }
        let restarts = match &self.retried {
            Some((retried, count)) if retried == transaction => *count,
            _ => 0,
        };
        let state = std::mem::take(self.state());
        if restarts < RESTARTS {
            let (state, outcome, complete) = self.run(state, transaction.clone());
            self.state = state;
            self.retried = complete
                .is_err()
                .then(|| (transaction.clone(), restarts.saturating_add(1)));
            complete.map(|()| outcome)
        } else {
            let suspended = self.suspend(state, transaction.clone());
            self.resume(suspended)
        }
    }

    /// Runs a transaction from its beginning to its end.
    fn run(
        &self,
        state: State,
        transaction: TxEnv,
    ) -> (State, TransactionOutcome, Result<(), Missing>) {
        let view = View::new(state, None);
        let (view, outcome) = execute(self.cfg.clone(), self.block.clone(), view, transaction);
        let (state, complete) = view.close();
        (state, outcome, complete)
    }

    /// Starts a transaction as a coroutine.
    fn suspend(&self, state: State, transaction: TxEnv) -> Suspended {
        let (ask, questions) = mpsc::channel();
        let (answers, receive) = mpsc::channel();
        let port = Port {
            questions: ask,
            answers: receive,
        };
        let (cfg, block, tx) = (self.cfg.clone(), self.block.clone(), transaction.clone());
        let thread = thread::spawn(move || {
            let (view, outcome) = execute(cfg, block, View::new(state, Some(port)), tx);
            (view.close().0, outcome)
        });
        Suspended {
            transaction,
            questions,
            answers,
            asked: None,
            supplied: Vec::new(),
            thread,
        }
    }

    /// Goes on with a coroutine until it asks or ends.
    fn resume(&mut self, mut suspended: Suspended) -> Result<TransactionOutcome, Missing> {
        if let Some(missing) = suspended.asked.take() {
            if suspended.supplied.is_empty() {
                suspended.asked = Some(missing.clone());
                self.suspended = Some(suspended);
                return Err(missing);
            }
            let supplied = std::mem::take(&mut suspended.supplied);
            // Who has asked waits; should it have panicked, joining it below passes that on.
            let _ = suspended.answers.send(supplied);
        }
        match suspended.questions.recv() {
            Ok(missing) => {
                suspended.asked = Some(missing.clone());
                self.suspended = Some(suspended);
                Err(missing)
            }
            Err(mpsc::RecvError) => {
                let (state, outcome) = suspended.join();
                self.state = state;
                self.retried = None;
                Ok(outcome)
            }
        }
    }
}

impl Suspended {
    /// Ends the coroutine at its question, without an answer.
    fn abandon(self) -> State {
        let Self {
            answers,
            supplied,
            thread,
            ..
        } = self;
        drop(answers);
        let (mut state, _) = join(thread);
        for (key, value) in supplied {
            state.supply(key, value);
        }
        state
    }

    fn join(self) -> (State, TransactionOutcome) {
        join(self.thread)
    }
}

fn join<T>(thread: thread::JoinHandle<T>) -> T {
    thread
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Runs a transaction in an EVM built for it.
fn execute(
    cfg: CfgEnv,
    block: BlockEnv,
    view: View,
    transaction: TxEnv,
) -> (View, TransactionOutcome) {
    let mut evm = LedgerEvm {
        ctx: Context::mainnet()
            .with_db(view)
            .with_cfg(cfg)
            .with_block(block),
        inspector: (),
        instruction: EthInstructions::new_mainnet_with_spec(SPEC),
        precompiles: Modules::new(),
        // Most transactions need one frame; each holds a stack of 32 KiB.
        frame_stack: FrameStack::new_prealloc(1),
    };
    let outcome = evm.transact(transaction);
    (evm.ctx.journaled_state.database, outcome)
}

/// The rules of a network.
pub(crate) fn rules(genesis: &Genesis) -> CfgEnv {
    let mut cfg = CfgEnv::new_with_spec(SPEC);
    cfg.chain_id = genesis.chain_id;
    cfg
}

pub(crate) fn block_environment(block: &BlockContext) -> BlockEnv {
    BlockEnv {
        number: U256::from(block.number),
        beneficiary: block.beneficiary,
        timestamp: U256::from(block.timestamp),
        gas_limit: block.gas_limit,
        basefee: block.base_fee,
        difficulty: U256::ZERO,
        prevrandao: Some(block.randomness),
        ..BlockEnv::default()
    }
}

/// An address that belongs to nobody: the sender of calls that name none.
pub(crate) const NOBODY: Address = Address::ZERO;

#[cfg(test)]
mod tests {
    #[test]
    fn executions_can_wait_for_storage_on_any_thread() {
        fn assert_send<T: Send>() {}
        assert_send::<crate::Execution>();
        assert_send::<crate::Call>();
    }
}

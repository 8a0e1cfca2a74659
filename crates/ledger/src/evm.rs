//! The EVM set up for this ledger: rules, block environment, system modules.

use crate::{BlockContext, Genesis, SPEC, State, modules::Modules, state::Exhausted};
use alloy_primitives::{Address, U256};
use revm::{
    Context, ExecuteEvm, MainContext,
    context::{BlockEnv, CfgEnv, Evm, FrameStack, Journal, TxEnv},
    context_interface::result::{EVMError, ResultAndState},
    handler::{EthFrame, instructions::EthInstructions},
    interpreter::interpreter::EthInterpreter,
};

pub(crate) type LedgerContext = Context<BlockEnv, TxEnv, CfgEnv, State, Journal<State>, ()>;

type LedgerEvm = Evm<
    LedgerContext,
    (),
    EthInstructions<EthInterpreter, LedgerContext>,
    Modules,
    EthFrame<EthInterpreter>,
>;

type TransactionOutcome = Result<ResultAndState, EVMError<Exhausted>>;

/// The EVM between transactions: its rules, its block and its state.
///
/// revm's own EVM can not move between threads, but a block's execution does while it waits for storage. So one is
/// built for each transaction, which takes a few microseconds, and gives the state back.
pub(crate) struct Machine {
    pub(crate) cfg: CfgEnv,
    pub(crate) block: BlockEnv,
    pub(crate) state: State,
}

impl Machine {
    /// For transactions of one block, over an empty view of the state.
    pub(crate) fn new(genesis: &Genesis, block: &BlockContext) -> Self {
        let mut cfg = CfgEnv::new_with_spec(SPEC);
        cfg.chain_id = genesis.chain_id;
        Self {
            cfg,
            block: block_environment(block),
            state: State::new(),
        }
    }

    /// Executes a transaction without committing to what it did.
    pub(crate) fn transact(&mut self, transaction: TxEnv) -> TransactionOutcome {
        let context = Context::mainnet()
            .with_db(std::mem::take(&mut self.state))
            .with_cfg(self.cfg.clone())
            .with_block(self.block.clone());
        let instructions = EthInstructions::new_mainnet_with_spec(SPEC);
        let mut evm = LedgerEvm {
            ctx: context,
            inspector: (),
            instruction: instructions,
            precompiles: Modules::new(),
            // Most transactions need one frame; each holds a stack of 32 KiB.
            frame_stack: FrameStack::new_prealloc(1),
        };
        let outcome = evm.transact(transaction);
        self.state = evm.ctx.journaled_state.database;
        outcome
    }
}

fn block_environment(block: &BlockContext) -> BlockEnv {
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

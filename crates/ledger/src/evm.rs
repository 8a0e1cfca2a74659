//! The EVM set up for this ledger: rules, block environment, system modules.

use crate::{BlockContext, Genesis, SPEC, State, modules::Modules};
use alloy_primitives::{Address, U256};
use revm::{
    Context, MainContext,
    context::{BlockEnv, CfgEnv, Evm, Journal, TxEnv},
    handler::{EthFrame, instructions::EthInstructions},
    interpreter::interpreter::EthInterpreter,
};

pub(crate) type LedgerContext = Context<BlockEnv, TxEnv, CfgEnv, State, Journal<State>, ()>;

pub(crate) type LedgerEvm = Evm<
    LedgerContext,
    (),
    EthInstructions<EthInterpreter, LedgerContext>,
    Modules,
    EthFrame<EthInterpreter>,
>;

/// An EVM for transactions of one block, over an empty view of the state.
pub(crate) fn build(genesis: &Genesis, block: &BlockContext) -> LedgerEvm {
    let mut cfg = CfgEnv::new_with_spec(SPEC);
    cfg.chain_id = genesis.chain_id;
    let context = Context::mainnet()
        .with_db(State::new())
        .with_cfg(cfg)
        .with_block(block_environment(block));
    Evm::new(
        context,
        EthInstructions::new_mainnet_with_spec(SPEC),
        Modules::new(SPEC),
    )
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

/// The state under an EVM.
pub(crate) fn state(evm: &LedgerEvm) -> &State {
    &evm.ctx.journaled_state.database
}

/// The state under an EVM.
pub(crate) fn state_mut(evm: &mut LedgerEvm) -> &mut State {
    &mut evm.ctx.journaled_state.database
}

/// An address that belongs to nobody: the sender of calls that name none.
pub(crate) const NOBODY: Address = Address::ZERO;

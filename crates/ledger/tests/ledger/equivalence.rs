//! Random contract and module calls: however the state is fetched, the outcome is the same, and no wei appears
//! or vanishes. (`Chain::block` executes each block in every way and compares.)

use crate::support::*;
use alloy_primitives::{Address, Bytes, U256};
use alloy_sol_types::{SolCall, SolInterface};
use lemma_ledger::{
    Applied, Transaction,
    modules::{
        self, HISTORY, MODELS, NODES, RECEIPTS,
        abi::{ILemmaHistory, ILemmaModels, ILemmaNodes, ILemmaReceipts},
    },
};
use proptest::prelude::*;

/// What a contract is made to do.
#[derive(Debug, Clone)]
enum Deed {
    Write {
        from: u64,
        n: u64,
        value: u64,
    },
    Read {
        from: u64,
        n: u64,
    },
    Pay {
        to: u64,
        wei: u64,
    },
    Module {
        module: usize,
        way: u8,
        data: Vec<u8>,
    },
    CreateAndDestroy {
        wei: u64,
    },
    Destroy {
        wei: u64,
    },
    OutOfGas,
}

/// Call data for a module: a method's selector and whatever.
fn module_data() -> impl Strategy<Value = (usize, Vec<u8>)> {
    let arguments = proptest::collection::vec(
        prop_oneof![Just(0u8), Just(1), Just(0x20), Just(0x40), any::<u8>()],
        0..200,
    );
    (0..4usize, 0..16usize, arguments).prop_map(|(module, method, arguments)| {
        let selector = match module {
            0 => pick::<ILemmaModels::ILemmaModelsCalls>(method),
            1 => pick::<ILemmaNodes::ILemmaNodesCalls>(method),
            2 => pick::<ILemmaReceipts::ILemmaReceiptsCalls>(method),
            _ => pick::<ILemmaHistory::ILemmaHistoryCalls>(method),
        };
        (module, [selector.as_slice(), &arguments].concat())
    })
}

fn pick<I: SolInterface>(method: usize) -> [u8; 4] {
    I::selector_at(method % I::COUNT).unwrap()
}

/// Calls that succeed, for most random bytes do not.
fn well_formed() -> impl Strategy<Value = (usize, Vec<u8>)> {
    prop_oneof![
        ("[ab]/[xy]", any::<u8>()).prop_map(|(name, manifest)| {
            let manifest = alloy_primitives::B256::repeat_byte(manifest);
            (
                0,
                ILemmaModels::registerCall { name, manifest }.abi_encode(),
            )
        }),
        ("http://[a-z]{1,60}", any::<u8>()).prop_map(|(endpoint, payee)| {
            let payee = Address::repeat_byte(payee);
            (
                1,
                ILemmaNodes::registerCall { endpoint, payee }.abi_encode(),
            )
        }),
        any::<(u8, u64)>().prop_map(|(root, units)| {
            let root = alloy_primitives::B256::repeat_byte(root);
            let (count, fees) = (3, U256::from(5));
            let call = ILemmaReceipts::settleCall {
                root,
                count,
                computeUnits: units,
                fees,
            };
            (2, call.abi_encode())
        }),
    ]
}

fn deed() -> impl Strategy<Value = Deed> {
    let module = prop_oneof![module_data(), well_formed()];
    prop_oneof![
        (0u64..6, 0u64..6, 0u64..3).prop_map(|(from, n, value)| Deed::Write { from, n, value }),
        (0u64..9, 0u64..9).prop_map(|(from, n)| Deed::Read { from, n }),
        (0u64..12, 0u64..3).prop_map(|(to, wei)| Deed::Pay { to, wei }),
        (module, 0u8..5).prop_map(|((module, data), way)| Deed::Module { module, way, data }),
        (0u64..3).prop_map(|wei| Deed::CreateAndDestroy { wei }),
        (0u64..3).prop_map(|wei| Deed::Destroy { wei }),
        Just(Deed::OutOfGas),
    ]
}

fn heir() -> Address {
    Address::repeat_byte(0x55)
}

fn transaction(contract: Address, sender: u64, nonce: u64, deed: &Deed) -> Transaction {
    let to_contract = |call: Vec<u8>, wei: u64| (contract, call, U256::from(wei));
    let (to, input, value) = match deed {
        Deed::Write { from, n, value } => {
            let (from, n, value) = (U256::from(*from), U256::from(*n), U256::from(*value));
            to_contract(Caller::writeManyCall { from, n, value }.abi_encode(), 0)
        }
        Deed::Read { from, n } => {
            let (from, n) = (U256::from(*from), U256::from(*n));
            to_contract(Caller::readManyCall { from, n }.abi_encode(), 0)
        }
        Deed::Pay { to, wei } => {
            let call = Caller::forwardCall {
                to: user(*to).address,
                data: Bytes::new(),
            };
            to_contract(call.abi_encode(), *wei)
        }
        Deed::Module { module, way, data } => {
            let (to, data) = (modules::ADDRESSES[*module], Bytes::from(data.clone()));
            match way {
                0 => (to, data.to_vec(), U256::ZERO),
                1 => to_contract(Caller::forwardCall { to, data }.abi_encode(), 0),
                2 => to_contract(Caller::attemptAndUndoCall { to, data }.abi_encode(), 0),
                3 => to_contract(Caller::forwardDelegateCall { to, data }.abi_encode(), 0),
                _ => to_contract(Caller::forwardCall { to, data }.abi_encode(), 1),
            }
        }
        Deed::CreateAndDestroy { wei } => to_contract(
            Caller::createAndDestroyCall { to: heir() }.abi_encode(),
            *wei,
        ),
        Deed::Destroy { wei } => to_contract(Caller::destroyCall { to: heir() }.abi_encode(), *wei),
        Deed::OutOfGas => to_contract(Caller::burnCall {}.abi_encode(), 0),
    };
    let draft = Draft::new(nonce)
        .to(to)
        .input(input)
        .value(value)
        .gas(700_000);
    draft.sign(&user(sender))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn the_way_of_fetching_does_not_matter(
        blocks in proptest::collection::vec(
            proptest::collection::vec((0u64..3, deed()), 0..8), 1..5)
    ) {
        let mut chain = Chain::started();
        let contract = chain.deploy(&user(3), CALLER);
        let mut holders: Vec<_> = (0..12).map(|n| user(n).address).collect();
        holders.extend([contract, heir(), chain.beneficiary, MODELS, NODES, RECEIPTS, HISTORY]);
        for block in &blocks {
            let mut nonces: Vec<_> =
                (0..3).map(|n| chain.account(user(n).address).nonce).collect();
            let mut transactions = Vec::new();
            for (sender, deed) in block {
                let nonce = &mut nonces[*sender as usize];
                transactions.push(transaction(contract, *sender, *nonce, deed));
                *nonce += 1;
            }
            let total = |chain: &Chain| -> U256 {
                holders.iter().map(|holder| chain.balance(*holder)).sum()
            };
            let before = total(&chain);
            let base_fee = U256::from(chain.base_fee);
            let result = chain.block(&transactions);
            let included = |result: &Applied| matches!(result, Applied::Included { .. });
            prop_assert!(result.results.iter().all(included));
            let burned = base_fee * U256::from(result.outcome.gas_used);
            prop_assert_eq!(total(&chain) + burned, before);
        }
    }
}

//! The ledger against a model of it in plain maps, over random transactions.

use crate::support::*;
use alloy_primitives::{Address, B256, U256};
use alloy_sol_types::SolCall;
use lemma_ledger::{
    Applied, Transaction,
    modules::{
        MODELS, NODES, RECEIPTS,
        abi::{ILemmaModels, ILemmaNodes, ILemmaReceipts},
    },
};
use lemma_types::{Amount, merkle, settlement::BatchRecord};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const USERS: u64 = 4;

/// What a user may try. Nonces and amounts are sometimes wrong on purpose.
#[derive(Debug, Clone)]
enum Action {
    Transfer { to: u64, ether: u64 },
    BadNonce { ahead: u64 },
    RegisterModel { name: usize, manifest: u8 },
    RegisterNode,
    UpdateNode { endpoint: usize },
    DeregisterNode,
    Settle { root: u8, count: u64 },
}

const NAMES: [&str; 5] = [
    "a/x",
    "a/y:1",
    "b/x",
    "b/a-rather-long-name-for-a-small-model",
    "Bad",
];
const ENDPOINTS: [&str; 3] = [
    "http://h:1",
    "https://a.rather.long.host.name.example.org/with/a/path",
    "nonsense",
];

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        (0..USERS + 2, 0u64..400).prop_map(|(to, ether)| Action::Transfer { to, ether }),
        (1u64..3).prop_map(|ahead| Action::BadNonce { ahead }),
        (0..NAMES.len(), 0u8..3)
            .prop_map(|(name, manifest)| Action::RegisterModel { name, manifest }),
        Just(Action::RegisterNode),
        (0..ENDPOINTS.len()).prop_map(|endpoint| Action::UpdateNode { endpoint }),
        Just(Action::DeregisterNode),
        (0u8..4, 0u64..3).prop_map(|(root, count)| Action::Settle { root, count }),
    ]
}

/// The ledger, as simple as it can be said.
#[derive(Default)]
struct Model {
    balances: BTreeMap<Address, U256>,
    nonces: BTreeMap<Address, u64>,
    burned: U256,
    owners: BTreeMap<String, Address>,
    versions: BTreeMap<String, Vec<B256>>,
    names: Vec<String>,
    nodes: BTreeMap<Address, (String, bool)>,
    settled: BTreeSet<(Address, B256)>,
    batches: Vec<BatchRecord>,
}

impl Model {
    /// Applies a transaction's action; whether it succeeds.
    fn act(&mut self, sender: Address, action: &Action, height: u64) -> bool {
        match action {
            Action::Transfer { to, ether } => {
                let value = U256::from(*ether) * U256::from(ETHER);
                *self.balances.get_mut(&sender).unwrap() -= value;
                *self.balances.entry(user(*to).address).or_default() += value;
                true
            }
            Action::BadNonce { .. } => unreachable!("never included"),
            Action::RegisterModel { name, manifest } => {
                self.register_model(sender, NAMES[*name], B256::repeat_byte(*manifest))
            }
            Action::RegisterNode => {
                let active = self.nodes.get(&sender).is_some_and(|(_, active)| *active);
                if !active {
                    self.nodes.insert(sender, (ENDPOINTS[0].into(), true));
                }
                !active
            }
            Action::UpdateNode { endpoint } => match self.nodes.get_mut(&sender) {
                Some((current, true)) if *endpoint < 2 => {
                    *current = ENDPOINTS[*endpoint].into();
                    true
                }
                _ => false,
            },
            Action::DeregisterNode => match self.nodes.get_mut(&sender) {
                Some((_, active)) if *active => {
                    *active = false;
                    true
                }
                _ => false,
            },
            Action::Settle { root, count } => self.settle(sender, *root, *count, height),
        }
    }

    fn register_model(&mut self, sender: Address, name: &str, manifest: B256) -> bool {
        let Some((namespace, _)) = name.split_once('/') else {
            return false;
        };
        let owner = self.owners.get(namespace).copied().unwrap_or(sender);
        let newest = self.versions.get(name).and_then(|versions| versions.last());
        if manifest.is_zero() || owner != sender || newest == Some(&manifest) {
            return false;
        }
        self.owners.insert(namespace.into(), sender);
        let versions = self.versions.entry(name.into()).or_default();
        if versions.is_empty() {
            self.names.push(name.into());
        }
        versions.push(manifest);
        true
    }

    fn settle(&mut self, worker: Address, root: u8, count: u64, height: u64) -> bool {
        let root = B256::repeat_byte(root);
        let active = self.nodes.get(&worker).is_some_and(|(_, active)| *active);
        if !active || count == 0 || root.is_zero() || !self.settled.insert((worker, root)) {
            return false;
        }
        self.batches.push(BatchRecord {
            index: self.batches.len() as u64,
            worker,
            root,
            count,
            compute_units: 10,
            fees: Amount::from_units(20),
            height,
        });
        true
    }

    /// What a transaction pays for gas, whether it succeeds or not.
    fn pay(&mut self, sender: Address, beneficiary: Address, gas: u64, price: u128, base_fee: u64) {
        let fee = U256::from(price) * U256::from(gas);
        let burned = U256::from(base_fee) * U256::from(gas);
        *self.balances.get_mut(&sender).unwrap() -= fee;
        *self.balances.entry(beneficiary).or_default() += fee - burned;
        self.burned += burned;
        *self.nonces.entry(sender).or_default() += 1;
    }
}

fn transaction(sender: &User, nonce: u64, action: &Action) -> Transaction {
    let draft = Draft::new(nonce).gas(500_000);
    let draft = match action {
        Action::Transfer { to, ether } => draft
            .to(user(*to).address)
            .value(U256::from(*ether) * U256::from(ETHER)),
        Action::BadNonce { ahead } => Draft::new(nonce + ahead),
        Action::RegisterModel { name, manifest } => draft.to(MODELS).input(
            ILemmaModels::registerCall {
                name: NAMES[*name].into(),
                manifest: B256::repeat_byte(*manifest),
            }
            .abi_encode(),
        ),
        Action::RegisterNode => draft.to(NODES).input(
            ILemmaNodes::registerCall {
                endpoint: ENDPOINTS[0].into(),
                payee: sender.address,
            }
            .abi_encode(),
        ),
        Action::UpdateNode { endpoint } => draft.to(NODES).input(
            ILemmaNodes::updateCall {
                endpoint: ENDPOINTS[*endpoint].into(),
                payee: sender.address,
            }
            .abi_encode(),
        ),
        Action::DeregisterNode => draft
            .to(NODES)
            .input(ILemmaNodes::deregisterCall {}.abi_encode()),
        Action::Settle { root, count } => draft.to(RECEIPTS).input(
            ILemmaReceipts::settleCall {
                root: B256::repeat_byte(*root),
                count: *count,
                computeUnits: 10,
                fees: U256::from(20),
            }
            .abi_encode(),
        ),
    };
    draft.sign(sender)
}

/// Executes the blocks on both and compares everything that can be read.
fn compare(blocks: &[Vec<(u64, Action)>]) {
    let mut chain = Chain::started();
    let supply = chain.genesis.supply().unwrap();
    let mut model = Model {
        balances: chain.genesis.alloc.clone(),
        ..Model::default()
    };
    for block in blocks {
        let (height, base_fee) = (chain.context().number, chain.base_fee);
        let mut expected = model.nonces.clone();
        let mut transactions = Vec::new();
        for (sender, action) in block {
            let sender = user(*sender);
            let nonce = expected.entry(sender.address).or_default();
            transactions.push(transaction(&sender, *nonce, action));
            *nonce += u64::from(!matches!(action, Action::BadNonce { .. }));
        }
        let result = chain.block(&transactions);
        for (((_, action), tx), result) in block.iter().zip(&transactions).zip(&result.results) {
            match result {
                Applied::Rejected(_) => {
                    // Only for a nonce out of order, or funds: then the model says so too.
                    let nonce = model.nonces.get(&tx.sender()).copied().unwrap_or_default();
                    assert!(tx.nonce() != nonce || tx.max_cost() > model.balances[&tx.sender()]);
                }
                Applied::Included { receipt } => {
                    assert_eq!(
                        model.act(tx.sender(), action, height),
                        receipt.success,
                        "{action:?}"
                    );
                    let (gas, price) = (receipt.gas_used, receipt.effective_gas_price);
                    model.pay(tx.sender(), chain.beneficiary, gas, price, base_fee);
                }
            }
        }
        assert_same(&chain, &model);
        assert_eq!(model.balances.values().sum::<U256>() + model.burned, supply);
    }
}

fn assert_same(chain: &Chain, model: &Model) {
    for (address, balance) in &model.balances {
        assert_eq!(chain.balance(*address), *balance);
    }
    for (address, nonce) in &model.nonces {
        assert_eq!(chain.account(*address).nonce, *nonce);
    }
    assert_eq!(
        chain.view(MODELS, ILemmaModels::countCall {}),
        model.names.len() as u64
    );
    for (index, name) in (0..).zip(&model.names) {
        assert_eq!(
            chain.view(MODELS, ILemmaModels::nameAtCall { index }),
            *name
        );
        let found = chain.view(MODELS, ILemmaModels::resolveCall { name: name.clone() });
        let versions = &model.versions[name];
        assert_eq!(found.version, versions.len() as u64);
        assert_eq!(Some(&found.manifest), versions.last());
        assert_eq!(found.owner, model.owners[name.split_once('/').unwrap().0]);
    }
    for (node, (endpoint, active)) in &model.nodes {
        let found = chain.view(NODES, ILemmaNodes::nodeOfCall { node: *node });
        assert_eq!((&found.endpoint, found.active), (endpoint, *active));
    }
    let leaves: Vec<_> = model.batches.iter().map(BatchRecord::leaf).collect();
    let log = chain.view(RECEIPTS, ILemmaReceipts::logCall {});
    assert_eq!(
        (log.size, log.root),
        (leaves.len() as u64, merkle::root(&leaves))
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn ledger_and_model_agree(
        blocks in proptest::collection::vec(
            proptest::collection::vec((0..USERS, action()), 0..10), 1..6)
    ) {
        compare(&blocks);
    }
}

//! A chain of blocks over a plain map, which executes every block in several ways and insists that they agree.

use alloy_consensus::{SignableTransaction, TxEip1559, TxEip2930, TxEip7702, TxEnvelope, TxLegacy};
use alloy_eips::{eip2718::Encodable2718, eip2930::AccessList, eip7702::Authorization};
use alloy_primitives::{Address, B256, Bytes, TxKind, U256, hex, keccak256};
use alloy_sol_types::SolCall;
use lemma_ledger::{
    Account, Applied, BlockContext, Call, CallRequest, CallResult, Execution, Genesis,
    InvalidTransaction, Missing, Outcome, Receipt, State, StateKey, StateValue, Transaction,
    next_base_fee,
};
use lemma_types::keys::SecretKey;
use std::{collections::BTreeMap, sync::Arc};

pub const CHAIN_ID: u64 = 8402;
pub const ETHER: u128 = 1_000_000_000_000_000_000;

/// A user with a key, by number.
#[derive(Clone)]
pub struct User {
    pub key: SecretKey,
    pub address: Address,
}

pub fn user(number: u64) -> User {
    let key = SecretKey::from_bytes(&keccak256(number.to_be_bytes()).0).unwrap();
    let address = key.address();
    User { key, address }
}

/// Users 0 to 7 have 1000 ether each.
pub fn genesis() -> Genesis {
    let alloc = (0..8)
        .map(|n| (user(n).address, U256::from(1000 * ETHER)))
        .collect();
    Genesis::development(CHAIN_ID, 1_700_000_000, alloc)
}

/// How values get to an execution.
#[derive(Clone, Copy, Debug)]
pub enum Fetch {
    /// What `prefetch` names, then what is missing.
    Prefetched,
    /// Nothing but what is missing.
    OnDemand,
    /// One key at a time of what is missing.
    OneByOne,
    /// All of the state, before anything.
    Everything,
}

pub type Map = BTreeMap<StateKey, StateValue>;

pub struct Chain {
    pub genesis: Arc<Genesis>,
    pub state: Map,
    /// Hash of each block so far; the next block has this height.
    pub hashes: Vec<B256>,
    pub base_fee: u64,
    pub beneficiary: Address,
}

/// A block's transactions, each with what came of it.
pub struct Block {
    pub outcome: Outcome,
    pub results: Vec<Applied>,
}

impl Chain {
    pub fn new() -> Self {
        Self::from_genesis(genesis())
    }

    pub fn from_genesis(genesis: Genesis) -> Self {
        genesis.validate().unwrap();
        let base_fee = genesis.base_fee;
        Self {
            genesis: Arc::new(genesis),
            state: Map::new(),
            hashes: vec![keccak256("genesis")],
            base_fee,
            beneficiary: Address::repeat_byte(0xbe),
        }
    }

    /// A chain whose first block is past.
    pub fn started() -> Self {
        let mut chain = Self::new();
        chain.block(&[]);
        chain
    }

    pub fn context(&self) -> BlockContext {
        let number = self.hashes.len() as u64;
        BlockContext {
            number,
            timestamp: self.genesis.timestamp + 2 * number,
            parent_hash: *self.hashes.last().unwrap(),
            beneficiary: self.beneficiary,
            randomness: keccak256(number.to_be_bytes()),
            gas_limit: self.genesis.gas_limit,
            base_fee: self.base_fee,
        }
    }

    /// Executes a block in all ways, insists that they agree, and adopts the outcome.
    pub fn block(&mut self, transactions: &[Transaction]) -> Block {
        let block = self.execute(transactions, Fetch::Prefetched);
        for fetch in [Fetch::OnDemand, Fetch::OneByOne, Fetch::Everything] {
            let other = self.execute(transactions, fetch);
            assert_eq!(block.outcome, other.outcome, "{fetch:?}");
            assert_eq!(block.results, other.results, "{fetch:?}");
        }
        // A verifier sees only what was included.
        let included: Vec<_> = transactions
            .iter()
            .zip(&block.results)
            .filter(|(_, result)| matches!(result, Applied::Included { .. }))
            .map(|(transaction, _)| transaction.clone())
            .collect();
        let verified = self.execute(&included, Fetch::Prefetched);
        assert_eq!(block.outcome, verified.outcome, "without the rejected");
        self.adopt(&block.outcome);
        block
    }

    pub fn execute(&self, transactions: &[Transaction], fetch: Fetch) -> Block {
        let mut execution = Execution::new(self.genesis.clone(), self.context());
        match fetch {
            Fetch::Prefetched => {
                let keys = execution.prefetch(transactions);
                keys.into_iter()
                    .for_each(|key| execution.supply(key, self.get(&key)));
            }
            Fetch::Everything => {
                self.state
                    .iter()
                    .for_each(|(key, value)| execution.supply(*key, Some(*value)));
            }
            Fetch::OnDemand | Fetch::OneByOne => {}
        }
        self.until_done(&mut execution, fetch, Execution::begin);
        let results = transactions
            .iter()
            .map(|tx| self.until_done(&mut execution, fetch, |execution| execution.apply(tx)))
            .collect();
        Block {
            outcome: execution.finish(),
            results,
        }
    }

    fn until_done<T>(
        &self,
        execution: &mut Execution,
        fetch: Fetch,
        mut step: impl FnMut(&mut Execution) -> Result<T, Missing>,
    ) -> T {
        loop {
            match step(execution) {
                Ok(done) => return done,
                Err(Missing(keys)) => {
                    assert!(!keys.is_empty());
                    let count = if matches!(fetch, Fetch::OneByOne) {
                        1
                    } else {
                        keys.len()
                    };
                    for key in keys.into_iter().take(count) {
                        execution.supply(key, self.get(&key));
                    }
                }
            }
        }
    }

    pub fn get(&self, key: &StateKey) -> Option<StateValue> {
        self.state.get(key).copied()
    }

    pub fn adopt(&mut self, outcome: &Outcome) {
        for (key, value) in &outcome.writes {
            match value {
                Some(value) => self.state.insert(*key, *value),
                None => self.state.remove(key),
            };
        }
        let context = self.context();
        self.hashes
            .push(keccak256(format!("block {}", context.number)));
        self.base_fee = next_base_fee(
            &self.genesis,
            outcome.gas_used,
            context.gas_limit,
            context.base_fee,
        );
    }

    /// The whole state as a reader.
    pub fn read<T>(&self, read: impl Fn(&State) -> Result<T, Missing>) -> T {
        let mut state = State::new();
        loop {
            match read(&state) {
                Ok(value) => return value,
                Err(Missing(keys)) => {
                    keys.into_iter()
                        .for_each(|key| state.supply(key, self.get(&key)));
                }
            }
        }
    }

    pub fn account(&self, address: Address) -> Account {
        self.read(|state| state.account(address))
    }

    pub fn balance(&self, address: Address) -> U256 {
        self.account(address).balance
    }

    /// A call on the current state, in the context of the next block.
    pub fn prepare(&self, request: CallRequest) -> Call {
        Call::new(self.genesis.clone(), &self.context(), request)
    }

    pub fn run<T>(
        &self,
        call: &mut Call,
        mut step: impl FnMut(&mut Call) -> Result<T, Missing>,
    ) -> T {
        loop {
            match step(call) {
                Ok(done) => return done,
                Err(Missing(keys)) => {
                    keys.into_iter()
                        .for_each(|key| call.supply(key, self.get(&key)));
                }
            }
        }
    }

    pub fn call(&self, request: CallRequest) -> CallResult {
        self.run(&mut self.prepare(request), Call::run)
    }

    /// A view of a contract or module, decoded.
    pub fn view<C: SolCall>(&self, to: Address, call: C) -> C::Return {
        let request = CallRequest {
            to: Some(to),
            input: call.abi_encode().into(),
            ..Default::default()
        };
        match self.call(request) {
            CallResult::Success { output, .. } => C::abi_decode_returns_validate(&output).unwrap(),
            other => panic!("{}: {other:?} {:?}", C::SIGNATURE, other.revert_reason()),
        }
    }

    /// The reason why a view reverts.
    pub fn view_error<C: SolCall>(&self, to: Address, call: C) -> String {
        let request = CallRequest {
            to: Some(to),
            input: call.abi_encode().into(),
            ..Default::default()
        };
        self.call(request)
            .revert_reason()
            .expect("reverts with a reason")
    }

    /// One transaction in a block of its own; it must be included.
    pub fn send(
        &mut self,
        sender: &User,
        to: impl Into<TxKind>,
        input: impl Into<Bytes>,
    ) -> Receipt {
        self.send_value(sender, to, input, U256::ZERO)
    }

    pub fn send_value(
        &mut self,
        sender: &User,
        to: impl Into<TxKind>,
        input: impl Into<Bytes>,
        value: U256,
    ) -> Receipt {
        let nonce = self.account(sender.address).nonce;
        let transaction = Draft::new(nonce)
            .to(to)
            .value(value)
            .input(input)
            .sign(sender);
        self.include(&transaction)
    }

    pub fn include(&mut self, transaction: &Transaction) -> Receipt {
        match self
            .block(std::slice::from_ref(transaction))
            .results
            .remove(0)
        {
            Applied::Included { receipt } => receipt,
            Applied::Rejected(reason) => panic!("rejected: {reason}"),
        }
    }

    pub fn reject(&mut self, transaction: &Transaction) -> InvalidTransaction {
        match self
            .block(std::slice::from_ref(transaction))
            .results
            .remove(0)
        {
            Applied::Included { receipt } => panic!("included: {receipt:?}"),
            Applied::Rejected(reason) => reason,
        }
    }

    /// Sends to a module; returns the decoded result, or the reason of the revert.
    pub fn transact<C: SolCall>(
        &mut self,
        sender: &User,
        to: Address,
        call: C,
    ) -> Result<C::Return, String> {
        let receipt = self.send(sender, to, call.abi_encode());
        if receipt.success {
            Ok(C::abi_decode_returns_validate(&receipt.output).unwrap())
        } else {
            assert!(receipt.logs.is_empty());
            Err(lemma_ledger::modules::explain(&receipt.output).expect("a reason"))
        }
    }

    /// Deploys a contract from hexadecimal init code.
    pub fn deploy(&mut self, sender: &User, init_code: &str) -> Address {
        let code = hex::decode(init_code.trim()).unwrap();
        let receipt = self.send(sender, TxKind::Create, code);
        assert!(receipt.success, "{receipt:?}");
        receipt.contract_address.unwrap()
    }
}

/// An unsigned transaction of type 2 in the making.
#[derive(Clone)]
pub struct Draft(pub TxEip1559);

impl Draft {
    pub fn new(nonce: u64) -> Self {
        Self(TxEip1559 {
            chain_id: CHAIN_ID,
            nonce,
            gas_limit: 3_000_000,
            max_fee_per_gas: 10_000_000_000,
            max_priority_fee_per_gas: 1,
            to: TxKind::Call(Address::repeat_byte(0x11)),
            value: U256::ZERO,
            access_list: AccessList::default(),
            input: Bytes::new(),
        })
    }

    pub fn to(mut self, to: impl Into<TxKind>) -> Self {
        self.0.to = to.into();
        self
    }

    pub fn value(mut self, value: U256) -> Self {
        self.0.value = value;
        self
    }

    pub fn input(mut self, input: impl Into<Bytes>) -> Self {
        self.0.input = input.into();
        self
    }

    pub fn gas(mut self, gas_limit: u64) -> Self {
        self.0.gas_limit = gas_limit;
        self
    }

    pub fn chain(mut self, chain_id: u64) -> Self {
        self.0.chain_id = chain_id;
        self
    }

    pub fn fees(mut self, max: u128, tip: u128) -> Self {
        (self.0.max_fee_per_gas, self.0.max_priority_fee_per_gas) = (max, tip);
        self
    }

    pub fn sign(self, sender: &User) -> Transaction {
        Transaction::decode(&self.raw(sender), CHAIN_ID).unwrap()
    }

    pub fn raw(self, sender: &User) -> Vec<u8> {
        encode(self.0, sender)
    }

    pub fn legacy(self, chain_id: Option<u64>) -> TxLegacy {
        let TxEip1559 {
            nonce,
            gas_limit,
            max_fee_per_gas: gas_price,
            to,
            value,
            input,
            ..
        } = self.0;
        TxLegacy {
            chain_id,
            nonce,
            gas_price,
            gas_limit,
            to,
            value,
            input,
        }
    }

    pub fn with_access_list(self, access_list: AccessList) -> TxEip2930 {
        let TxEip1559 {
            chain_id,
            nonce,
            gas_limit,
            max_fee_per_gas: gas_price,
            to,
            value,
            input,
            ..
        } = self.0;
        TxEip2930 {
            chain_id,
            nonce,
            gas_price,
            gas_limit,
            to,
            value,
            input,
            access_list,
        }
    }

    /// Type 4: each authority puts the code of `delegate` on its account.
    pub fn delegating(self, authorities: &[(&User, u64, Address)]) -> TxEip7702 {
        let TxEip1559 {
            chain_id,
            nonce,
            gas_limit,
            max_fee_per_gas,
            max_priority_fee_per_gas,
            to,
            value,
            input,
            access_list,
        } = self.0;
        let authorization_list = authorities
            .iter()
            .map(|(authority, nonce, address)| {
                let authorization = Authorization {
                    chain_id: U256::from(chain_id),
                    address: *address,
                    nonce: *nonce,
                };
                let signature = authority.key.sign(authorization.signature_hash());
                authorization.into_signed(signature)
            })
            .collect();
        TxEip7702 {
            chain_id,
            nonce,
            gas_limit,
            max_fee_per_gas,
            max_priority_fee_per_gas,
            to: *to.to().unwrap(),
            value,
            input,
            access_list,
            authorization_list,
        }
    }
}

/// Signs and encodes a transaction of any type.
pub fn encode<T>(transaction: T, sender: &User) -> Vec<u8>
where
    T: SignableTransaction<alloy_primitives::Signature>,
    TxEnvelope: From<alloy_consensus::Signed<T>>,
{
    let signature = sender.key.sign(transaction.signature_hash());
    TxEnvelope::from(transaction.into_signed(signature)).encoded_2718()
}

/// Init code that deploys `code` as it is.
pub fn deployer(code: &[u8]) -> Vec<u8> {
    // PUSH2 length, DUP1, PUSH1 offset of the code, PUSH0, CODECOPY, PUSH0, RETURN
    let [high, low] = u16::try_from(code.len()).unwrap().to_be_bytes();
    [
        &[0x61, high, low, 0x80, 0x60, 0x0a, 0x5f, 0x39, 0x5f, 0xf3],
        code,
    ]
    .concat()
}

alloy_sol_types::sol! {
    #[sol(all_derives)]
    interface Caller {
        function forward(address to, bytes data) external payable returns (bytes);
        function forwardStatic(address to, bytes data) external view returns (bytes);
        function forwardDelegate(address to, bytes data) external returns (bytes);
        function attempt(address to, bytes data, bool undo) external returns (bool ok);
        function attemptAndUndo(address to, bytes data) external returns (bool ok);
        function sizeOf(address account) external view returns (uint256);
        function hashOf(uint256 number) external view returns (bytes32);
        function environment() external view
            returns (uint256 number, uint256 time, uint256 randao, uint256 base, uint256 chain, address coinbase);
        function readMany(uint256 from, uint256 n) external view returns (uint256 sum);
        function writeMany(uint256 from, uint256 n, uint256 value) external;
        function chase(uint256 slot, uint256 n) external view returns (uint256);
        function burn() external view;
        function destroy(address to) external payable;
        function createAndDestroy(address to) external payable;
    }
    #[sol(all_derives)]
    interface ModelPin {
        function pin(string name) external;
        function isCurrent(string name) external view returns (bool);
        function manifest() external view returns (bytes32);
        function version() external view returns (uint64);
    }
}

pub const CALLER: &str = include_str!("../../../../contracts/tests/Caller.bin");
pub const MODEL_PIN: &str = include_str!("../../../../contracts/examples/ModelPin.bin");

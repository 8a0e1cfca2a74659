//! Accounts that the genesis of a local network funds. Their keys are public knowledge: every Ethereum tool knows them.

use lemma_types::{Address, Amount, B256, U256, keys::SecretKey};

/// Keys of the development accounts: the first ones of the mnemonic that Ethereum's development tools share.
/// **Whoever reads this can spend from them.**
const KEYS: [&str; 6] = [
    "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80",
    "0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d",
    "0x5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a",
    "0x7c852118294e51e653712a81e05800f419141751be58f605c371e15141b007a6",
    "0x47e179ec197488593b187f80a00eb0da91f1b9d0b13f8733639f19c30a34926a",
    "0x8b3a350cf5c34c9194ca85829a2df0ec3153be0318b5e2d3348e872092edffba",
];

/// What each account gets, whole LEM.
const FUNDS: u64 = 1_000_000;

/// An account that genesis funded. Its key is public knowledge: for development only.
#[derive(Clone, Debug)]
pub struct DevelopmentAccount {
    /// Address.
    pub address: Address,
    /// Secret key, 32 bytes.
    pub key: B256,
}

impl DevelopmentAccount {
    pub(super) fn secret(&self) -> SecretKey {
        SecretKey::from_bytes(&self.key.0).expect("development keys are keys")
    }
}

/// The accounts for users, and the one with which the network publishes samples and funds its workers: the last, so that
/// the nonces of the others are the users' own.
pub(super) fn development_accounts() -> (Vec<DevelopmentAccount>, DevelopmentAccount) {
    let account = |text: &&str| {
        let secret = SecretKey::from_hex(text).expect("development keys are keys");
        DevelopmentAccount {
            address: secret.address(),
            key: secret.to_bytes(),
        }
    };
    let mut accounts: Vec<_> = KEYS.iter().map(account).collect();
    let operator = accounts.pop().expect("there are six");
    (accounts, operator)
}

/// What each development account has at the start, wei.
pub(super) fn funds() -> U256 {
    let amount = Amount::from_lem(FUNDS).expect("a million LEM is an amount");
    U256::from(amount.units())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_those_that_tools_know() {
        let (accounts, operator) = development_accounts();
        let addresses: Vec<String> = accounts
            .iter()
            .map(|account| account.address.to_string())
            .collect();
        assert_eq!(
            addresses,
            [
                "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266",
                "0x70997970C51812dc3A010C7d01b50e0d17dc79C8",
                "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC",
                "0x90F79bf6EB2c4f870365E785982E1f101E93b906",
                "0x15d34AAf54267DB7D7c367839AAf71A00a2C6A65",
            ]
        );
        assert_eq!(
            operator.address.to_string(),
            "0x9965507D1a55bcC2695C58ba16FB37d819B0A4dc"
        );
    }
}

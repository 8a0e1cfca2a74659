//! `lemma account`

use lemma_types::{Address, Amount, Bytes, U256};
use serde_json::json;

use super::block_on;
use crate::{
    cli::Account,
    client::{Client, Transaction},
    config::Config,
    error::{CommandError, CommandResult},
    exit::ExitCode,
    shell::Shell,
    wallet,
};

/// Balances and transfers.
pub(super) fn run(command: Account, config: &Config, shell: &mut Shell) -> CommandResult {
    let client = Client::new(config)?;
    match command {
        Account::Balance { address, .. } => block_on(balance(&client, config, address, shell)),
        Account::Send { to, amount, .. } => block_on(send(&client, config, to, amount, shell)),
    }
}

async fn balance(
    client: &Client,
    config: &Config,
    address: Option<Address>,
    shell: &mut Shell,
) -> CommandResult {
    let address = match address {
        Some(address) => address,
        None => wallet::signer(config, client).await?.key.address(),
    };
    let wei = client.balance(address).await?;
    let amount = amount(wei)?;
    if shell.json() {
        return shell
            .document(&json!({ "address": address, "units": amount, "lem": amount.to_string() }));
    }
    shell.note(address);
    shell.line(format_args!("{amount} LEM"))
}

/// All LEM there is fits in 128 bits.
fn amount(wei: U256) -> CommandResult<Amount> {
    u128::try_from(wei).map(Amount::from_units).map_err(|_| {
        CommandError::failed(format!(
            "a balance of {wei} units is more than there can be"
        ))
    })
}

async fn send(
    client: &Client,
    config: &Config,
    to: Address,
    amount: Amount,
    shell: &mut Shell,
) -> CommandResult {
    if amount == Amount::ZERO {
        return Err(CommandError::new(
            ExitCode::Usage,
            "nothing to send: the amount is 0",
        ));
    }
    let signer = wallet::signer(config, client).await?;
    if signer.development {
        shell.note("signed by a development account of the local network");
    }
    let transaction = Transaction {
        to,
        value: U256::from(amount.units()),
        input: Bytes::new(),
    };
    let mined = client.transact(transaction, &signer.key).await?;
    if shell.json() {
        return shell.document(&json!({
            "from": signer.key.address(),
            "to": to,
            "units": amount,
            "transaction": mined.hash,
            "height": mined.height,
        }));
    }
    shell.line(mined.hash)?;
    shell.note(format_args!(
        "{amount} LEM sent to {to}, final in block {}",
        mined.height
    ));
    Ok(())
}

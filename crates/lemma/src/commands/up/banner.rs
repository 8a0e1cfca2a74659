//! What `lemma up` says when the network is ready.

use std::{net::SocketAddr, path::Path};

use lemma_node::{Network, network::DevelopmentAccount};
use lemma_types::{Address, B256};
use serde::Serialize;

use crate::{
    error::CommandResult,
    samples,
    shell::{Shell, paint, styles},
};

/// The port that commands use without `--api`.
const DEFAULT_API: &str = "http://127.0.0.1:8402";

/// Where the servers listen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Endpoints {
    pub(super) api: SocketAddr,
    pub(super) metrics: SocketAddr,
}

/// What a program that started the network needs to know.
#[derive(Serialize)]
struct ReadyLine<'a> {
    api: String,
    rpc: String,
    metrics: String,
    trusted_root: &'a Path,
    data_dir: &'a Path,
    accounts: Vec<ReadyAccount>,
}

#[derive(Serialize)]
struct ReadyAccount {
    address: Address,
    key: B256,
}

impl Endpoints {
    /// Base address of the API, as a client on this machine reaches it.
    pub(super) fn api_url(&self) -> String {
        url(self.api)
    }

    /// `--api URL` for commands to type, if they need it.
    pub(super) fn api_flag(&self) -> String {
        match self.api_url() {
            address if address == DEFAULT_API => String::new(),
            address => format!(" --api {address}"),
        }
    }

    /// Says that the network is ready: one JSON line, or a banner.
    pub(super) fn announce(&self, network: &Network, shell: &mut Shell) -> CommandResult {
        if shell.json() {
            shell.json_line(&self.ready_line(network))
        } else {
            self.banner(network, shell)
        }
    }

    fn ready_line<'a>(&self, network: &'a Network) -> ReadyLine<'a> {
        let account = |account: &DevelopmentAccount| ReadyAccount {
            address: account.address,
            key: account.key,
        };
        ReadyLine {
            api: self.api_url(),
            rpc: format!("{}/rpc", self.api_url()),
            metrics: format!("{}/metrics", url(self.metrics)),
            trusted_root: network.trusted_root_path(),
            data_dir: network.data_dir(),
            accounts: network.accounts().iter().map(account).collect(),
        }
    }

    fn banner(&self, network: &Network, shell: &mut Shell) -> CommandResult {
        let api = self.api_url();
        let trusted_root = network.trusted_root_path().display().to_string();
        shell.line("")?;
        shell.line(format_args!(
            "  {} {}",
            paint(styles::HEADING, "Lemma"),
            paint(
                styles::DIM,
                format!(
                    "local network, chain id {}",
                    network.trusted_root().chain_id
                )
            ),
        ))?;
        shell.line("")?;
        let rows = [
            ("API", api.clone()),
            ("JSON-RPC", format!("{api}/rpc")),
            ("Metrics", format!("{}/metrics", url(self.metrics))),
            ("Trusted root", trusted_root.clone()),
            ("Data", network.data_dir().display().to_string()),
        ];
        for (name, value) in rows {
            shell.line(format_args!("  {name:<14}{}", paint(styles::HINT, value)))?;
        }
        if let Some(model) = network.upstream() {
            let relayed = paint(styles::WARNING, "relayed: which model answers is not known");
            let model = paint(styles::HINT, model);
            shell.line(format_args!("  {:<14}{model}  {relayed}", "Upstream"))?;
        }
        accounts(network, shell)?;
        shell.line("")?;
        shell.line(format_args!(
            "  {}",
            paint(styles::HEADING, "Next, in another terminal")
        ))?;
        let example = network
            .data_dir()
            .join("samples")
            .join(samples::DIGITS)
            .join("example.json");
        let flag = self.api_flag();
        let commands = [
            format!(
                "lemma infer {} --input {}{flag}",
                samples::DIGITS,
                example.display()
            ),
            format!("lemma run {} 'What is 7 + 18?'{flag}", samples::NANO),
            format!("lemma receipts get RECEIPT_ID --output receipt.json --wait{flag}"),
            format!("lemma verify receipt.json --trusted-root {trusted_root}"),
        ];
        for command in commands {
            shell.line(format_args!("    {}", paint(styles::COMMAND, command)))?;
        }
        shell.line("")?;
        shell.line(paint(
            styles::DIM,
            "  Ctrl-C stops the network; `lemma up` resumes it.",
        ))?;
        shell.line("")
    }
}

fn accounts(network: &Network, shell: &mut Shell) -> CommandResult {
    shell.line("")?;
    shell.line(format_args!(
        "  {} {}",
        paint(styles::HEADING, "Funded accounts"),
        paint(
            styles::WARNING,
            "development keys: never use them on a real network"
        ),
    ))?;
    for account in network.accounts() {
        shell.line(format_args!(
            "    {}  {}",
            account.address,
            paint(styles::DIM, account.key)
        ))?;
    }
    Ok(())
}

/// An unspecified address is reached by loopback.
fn url(mut address: SocketAddr) -> String {
    if address.ip().is_unspecified() {
        let loopback = match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        };
        address.set_ip(loopback);
    }
    format!("http://{address}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(api: &str) -> Endpoints {
        let metrics = "127.0.0.1:9402".parse().unwrap();
        Endpoints {
            api: api.parse().unwrap(),
            metrics,
        }
    }

    #[test]
    fn commands_name_the_gateway_only_if_they_have_to() {
        assert_eq!(endpoints("127.0.0.1:8402").api_flag(), "");
        assert_eq!(endpoints("0.0.0.0:8402").api_flag(), "");
        assert_eq!(
            endpoints("127.0.0.1:1234").api_flag(),
            " --api http://127.0.0.1:1234"
        );
        assert_eq!(endpoints("[::]:1").api_url(), "http://[::1]:1");
    }
}

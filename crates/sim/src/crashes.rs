//! Crashes in the middle of a write: the disk keeps some of the bytes, in no order.

use std::time::Duration;

use commonware_runtime::{
    Runner as _,
    deterministic::{
        Config, Context, FaultConfig, PartialWriteMode, ResizeConfig, Runner, WriteConfig,
    },
};
use commonware_utils::{Probability, probability};
use lemma_types::U256;

use crate::{
    client::Clients,
    cluster::{Cluster, Durable},
    story::{LIMIT, TICK, progress, quiet, traffic},
    verdict::{Violation, judge},
};

/// What fails at a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The next write.
    Write,
    /// The next request to make writes durable.
    Sync,
}

/// A disk that keeps, in a crash, every other byte of what is not durable. It fails if it is told so.
fn disk(fault: Option<Fault>) -> FaultConfig {
    let failing = |which| match fault {
        Some(fault) if fault == which => probability!(1.0),
        _ => probability!(0.0),
    };
    let write = WriteConfig {
        failure_rate: failing(Fault::Write),
        retention_rate: probability!(0.5),
        mode: PartialWriteMode::Subset,
    };
    let resize = ResizeConfig {
        failure_rate: failing(Fault::Write),
        partial_rate: probability!(0.5),
    };
    let sync: Probability = failing(Fault::Sync);
    FaultConfig::default()
        .write(write)
        .resize(resize)
        .sync(sync)
}

/// All validators crash at a write, once for each fault and each time at another moment, and start again.
///
/// # Errors
/// See [`Violation`].
///
/// # Panics
/// If the simulation does. A validator that does fails to make progress.
pub fn crashes(seed: u64, faults: &[Fault]) -> Result<usize, Violation> {
    let mut clients = Clients::new(seed, 6);
    let funds = |address| (address, U256::from(10).pow(U256::from(20)));
    let durable = Durable::new(seed, clients.addresses().into_iter().map(funds).collect());
    // A validator that can not write fails, and with it nobody else.
    let config = Config::default()
        .with_seed(seed)
        .with_timeout(Some(LIMIT))
        .with_catch_panics(true)
        .with_storage_fault_config(disk(None));
    let mut runner = Runner::new(config);
    for (moment, fault) in (0..).zip(faults) {
        let durable = durable.clone();
        let (told, checkpoint) = runner.start_and_recover(|context| async move {
            until_the_crash(&context, durable, clients, moment, *fault).await
        });
        clients = told?;
        runner = Runner::from(checkpoint);
    }
    runner.start(|context| async move {
        *context.storage_fault_config().write() = disk(None);
        let all = [0, 1, 2, 3];
        let cluster = Cluster::start(&context, durable.clone()).await;
        progress(&cluster, &mut clients, &all, "restarted").await?;
        traffic(&cluster, &mut clients, 12).await;
        quiet(&cluster).await?;
        progress(&cluster, &mut Clients::new(0, 0), &all, "the end").await?;
        judge(&cluster, &all, &clients, &durable).await?;
        Ok(clients.acknowledged.len())
    })
}

async fn until_the_crash(
    context: &Context,
    durable: Durable,
    mut clients: Clients,
    moment: u64,
    fault: Fault,
) -> Result<Clients, Violation> {
    let disks = context.storage_fault_config();
    *disks.write() = disk(None);
    let cluster = Cluster::start(context, durable).await;
    progress(&cluster, &mut clients, &[0, 1, 2, 3], "started").await?;
    traffic(&cluster, &mut clients, 12).await;
    cluster
        .sleep(Duration::from_millis(moment * 17 % 101))
        .await;
    *disks.write() = disk(Some(fault));
    // Whoever writes now is gone.
    cluster.sleep(TICK * 10).await;
    clients.listen(&cluster);
    let before = cluster.heights();
    cluster.sleep(TICK * 10).await;
    let after = cluster.heights();
    if before == after {
        Ok(clients)
    } else {
        Err(Violation::NoFault(before, after))
    }
}

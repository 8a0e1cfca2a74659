//! One run: traffic, a partition, crashes of one, of two and of all, and the checks in between.

use std::time::Duration;

use commonware_runtime::{
    Runner as _,
    deterministic::{Config, Context, Runner},
};
use lemma_types::{B256, U256};

use crate::{
    client::Clients,
    cluster::{Cluster, Durable, VALIDATORS},
    verdict::{Report, Violation, judge},
};

/// Clients of a run.
const CLIENTS: u64 = 8;
/// Between two looks of the clients.
pub(crate) const TICK: Duration = Duration::from_millis(200);
/// Virtual time after which something that must happen has not.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Virtual time of a run until it is given up.
pub(crate) const LIMIT: Duration = Duration::from_secs(1_200);

/// Tells the story with this seed.
///
/// # Errors
/// See [`Violation`].
///
/// # Panics
/// If a validator does.
pub fn run(seed: u64) -> Result<Report, Violation> {
    let clients = Clients::new(seed, CLIENTS);
    let funds = U256::from(10).pow(U256::from(20));
    let durable = Durable::new(
        seed,
        clients
            .addresses()
            .into_iter()
            .map(|a| (a, funds))
            .collect(),
    );
    let config = Config::default().with_seed(seed).with_timeout(Some(LIMIT));

    // The checkpoint is taken in the middle of the traffic: whatever was not synced is lost.
    let before = durable.clone();
    let (first, checkpoint) = Runner::new(config).start_and_recover(|context| async move {
        let clients = until_the_crash(&context, before, clients).await?;
        Ok::<_, Violation>((clients, context.auditor().state()))
    });
    let (clients, auditor) = first?;
    Runner::from(checkpoint).start(|context| async move {
        let (height, hash, state_root, acknowledged) =
            after_the_crash(&context, durable, clients).await?;
        let auditor = [auditor, context.auditor().state()];
        Ok(Report {
            auditor,
            height,
            hash,
            state_root,
            acknowledged,
        })
    })
}

async fn until_the_crash(
    context: &Context,
    durable: Durable,
    mut clients: Clients,
) -> Result<Clients, Violation> {
    let mut cluster = Cluster::start(context, durable).await;
    progress(&cluster, &mut clients, &[0, 1, 2, 3], "start").await?;
    traffic(&cluster, &mut clients, 20).await;

    cluster.cut(3).await;
    progress(&cluster, &mut clients, &[0, 1, 2], "one cut off").await?;
    traffic(&cluster, &mut clients, 20).await;
    cluster.heal(3).await;
    progress(&cluster, &mut clients, &[0, 1, 2, 3], "healed").await?;

    cluster.abort(1);
    progress(&cluster, &mut clients, &[0, 2, 3], "one crashed").await?;
    traffic(&cluster, &mut clients, 20).await;
    cluster.boot(1);
    progress(&cluster, &mut clients, &[0, 1, 2, 3], "restarted").await?;

    cluster.abort(0);
    cluster.abort(2);
    halted(&cluster, &mut clients).await?;
    cluster.boot(2);
    progress(&cluster, &mut clients, &[1, 2, 3], "one of two is back").await?;
    cluster.boot(0);
    progress(&cluster, &mut clients, &[0, 1, 2, 3], "both are back").await?;
    traffic(&cluster, &mut clients, 20).await;
    Ok(clients)
}

async fn after_the_crash(
    context: &Context,
    durable: Durable,
    mut clients: Clients,
) -> Result<(u64, B256, B256, usize), Violation> {
    let cluster = Cluster::start(context, durable.clone()).await;
    progress(&cluster, &mut clients, &[0, 1, 2, 3], "all restarted").await?;
    traffic(&cluster, &mut clients, 20).await;
    // What is under way becomes final; then nobody submits anything.
    quiet(&cluster).await?;
    progress(&cluster, &mut Clients::new(0, 0), &[0, 1, 2, 3], "the end").await?;
    let height = judge(&cluster, &[0, 1, 2, 3], &clients, &durable).await?;
    let handle = cluster.handle(0).ok_or(Violation::Down(0))?;
    let block = handle
        .block(lemma_chain::BlockId::Number(height))
        .expect("an index in memory can be read");
    let block = block.ok_or(Violation::Gap(0, height))?;
    Ok((
        height,
        block.hash(),
        block.header().state_root,
        clients.acknowledged.len(),
    ))
}

pub(crate) async fn traffic(cluster: &Cluster, clients: &mut Clients, ticks: u32) {
    for _ in 0..ticks {
        clients.tick(cluster).await;
        cluster.sleep(TICK).await;
    }
}

/// All of these validators get beyond whatever is the highest now, under traffic.
pub(crate) async fn progress(
    cluster: &Cluster,
    clients: &mut Clients,
    validators: &[usize],
    station: &'static str,
) -> Result<(), Violation> {
    let goal = cluster.heights().into_iter().max().unwrap_or(0) + 2;
    let mut left = PATIENCE;
    loop {
        let heights = cluster.heights();
        if validators.iter().all(|index| heights[*index] >= goal) {
            return Ok(());
        }
        left = left
            .checked_sub(TICK)
            .ok_or(Violation::Stuck(station, heights))?;
        traffic(cluster, clients, 1).await;
    }
}

/// Nothing waits for a block any more.
pub(crate) async fn quiet(cluster: &Cluster) -> Result<(), Violation> {
    let busy = |index| {
        cluster
            .handle(index)
            .is_none_or(|handle| !handle.pool().is_empty())
    };
    let mut left = PATIENCE;
    while (0..VALIDATORS).any(busy) {
        let stuck = || Violation::Stuck("transactions still wait", cluster.heights());
        left = left.checked_sub(TICK).ok_or_else(stuck)?;
        cluster.sleep(TICK).await;
    }
    Ok(())
}

/// With two of four, nothing becomes final, after what was under way.
async fn halted(cluster: &Cluster, clients: &mut Clients) -> Result<(), Violation> {
    traffic(cluster, clients, 10).await;
    let before = cluster.heights();
    traffic(cluster, clients, 40).await;
    let after = cluster.heights();
    if before == after {
        Ok(())
    } else {
        Err(Violation::NoQuorum(before, after))
    }
}

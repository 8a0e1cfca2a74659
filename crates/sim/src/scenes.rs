//! Short runs about one thing each.

use std::time::Duration;

use commonware_runtime::{
    Runner as _,
    deterministic::{Config, Context, Runner},
};
use lemma_chain::BlockId;
use lemma_types::{Address, U256, keccak256};

use crate::{
    client::{Clients, key, locate, payment},
    cluster::{Cluster, Durable, HEARTBEAT, VALIDATORS},
    liar::Lie,
    story::{LIMIT, PATIENCE, TICK, progress, quiet, traffic},
    verdict::{Violation, judge},
};

/// Between two looks for what does not last.
const MOMENT: Duration = Duration::from_millis(1);
/// What each account of a scene begins with, wei.
const FUNDS: u128 = 10u128.pow(20);

/// Plays a scene with so many clients.
fn play<T>(
    seed: u64,
    clients: u64,
    scene: impl AsyncFnOnce(Context, Durable, Clients) -> Result<T, Violation>,
) -> Result<T, Violation> {
    let clients = Clients::new(seed, clients);
    let funds = |address| (address, U256::from(FUNDS));
    let durable = Durable::new(seed, clients.addresses().into_iter().map(funds).collect());
    let config = Config::default().with_seed(seed).with_timeout(Some(LIMIT));
    Runner::new(config).start(|context| scene(context, durable, clients))
}

/// All validators stop in order while they check a block, and start again: so many times.
///
/// # Errors
/// See [`Violation`].
///
/// # Panics
/// If a validator does.
pub fn stops(seed: u64, times: u32) -> Result<(), Violation> {
    play(seed, 8, async |context, durable, mut clients| {
        let mut cluster = Cluster::start(&context, durable.clone()).await;
        for _ in 0..times {
            progress(&cluster, &mut clients, &[0, 1, 2, 3], "started").await?;
            let mut left = PATIENCE;
            while !cluster.checks() {
                let stuck = || Violation::Stuck("no block to check", cluster.heights());
                left = left.checked_sub(MOMENT).ok_or_else(stuck)?;
                if cluster.is_idle() {
                    clients.tick(&cluster).await;
                    // No block arrives sooner.
                    cluster.sleep(MOMENT * 15).await;
                }
                cluster.sleep(MOMENT).await;
            }
            cluster.stop().await;
            for index in 0..VALIDATORS {
                cluster.boot(index);
            }
        }
        progress(&cluster, &mut clients, &[0, 1, 2, 3], "the end").await?;
        quiet(&cluster).await?;
        progress(&cluster, &mut Clients::new(0, 0), &[0, 1, 2, 3], "quiet").await?;
        judge(&cluster, &[0, 1, 2, 3], &clients, &durable)
            .await
            .map(drop)
    })
}

/// How many blocks become final while a transaction waits whose sender has spent its funds otherwise, and how many
/// would at the pace of the heartbeat.
///
/// # Errors
/// See [`Violation`].
///
/// # Panics
/// If a validator does.
pub fn unaffordable(seed: u64) -> Result<(u64, u64), Violation> {
    const WATCHED: u32 = 40;
    play(seed, 1, async |context, durable, mut clients| {
        let cluster = Cluster::start(&context, durable).await;
        progress(&cluster, &mut clients, &[0, 1, 2, 3], "start").await?;
        quiet(&cluster).await?;

        // Apart from each other, each part hears of one of two payments that are too much together.
        let (sender, most) = (key(seed, 0), U256::from(FUNDS / 10 * 6));
        let handle = |index| cluster.handle(index).ok_or(Violation::Down(index));
        let next = handle(0)?.pending_nonce(sender.address()).await;
        let next = next.map_err(|_| Violation::Down(0))?;
        let pay = |nonce| payment(&sender, nonce, Address::repeat_byte(9), most);
        cluster.cut(3).await;
        for (index, nonce) in [(0, next + 1), (3, next)] {
            let submitted = handle(index)?.submit(&pay(nonce)).await;
            submitted.expect("the sender has enough for one");
        }
        cluster.sleep(TICK).await;
        cluster.heal(3).await;
        let mut left = PATIENCE;
        while locate(&handle(0)?, keccak256(pay(next))).is_none() {
            let stuck = || Violation::Stuck("the first is not final", cluster.heights());
            left = left.checked_sub(TICK).ok_or_else(stuck)?;
            cluster.sleep(TICK).await;
        }

        let before = handle(0)?.head().number;
        cluster.sleep(HEARTBEAT * WATCHED).await;
        Ok((handle(0)?.head().number - before, u64::from(WATCHED)))
    })
}

/// How many messages a validator sends about the first transaction that is submitted to it.
///
/// # Errors
/// See [`Violation`].
///
/// # Panics
/// If a validator does.
pub fn gossip(seed: u64) -> Result<u64, Violation> {
    play(seed, 1, async |context, durable, _| {
        let cluster = Cluster::start(&context, durable).await;
        progress(&cluster, &mut Clients::new(0, 0), &[0, 1, 2, 3], "start").await?;
        let handle = cluster.handle(0).ok_or(Violation::Down(0))?;
        let before = cluster.gossip(0);
        let raw = payment(&key(seed, 0), 0, Address::ZERO, U256::from(1));
        handle.submit(&raw).await.expect("the sender has enough");
        // It is told again what waits for a second; this becomes final before.
        cluster.sleep(Duration::from_millis(900)).await;
        Ok(cluster.gossip(0) - before)
    })
}

/// One of four validators lies whenever it leads; the others go on, agree, and believe nothing. Returns how many blocks
/// it has told them.
///
/// # Errors
/// See [`Violation`].
///
/// # Panics
/// If a validator does.
pub fn lies(seed: u64, lie: Lie) -> Result<usize, Violation> {
    const HONEST: [usize; 3] = [0, 1, 2];
    play(seed, 6, async |context, durable, mut clients| {
        let cluster = Cluster::start_with(&context, durable.clone(), Some((3, lie))).await;
        for _ in 0..3 {
            progress(&cluster, &mut clients, &HONEST, "among lies").await?;
            traffic(&cluster, &mut clients, 10).await;
        }
        let mut nobody = Clients::new(0, 0);
        for _ in 0..2 {
            progress(&cluster, &mut nobody, &HONEST, "quiet").await?;
        }
        let height = judge(&cluster, &HONEST, &clients, &durable).await?;
        let told = cluster.told.hashes();
        let handle = cluster.handle(0).ok_or(Violation::Down(0))?;
        for number in 0..=height {
            let block = handle.block(BlockId::Number(number));
            let block = block.expect("an index in memory can be read");
            let hash = block.ok_or(Violation::Gap(0, number))?.hash();
            // Of two that are right, either may become final.
            if lie != Lie::Twice && told.contains(&hash) {
                return Err(Violation::Deceived(number));
            }
        }
        Ok(told.len())
    })
}

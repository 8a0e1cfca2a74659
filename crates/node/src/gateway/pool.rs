//! The workers that the ledger names, and how they fare.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use lemma_types::Address;

use super::WorkerStatus;
use crate::{ledger::NodeRecord, metrics as names};

/// Longest time for which a worker is set aside.
const LONGEST: Duration = Duration::from_secs(30);

/// Picks workers: the least busy of those that are not set aside. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Pool {
    workers: Arc<Mutex<Workers>>,
}

#[derive(Default)]
struct Workers {
    by_address: BTreeMap<Address, Worker>,
    picks: u64,
}

struct Worker {
    endpoint: String,
    active: bool,
    in_flight: u64,
    failures: u32,
    failed_at: Option<Instant>,
    set_aside_until: Option<Instant>,
    last_pick: u64,
}

impl Worker {
    fn set_aside(&self, now: Instant) -> Duration {
        self.set_aside_until
            .map_or(Duration::ZERO, |until| until.saturating_duration_since(now))
    }
}

/// A worker that was picked. Say how it went, or let it be dropped.
pub(crate) struct Lease {
    pool: Pool,
    began: Instant,
    pub(crate) address: Address,
    pub(crate) endpoint: String,
}

impl Pool {
    fn workers(&self) -> MutexGuard<'_, Workers> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over what the ledger says of a node. A worker with a new endpoint starts with a clean sheet.
    pub(crate) fn update(&self, node: &NodeRecord) {
        let mut workers = self.workers();
        let worker = workers
            .by_address
            .entry(node.address)
            .or_insert_with(|| Worker {
                endpoint: String::new(),
                active: false,
                in_flight: 0,
                failures: 0,
                failed_at: None,
                set_aside_until: None,
                last_pick: 0,
            });
        if node.active && worker.endpoint != node.endpoint {
            worker.endpoint.clone_from(&node.endpoint);
            worker.failures = 0;
            worker.failed_at = None;
            worker.set_aside_until = None;
        }
        worker.active = node.active;
    }

    /// The least busy worker that is available and not among `tried`. If none is available and none was tried, the one that
    /// is set aside for the shortest time yet: better an attempt than none.
    pub(crate) fn pick(&self, tried: &[Address]) -> Option<Lease> {
        let now = Instant::now();
        let mut workers = self.workers();
        let candidates = || {
            let all = workers.by_address.iter();
            all.filter(|(address, worker)| worker.active && !tried.contains(address))
        };
        let available = candidates()
            .filter(|(_, worker)| worker.set_aside(now).is_zero())
            .min_by_key(|(_, worker)| (worker.in_flight, worker.last_pick));
        let last_resort = || candidates().min_by_key(|(_, worker)| worker.set_aside(now));
        let picked = match available {
            Some(found) => Some(found),
            None if tried.is_empty() => last_resort(),
            None => None,
        };
        let address = *picked?.0;
        workers.picks += 1;
        let picks = workers.picks;
        let worker = workers.by_address.get_mut(&address)?;
        worker.last_pick = picks;
        worker.in_flight += 1;
        let endpoint = worker.endpoint.clone();
        Some(Lease {
            pool: self.clone(),
            began: now,
            address,
            endpoint,
        })
    }

    /// Where a worker listens, or did when it was last registered.
    pub(crate) fn endpoint(&self, address: Address) -> Option<String> {
        let workers = self.workers();
        workers
            .by_address
            .get(&address)
            .map(|worker| worker.endpoint.clone())
    }

    /// Whether the ledger names this worker now.
    pub(crate) fn is_active(&self, address: Address) -> bool {
        self.workers()
            .by_address
            .get(&address)
            .is_some_and(|worker| worker.active)
    }

    /// Registered workers, by address.
    pub(crate) fn status(&self) -> Vec<WorkerStatus> {
        let now = Instant::now();
        let workers = self.workers();
        let active = workers
            .by_address
            .iter()
            .filter(|(_, worker)| worker.active);
        active
            .map(|(address, worker)| WorkerStatus {
                address: *address,
                endpoint: worker.endpoint.clone(),
                in_flight: worker.in_flight,
                failures: worker.failures,
                set_aside: worker.set_aside(now),
            })
            .collect()
    }

    /// Tells the metrics how many workers there are.
    pub(crate) fn record(&self) {
        let status = self.status();
        let available = status
            .iter()
            .filter(|worker| worker.set_aside.is_zero())
            .count();
        let set_aside = status.len() - available;
        metrics::gauge!(names::WORKERS, "state" => "available").set(available as f64);
        metrics::gauge!(names::WORKERS, "state" => "set_aside").set(set_aside as f64);
    }
}

impl Lease {
    fn worker<T>(&self, change: impl FnOnce(&mut Worker) -> T) -> Option<T> {
        let mut workers = self.pool.workers();
        let worker = workers.by_address.get_mut(&self.address)?;
        // A new endpoint has nothing to do with what came of the old one.
        (worker.endpoint == self.endpoint).then(|| change(worker))
    }

    /// It answered.
    pub(crate) fn succeeded(&self) {
        self.worker(|worker| {
            worker.failures = 0;
            worker.set_aside_until = None;
        });
    }

    /// It failed: it is set aside, the longer the more often it has failed in a row. Requests that were under way when it
    /// failed before tell nothing new. Returns for how long it is set aside now, if this is news.
    pub(crate) fn failed(&self, reason: &'static str) -> Option<Duration> {
        metrics::counter!(names::WORKER_FAILURES, "reason" => reason).increment(1);
        self.worker(|worker| {
            if worker.failed_at.is_some_and(|failed| self.began <= failed) {
                return None;
            }
            let pause = Duration::from_millis(500)
                .saturating_mul(1 << worker.failures.min(8))
                .min(LONGEST);
            let now = Instant::now();
            worker.failures = worker.failures.saturating_add(1);
            worker.failed_at = Some(now);
            worker.set_aside_until = Some(now + pause);
            Some(pause)
        })?
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(worker) = self.pool.workers().by_address.get_mut(&self.address) {
            worker.in_flight = worker.in_flight.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(count: u8) -> Pool {
        let pool = Pool::default();
        for number in 1..=count {
            pool.update(&node(number, "http://a", true));
        }
        pool
    }

    fn node(number: u8, endpoint: &str, active: bool) -> NodeRecord {
        let address = Address::repeat_byte(number);
        NodeRecord {
            address,
            endpoint: endpoint.to_owned(),
            payee: address,
            active,
        }
    }

    #[test]
    fn work_is_shared_and_the_busy_are_spared() {
        let pool = pool(3);
        let first = pool.pick(&[]).unwrap();
        let second = pool.pick(&[]).unwrap();
        let third = pool.pick(&[]).unwrap();
        let mut addresses = [first.address, second.address, third.address];
        addresses.sort();
        assert_eq!(addresses, [1, 2, 3].map(Address::repeat_byte));
        let freed = second.address;
        drop(second);
        assert_eq!(pool.pick(&[]).unwrap().address, freed);
        assert_eq!(
            pool.pick(&[freed]).unwrap().address,
            first.address,
            "the one picked least recently"
        );
    }

    #[test]
    fn failing_workers_are_set_aside_but_are_the_last_resort() {
        let pool = pool(2);
        let lease = pool.pick(&[]).unwrap();
        let bad = lease.address;
        lease.failed("test");
        drop(lease);
        for _ in 0..4 {
            assert_ne!(pool.pick(&[]).unwrap().address, bad);
        }
        let other = pool.pick(&[]).unwrap();
        assert!(
            pool.pick(&[other.address]).is_none(),
            "one that failed is no alternative"
        );
        other.failed("test");
        drop(other);
        assert_eq!(
            pool.pick(&[]).unwrap().address,
            bad,
            "it is available soonest"
        );
        let lease = pool.pick(&[]).unwrap();
        lease.succeeded();
        assert!(
            pool.status()
                .iter()
                .any(|worker| worker.set_aside.is_zero())
        );
    }

    #[test]
    fn what_was_under_way_at_a_failure_counts_once() {
        let pool = pool(1);
        let leases = [(); 3].map(|()| pool.pick(&[]).unwrap());
        let news = leases.map(|lease| lease.failed("test").is_some());
        assert_eq!(news, [true, false, false]);
        assert_eq!(pool.status()[0].failures, 1);
        let later = pool.pick(&[]).unwrap();
        assert!(later.failed("test").is_some());
        assert_eq!(pool.status()[0].failures, 2);
    }

    #[test]
    fn the_ledger_decides_who_is_a_worker() {
        let pool = pool(1);
        let lease = pool.pick(&[]).unwrap();
        lease.failed("test");
        pool.update(&node(1, "http://b", true));
        lease.failed("test");
        assert_eq!(
            pool.status()[0].failures,
            0,
            "a new endpoint starts with a clean sheet"
        );
        assert_eq!(pool.pick(&[]).unwrap().endpoint, "http://b");
        pool.update(&node(1, "", false));
        assert!(pool.pick(&[]).is_none());
        assert_eq!(pool.status(), []);
        assert_eq!(pool.endpoint(Address::repeat_byte(1)).unwrap(), "http://b");
    }
}

//! A pool of threads that share the outputs of one computation.
//!
//! Work is handed out by number: [`Threads::run`] calls a function once for each of so many
//! tasks, on whichever thread comes first. A task computes outputs of its own, each by the one
//! order that the numeric specification gives; so neither the number of threads nor who takes
//! which task can change a bit.
#![allow(unsafe_code)]

use std::any::Any;
use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr::null_mut;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a thread looks for what it waits for before it sleeps: about the time between two
/// operators of a model, or the rest of a task. Waking a sleeping thread takes as long.
const PATIENCE: Duration = Duration::from_micros(100);

/// A pool of threads. Dropping it ends them.
///
/// The thread that calls [`run`](Threads::run) takes part, so a pool of n threads starts n − 1.
/// A call from inside a task, or while another thread uses the pool, runs on its caller alone.
/// Nothing is allocated by a call.
pub struct Threads {
    /// Nothing is shared where the caller's is the only thread.
    shared: Option<Arc<Shared>>,
    workers: Vec<JoinHandle<()>>,
}

/// What caller and workers share. Who waits looks at the atomic numbers for a while; only who sleeps, and who wakes
/// sleepers, takes the lock.
///
/// The orders of all these are sequentially consistent, for everything here is of the form "I say that I am here, then
/// look": a worker counts itself in and then takes the job, its caller takes the job down and then looks who is in; who
/// wants to sleep says so and then looks once more, who has news tells it and then looks who sleeps.
struct Shared {
    /// Held by the caller whose job the workers do.
    caller: Mutex<()>,
    /// Number of the latest job; [`ENDED`] when the pool ends.
    latest: AtomicU64,
    /// The job, while it is up.
    job: AtomicPtr<Job<'static>>,
    /// The job's tasks, in one share for each thread.
    shares: Box<[Share]>,
    /// Workers inside the job.
    inside: AtomicUsize,
    /// Workers that sleep, or are about to.
    sleepers: AtomicUsize,
    /// Whether the caller sleeps, or is about to.
    caller_sleeps: AtomicBool,
    bed: Mutex<()>,
    /// A job was put up, or the pool ends.
    posted: Condvar,
    /// The last worker has left a job.
    left: Condvar,
}

/// The number of no job.
const ENDED: u64 = u64::MAX;

struct Job<'a> {
    task: &'a (dyn Fn(usize) + Sync),
    tasks: usize,
    failed: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

thread_local! {
    /// Whether this thread is inside a task.
    static BUSY: Cell<bool> = const { Cell::new(false) };
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The tasks of a job that one thread begins with: neighbours, so that it finds what it left in its cache when it did the
/// same part of the job before.
#[repr(align(128))]
struct Share {
    next: AtomicUsize,
}

impl Job<'_> {
    /// Does the tasks of a thread's own share, then those that are left of others'.
    fn work(&self, shares: &[Share], own: usize) {
        let outer = BUSY.replace(true);
        let done = catch_unwind(AssertUnwindSafe(|| {
            for share in (own..shares.len()).chain(0..own) {
                let end = self.begin(share + 1, shares.len());
                while !self.failed.load(Relaxed) {
                    let index = shares[share].next.fetch_add(1, Relaxed);
                    if index >= end {
                        break;
                    }
                    (self.task)(index);
                }
            }
        }));
        BUSY.set(outer);
        if let Err(panic) = done {
            self.failed.store(true, Relaxed);
            lock(&self.panic).get_or_insert(panic);
        }
    }

    /// The first task of one of `shares` shares.
    fn begin(&self, share: usize, shares: usize) -> usize {
        let (each, rest) = (self.tasks / shares, self.tasks % shares);
        share * each + share.min(rest)
    }
}

impl Threads {
    /// A pool of `threads`, the caller's included; 0 counts as 1. If the system refuses to start
    /// some of them, the pool has fewer.
    #[must_use]
    pub fn new(threads: usize) -> Threads {
        if threads <= 1 {
            return Threads::single();
        }
        let shared = Arc::new(Shared {
            caller: Mutex::new(()),
            latest: AtomicU64::new(0),
            job: AtomicPtr::new(null_mut()),
            shares: std::iter::repeat_with(|| Share {
                next: AtomicUsize::new(0),
            })
            .take(threads)
            .collect(),
            inside: AtomicUsize::new(0),
            sleepers: AtomicUsize::new(0),
            caller_sleeps: AtomicBool::new(false),
            bed: Mutex::new(()),
            posted: Condvar::new(),
            left: Condvar::new(),
        });
        let start = |index: usize| {
            let shared = shared.clone();
            std::thread::Builder::new()
                .name(format!("kernels-{index}"))
                .spawn(move || shared.serve(index))
                .ok()
        };
        let workers = (1..threads).map_while(start).collect();
        Threads {
            shared: Some(shared),
            workers,
        }
    }

    /// One thread: the caller's.
    #[must_use]
    pub const fn single() -> Threads {
        Threads {
            shared: None,
            workers: Vec::new(),
        }
    }

    /// The number of threads, the caller's included.
    #[must_use]
    pub fn count(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `task` once for each number below `tasks`, on several threads, in no particular
    /// order; returns when all have returned.
    ///
    /// # Panics
    /// If a task panics: with the first panic, when all threads have left. Other tasks may not
    /// have run then.
    pub fn run(&self, tasks: usize, task: impl Fn(usize) + Sync) {
        let shared = self.shared.as_ref().filter(|_| tasks > 1 && !BUSY.get());
        let free = shared.and_then(|shared| Some((shared, shared.caller.try_lock().ok()?)));
        let Some((shared, turn)) = free else {
            return (0..tasks).for_each(task);
        };
        let job = Job {
            task: &task,
            tasks,
            failed: AtomicBool::new(false),
            panic: Mutex::new(None),
        };
        shared.post(&job);
        job.work(&shared.shares, 0);
        shared.withdraw();
        drop(turn);
        if let Some(panic) = lock(&job.panic).take() {
            resume_unwind(panic);
        }
    }

    /// Calls `task` once for each chunk of `size` elements of `out` (the last one may be shorter),
    /// with the chunk's number.
    ///
    /// # Panics
    /// If `size` is 0, or a task panics.
    pub fn chunks<T: Send>(
        &self,
        out: &mut [T],
        size: usize,
        task: impl Fn(usize, &mut [T]) + Sync,
    ) {
        assert!(size > 0, "chunks need a size");
        let len = out.len();
        let slots = Slots::of(out);
        self.run(len.div_ceil(size), |i| {
            let start = i * size;
            // SAFETY: chunks of different numbers do not overlap, and each number comes once.
            task(i, unsafe { slots.slice(start, size.min(len - start)) });
        });
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        let Some(shared) = &self.shared else {
            return;
        };
        shared.tell(ENDED);
        for worker in self.workers.drain(..) {
            // A worker catches the panics of tasks and has none of its own.
            let _ = worker.join();
        }
    }
}

impl fmt::Debug for Threads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Threads({})", self.count())
    }
}

impl Shared {
    /// Puts a job up, which stays where it is until it was withdrawn.
    fn post(&self, job: &Job<'_>) {
        // Nobody takes tasks while no job is up.
        for (i, share) in self.shares.iter().enumerate() {
            share.next.store(job.begin(i, self.shares.len()), Relaxed);
        }
        let job = std::ptr::from_ref(job).cast::<Job<'static>>();
        self.job.store(job.cast_mut(), SeqCst);
        self.tell(self.latest.load(SeqCst) + 1);
    }

    /// Makes a number the latest, and wakes who sleeps.
    fn tell(&self, number: u64) {
        self.latest.store(number, SeqCst);
        if self.sleepers.load(SeqCst) > 0 {
            drop(lock(&self.bed));
            self.posted.notify_all();
        }
    }

    /// Takes the job down and waits until no worker is inside it.
    fn withdraw(&self) {
        self.job.store(null_mut(), SeqCst);
        let empty = || self.inside.load(SeqCst) == 0;
        if comes(empty) {
            return;
        }
        self.caller_sleeps.store(true, SeqCst);
        let mut bed = lock(&self.bed);
        while !empty() {
            bed = self.left.wait(bed).unwrap_or_else(PoisonError::into_inner);
        }
        drop(bed);
        self.caller_sleeps.store(false, SeqCst);
    }

    /// The life of a worker, whose share of every job is number `own`.
    fn serve(&self, own: usize) {
        let mut seen = 0;
        loop {
            seen = self.wait(seen);
            if seen == ENDED {
                return;
            }
            self.inside.fetch_add(1, SeqCst);
            // A later job than the one that was seen will do as well.
            let job = self.job.load(SeqCst);
            if !job.is_null() {
                // SAFETY: this worker counted itself in before it found the job up, and the job's caller keeps it
                // until, having taken it down, it finds nobody in.
                unsafe { &*job }.work(&self.shares, own);
            }
            if self.inside.fetch_sub(1, SeqCst) == 1 && self.caller_sleeps.load(SeqCst) {
                drop(lock(&self.bed));
                self.left.notify_one();
            }
        }
    }

    /// Waits for a later number than `seen`.
    fn wait(&self, seen: u64) -> u64 {
        let news = || self.latest.load(SeqCst) != seen;
        if !comes(news) {
            self.sleepers.fetch_add(1, SeqCst);
            let mut bed = lock(&self.bed);
            while !news() {
                bed = self
                    .posted
                    .wait(bed)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            drop(bed);
            self.sleepers.fetch_sub(1, SeqCst);
        }
        self.latest.load(SeqCst)
    }
}

/// Looks for a while whether something has come.
fn comes(come: impl Fn() -> bool) -> bool {
    let mut start = None;
    loop {
        for _ in 0..64 {
            if come() {
                return true;
            }
            std::hint::spin_loop();
        }
        if start.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
            return false;
        }
    }
}

/// A mutable slice of which several threads write different parts.
pub(crate) struct Slots<'a, T> {
    start: *mut T,
    len: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: it hands out parts of a mutable slice, each to one thread, as its users promise.
unsafe impl<T: Send> Sync for Slots<'_, T> {}

impl<'a, T> Slots<'a, T> {
    pub(crate) fn of(slice: &'a mut [T]) -> Slots<'a, T> {
        Slots {
            start: slice.as_mut_ptr(),
            len: slice.len(),
            slice: PhantomData,
        }
    }

    /// A pointer to part of the slice.
    ///
    /// # Safety
    /// Nothing that is written through it may overlap what another thread uses.
    #[inline(always)]
    pub(crate) unsafe fn pointer(&self, start: usize, len: usize) -> *mut T {
        assert!(start <= self.len && len <= self.len - start);
        // SAFETY: in bounds, as was just checked.
        unsafe { self.start.add(start) }
    }

    /// Part of the slice.
    ///
    /// # Safety
    /// While the part lives no other that overlaps it may exist.
    #[inline(always)]
    #[allow(clippy::mut_from_ref, reason = "the parts are disjoint")]
    pub(crate) unsafe fn slice(&self, start: usize, len: usize) -> &'a mut [T] {
        assert!(start <= self.len && len <= self.len - start);
        // SAFETY: in bounds, as was just checked; alone, as the caller promises.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    #[test]
    fn every_task_runs_once_whatever_the_number_of_threads() {
        for threads in [0, 1, 2, 5] {
            let pool = Threads::new(threads);
            assert_eq!(pool.count(), threads.max(1));
            for tasks in [0, 1, 2, 7, 1000] {
                let counts: Vec<AtomicU32> = (0..tasks).map(|_| AtomicU32::new(0)).collect();
                pool.run(tasks, |i| {
                    counts[i].fetch_add(1, Relaxed);
                });
                assert!(counts.iter().all(|c| c.load(Relaxed) == 1));
            }
        }
    }

    #[test]
    fn chunks_are_disjoint_and_complete() {
        let pool = Threads::new(3);
        let mut values = vec![0; 1001];
        pool.chunks(&mut values, 10, |i, chunk| {
            assert_eq!(chunk.len(), if i == 100 { 1 } else { 10 });
            for (j, value) in chunk.iter_mut().enumerate() {
                *value += i * 10 + j;
            }
        });
        assert!(values.iter().enumerate().all(|(i, &v)| i == v));
    }

    #[test]
    fn two_threads_work_at_the_same_time() {
        let pool = Threads::new(2);
        let arrived = std::sync::Barrier::new(2);
        // Each task waits for the other: one thread alone would wait for ever.
        pool.run(2, |_| {
            arrived.wait();
        });
    }

    #[test]
    fn a_call_inside_a_task_runs_there() {
        let pool = Threads::new(2);
        let sum = AtomicUsize::new(0);
        pool.run(8, |i| {
            let here = std::thread::current().id();
            pool.run(8, |j| {
                assert_eq!(std::thread::current().id(), here);
                sum.fetch_add(i * j, Relaxed);
            });
        });
        assert_eq!(sum.into_inner(), 28 * 28);
    }

    #[test]
    fn several_callers_share_a_pool() {
        let pool = Threads::new(2);
        let sum = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        pool.run(10, |i| {
                            sum.fetch_add(i, Relaxed);
                        });
                    }
                });
            }
        });
        assert_eq!(sum.into_inner(), 4 * 100 * 45);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Threads::new(2);
        for threads_panic in [0, 63] {
            let caught = catch_unwind(AssertUnwindSafe(|| {
                pool.run(64, |i| assert_ne!(i, threads_panic, "task {i} fails"));
            }));
            let message = caught.expect_err("the panic is passed on");
            let text = message.downcast_ref::<String>().expect("a message");
            assert!(text.contains(&format!("task {threads_panic} fails")));
        }
        let count = AtomicUsize::new(0);
        pool.run(100, |_| {
            count.fetch_add(1, Relaxed);
        });
        assert_eq!(count.into_inner(), 100);
    }
}

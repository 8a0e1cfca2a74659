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
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long an idle thread looks for more work before it sleeps: about the time between two
/// operators of a model. Waking a sleeping thread takes as long.
const PATIENCE: Duration = Duration::from_micros(50);

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

/// What caller and workers share.
struct Shared {
    /// Held by the caller whose job the workers do.
    caller: Mutex<()>,
    board: Mutex<Board>,
    /// A job was put up, or the pool ends.
    posted: Condvar,
    /// The last worker has left a job.
    left: Condvar,
    /// Number of the latest job, for those who look without the lock.
    latest: AtomicU64,
}

/// The one job at a time.
struct Board {
    number: u64,
    job: Option<JobRef>,
    /// Workers inside the job.
    inside: usize,
    ended: bool,
}

/// A pointer to the job on its caller's stack.
#[derive(Clone, Copy)]
struct JobRef(*const Job<'static>);

// SAFETY: a `Job` is `Sync`, and its caller waits until every worker has left it.
unsafe impl Send for JobRef {}

struct Job<'a> {
    task: &'a (dyn Fn(usize) + Sync),
    tasks: usize,
    next: AtomicUsize,
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

impl Job<'_> {
    /// Takes tasks until there are none.
    fn work(&self) {
        let outer = BUSY.replace(true);
        let done = catch_unwind(AssertUnwindSafe(|| {
            while !self.failed.load(Ordering::Relaxed) {
                let index = self.next.fetch_add(1, Ordering::Relaxed);
                if index >= self.tasks {
                    break;
                }
                (self.task)(index);
            }
        }));
        BUSY.set(outer);
        if let Err(panic) = done {
            self.failed.store(true, Ordering::Relaxed);
            lock(&self.panic).get_or_insert(panic);
        }
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
            board: Mutex::new(Board {
                number: 0,
                job: None,
                inside: 0,
                ended: false,
            }),
            posted: Condvar::new(),
            left: Condvar::new(),
            latest: AtomicU64::new(0),
        });
        let start = |index: usize| {
            let shared = shared.clone();
            std::thread::Builder::new()
                .name(format!("kernels-{index}"))
                .spawn(move || shared.serve())
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
            next: AtomicUsize::new(0),
            failed: AtomicBool::new(false),
            panic: Mutex::new(None),
        };
        shared.post(&job);
        job.work();
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
        lock(&shared.board).ended = true;
        shared.latest.store(u64::MAX, Ordering::Release);
        shared.posted.notify_all();
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
    fn post(&self, job: &Job<'_>) {
        let job = std::ptr::from_ref(job).cast::<Job<'static>>();
        let mut board = lock(&self.board);
        board.number += 1;
        board.job = Some(JobRef(job));
        self.latest.store(board.number, Ordering::Release);
        drop(board);
        self.posted.notify_all();
    }

    /// Takes the job down and waits until no worker is inside it.
    fn withdraw(&self) {
        let mut board = lock(&self.board);
        board.job = None;
        while board.inside > 0 {
            board = self
                .left
                .wait(board)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A worker's life.
    fn serve(&self) {
        let mut seen = 0;
        while let Some((number, job)) = self.wait(seen) {
            seen = number;
            if let Some(JobRef(job)) = job {
                // SAFETY: `wait` counted this worker in while the job was up, and the job's caller
                // keeps it until the count is 0 again.
                unsafe { &*job }.work();
                let mut board = lock(&self.board);
                board.inside -= 1;
                if board.inside == 0 {
                    self.left.notify_one();
                }
            }
        }
    }

    /// Waits for a job later than `seen`, looking for a while before sleeping, and enters it;
    /// `None` when the pool ends.
    fn wait(&self, seen: u64) -> Option<(u64, Option<JobRef>)> {
        let start = Instant::now();
        'patient: while self.latest.load(Ordering::Acquire) == seen {
            for _ in 0..64 {
                std::hint::spin_loop();
                if self.latest.load(Ordering::Acquire) != seen {
                    break 'patient;
                }
            }
            if start.elapsed() > PATIENCE {
                break;
            }
        }
        let mut board = lock(&self.board);
        while !board.ended && board.number == seen {
            board = self
                .posted
                .wait(board)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if board.ended {
            return None;
        }
        if board.job.is_some() {
            board.inside += 1;
        }
        Some((board.number, board.job))
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
                    counts[i].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1));
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
                sum.fetch_add(i * j, Ordering::Relaxed);
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
                            sum.fetch_add(i, Ordering::Relaxed);
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
            count.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(count.into_inner(), 100);
    }
}

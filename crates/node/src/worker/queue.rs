//! Bounds what a worker does at once: requests that it has taken, and models that run.

use std::sync::Arc;

use axum::{extract::FromRequestParts, http::request::Parts};
use lemma_types::Address;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{execute::error, http::Service};
use crate::{
    metrics as names,
    protocol::{ErrorBody, ErrorCode},
};

/// Places for requests, and threads for running models. Clones share it.
#[derive(Clone)]
pub(crate) struct Queue {
    places: Arc<Semaphore>,
    capacity: usize,
    threads: Arc<Semaphore>,
    worker: Arc<str>,
}

/// A place for one request, from before its body is read until its answer is made. Whoever goes away gives it up.
pub(crate) struct Place {
    queue: Queue,
    permit: Option<OwnedSemaphorePermit>,
}

/// A thread to run a model on.
pub(crate) struct Thread {
    _permit: OwnedSemaphorePermit,
}

impl Queue {
    /// `threads` models run at once, and `waiting` further requests may wait.
    pub(crate) fn new(threads: usize, waiting: usize, worker: Address) -> Self {
        let capacity = threads.saturating_add(waiting).min(Semaphore::MAX_PERMITS);
        Self {
            places: Arc::new(Semaphore::new(capacity)),
            capacity,
            threads: Arc::new(Semaphore::new(threads)),
            worker: worker.to_string().into(),
        }
    }

    /// A place, or an error at once if there is none.
    pub(crate) fn place(&self) -> Result<Place, ErrorBody> {
        let permit = Arc::clone(&self.places).try_acquire_owned().map_err(|_| {
            let message = format!(
                "{} requests wait already: try again in a moment",
                self.capacity
            );
            error(ErrorCode::Busy, message)
        })?;
        self.gauge();
        Ok(Place {
            queue: self.clone(),
            permit: Some(permit),
        })
    }

    /// Waits for a thread. Move it to where the work is done: a run that nobody waits for any more still occupies it.
    pub(crate) async fn thread(&self) -> Result<Thread, ErrorBody> {
        let permit = Arc::clone(&self.threads).acquire_owned().await;
        let stopping = |_| error(ErrorCode::Stopping, "the worker is stopping");
        permit
            .map(|permit| Thread { _permit: permit })
            .map_err(stopping)
    }

    fn gauge(&self) {
        let taken = self.capacity - self.places.available_permits();
        metrics::gauge!(names::QUEUE_DEPTH, "worker" => self.worker.to_string()).set(taken as f64);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(self.permit.take());
        self.queue.gauge();
    }
}

/// Taken before the body is read, so that bodies of requests without a place cost no memory.
impl FromRequestParts<Arc<Service>> for Place {
    type Rejection = ErrorBody;

    async fn from_request_parts(_: &mut Parts, service: &Arc<Service>) -> Result<Self, ErrorBody> {
        service.executor.queue.place()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn places_are_bounded_and_given_back() {
        let queue = Queue::new(1, 2, Address::ZERO);
        let places: Vec<_> = (0..3)
            .map(|_| queue.place().unwrap_or_else(|_| panic!("there are three")))
            .collect();
        assert!(matches!(
            queue.place(),
            Err(ErrorBody {
                code: ErrorCode::Busy,
                ..
            })
        ));
        drop(places);
        assert!(queue.place().is_ok());
    }

    #[tokio::test]
    async fn whoever_stops_waiting_for_a_thread_leaves_the_queue() {
        let queue = Queue::new(1, 2, Address::ZERO);
        let running = queue
            .thread()
            .await
            .unwrap_or_else(|_| panic!("it is free"));
        {
            let mut gives_up = Box::pin(queue.thread());
            assert!(futures::poll!(&mut gives_up).is_pending());
        }
        let mut waits = Box::pin(queue.thread());
        assert!(futures::poll!(&mut waits).is_pending());
        drop(running);
        assert!(
            futures::poll!(&mut waits).is_ready(),
            "nobody is before it any more"
        );
    }
}

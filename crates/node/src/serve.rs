//! Every server of a node: so many connections, so much time for a request's head, and an end that lets requests in flight finish.

use std::{future::Future, io, pin::pin, sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
    time::sleep,
};

/// Bounds on what strangers can hold open.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    /// Connections at the same time; others wait in the system's queue.
    connections: usize,
    /// Time for the head of a request, and between two requests of a connection.
    head: Duration,
    /// Buffer for the head of a request, bytes.
    buffer: usize,
}

const BOUNDS: Bounds = Bounds {
    connections: 1024,
    head: Duration::from_secs(30),
    buffer: 64 << 10,
};

/// Pause after the system gave no connection, which is mostly for want of file descriptors.
const PAUSE: Duration = Duration::from_millis(500);

/// Serves until `shutdown` resolves and the requests in flight are answered. Dropping the future cuts them off.
///
/// # Errors
/// The socket's.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    serve_within(BOUNDS, listener, router, shutdown).await
}

async fn serve_within(
    bounds: Bounds,
    listener: TcpListener,
    router: Router,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let slots = Arc::new(Semaphore::new(bounds.connections));
    let (stop, stopped) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let (stream, slot) = tokio::select! {
            accepted = accept(&listener, &slots) => accepted,
            () = &mut shutdown => break,
        };
        // Those that have ended are forgotten.
        while connections.try_join_next().is_some() {}
        connections.spawn(connection(
            bounds,
            stream,
            router.clone(),
            stopped.clone(),
            slot,
        ));
    }
    drop(listener);
    // Nobody listens if there is no connection.
    let _ = stop.send(true);
    while connections.join_next().await.is_some() {}
    Ok(())
}

/// The next connection, once there is a slot for it.
async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> (TcpStream, Option<OwnedSemaphorePermit>) {
    // The semaphore is never closed.
    let slot = Arc::clone(slots).acquire_owned().await.ok();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return (stream, slot),
            Err(error) if is_the_clients(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "no connection can be accepted");
                sleep(PAUSE).await;
            }
        }
    }
}

/// The client went away before it was served.
fn is_the_clients(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset
    )
}

async fn connection(
    bounds: Bounds,
    stream: TcpStream,
    router: Router,
    mut stopped: watch::Receiver<bool>,
    slot: Option<OwnedSemaphorePermit>,
) {
    // An answer must not wait for the acknowledgement of the one before. It is an optimisation, so failing is no matter.
    let _ = stream.set_nodelay(true);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.head)
        .max_buf_size(bounds.buffer)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = pin!(connection);
    let told = async {
        // A dropped sender means the same.
        let _ = stopped.wait_for(|stop| *stop).await;
    };
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = told => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection broke");
    }
    drop(slot);
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use axum::routing::get;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        sync::oneshot,
        task::JoinHandle,
    };

    use super::*;

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";

    struct Server {
        address: SocketAddr,
        stop: oneshot::Sender<()>,
        task: JoinHandle<io::Result<()>>,
    }

    async fn server(bounds: Bounds, router: Router) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let shutdown = async { stopped.await.unwrap() };
        let task = tokio::spawn(serve_within(bounds, listener, router, shutdown));
        Server {
            address,
            stop,
            task,
        }
    }

    async fn rest(stream: &mut TcpStream) -> String {
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn a_head_that_never_ends_is_cut_off() {
        let head = Duration::from_millis(50);
        let server = server(Bounds { head, ..BOUNDS }, Router::new()).await;
        let mut slow = TcpStream::connect(server.address).await.unwrap();
        slow.write_all(b"GET / HTTP/1.1\r\nhost:").await.unwrap();
        let answer = rest(&mut slow).await;
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 408"),
            "{answer}"
        );
    }

    #[tokio::test]
    async fn a_large_head_is_refused() {
        let server = server(BOUNDS, Router::new()).await;
        let mut large = TcpStream::connect(server.address).await.unwrap();
        let mut head = b"GET / HTTP/1.1\r\nx: ".to_vec();
        head.resize(BOUNDS.buffer + (1 << 20), b'a');
        // The server may hang up before it was all sent.
        let _ = large.write_all(&head).await;
        let mut answer = Vec::new();
        let _ = large.read_to_end(&mut answer).await;
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 431"));
    }

    #[tokio::test]
    async fn the_end_waits_for_requests_and_not_for_idle_connections() {
        let (begin, begun) = oneshot::channel();
        let (finish, finished) = oneshot::channel::<()>();
        let once = Arc::new(tokio::sync::Mutex::new(Some((begin, finished))));
        let slow = move || async move {
            let (begin, finished) = once.lock().await.take().unwrap();
            begin.send(()).unwrap();
            finished.await.unwrap();
            "done"
        };
        let server = server(BOUNDS, Router::new().route("/", get(slow))).await;
        let mut idle = TcpStream::connect(server.address).await.unwrap();
        let mut busy = TcpStream::connect(server.address).await.unwrap();
        busy.write_all(REQUEST).await.unwrap();
        begun.await.unwrap();
        server.stop.send(()).unwrap();
        assert_eq!(rest(&mut idle).await, "", "an idle connection is closed");
        assert!(!server.task.is_finished());
        finish.send(()).unwrap();
        assert!(rest(&mut busy).await.ends_with("done"));
        server.task.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn connections_beyond_the_bound_wait_their_turn() {
        let bounds = Bounds {
            connections: 1,
            ..BOUNDS
        };
        let server = server(bounds, Router::new().route("/", get(|| async { "hello" }))).await;
        let mut first = TcpStream::connect(server.address).await.unwrap();
        first.write_all(REQUEST).await.unwrap();
        let mut some = [0; 15];
        first.read_exact(&mut some).await.unwrap();
        let mut second = TcpStream::connect(server.address).await.unwrap();
        second
            .write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            .await
            .unwrap();
        drop(first);
        assert!(rest(&mut second).await.ends_with("hello"));
    }
}

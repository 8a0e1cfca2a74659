//! Listeners of this process's own servers.

use std::net::SocketAddr;

use axum::serve::{Listener, ListenerExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Connections that send what they have at once. By default a small piece waits until the one before it is acknowledged,
/// which takes receivers up to 40 ms: a token of an answer is a small piece.
pub(crate) fn undelayed(listener: TcpListener) -> impl Listener<Io = TcpStream, Addr = SocketAddr> {
    listener.tap_io(|stream| {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "small pieces will be sent late");
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn accepted_connections_send_small_pieces_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut listener = undelayed(listener);
        let address = listener.local_addr().unwrap();
        let client = TcpStream::connect(address);
        let (client, (server, _)) = tokio::join!(client, listener.accept());
        assert!(client.is_ok());
        assert!(server.nodelay().unwrap());
    }
}

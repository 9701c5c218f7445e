//! The sockets of cluster DNS: UDP answered in place, TCP by a task per connection, other people's
//! names by a task per question.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::Dns;
use super::wire::{Step, Transport};

/// Connections at once.
const MOST_CONNECTIONS: usize = 256;
/// A connection that says nothing for so long is closed.
const IDLE: Duration = Duration::from_secs(10);
/// More than any question has.
const MOST_BYTES: usize = 4096;

/// Both sockets of one address.
pub(super) struct Sockets {
    udp: UdpSocket,
    tcp: TcpListener,
}

impl Sockets {
    pub(super) async fn bind(address: SocketAddr) -> io::Result<Sockets> {
        let tcp = TcpListener::bind(address).await?;
        Ok(Sockets { udp: UdpSocket::bind(tcp.local_addr()?).await?, tcp })
    }

    #[cfg(test)]
    pub(super) fn address(&self) -> SocketAddr {
        self.tcp.local_addr().unwrap()
    }

    /// Answers until a socket fails.
    pub(super) async fn serve(self, dns: Arc<Dns>) -> io::Error {
        tokio::select! {
            error = datagrams(Arc::new(self.udp), Arc::clone(&dns)) => error,
            error = connections(self.tcp, dns) => error,
        }
    }
}

async fn datagrams(socket: Arc<UdpSocket>, dns: Arc<Dns>) -> io::Error {
    let mut buffer = vec![0; MOST_BYTES];
    loop {
        let (length, from) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            // What an earlier answer met on its way; the socket itself is fine.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
            Err(error) => return error,
        };
        let packet = buffer.get(..length).unwrap_or_default();
        match dns.step(packet, Transport::Udp) {
            Step::Silence => {}
            // An answer that cannot be sent is lost as any datagram may be; the client asks again.
            Step::Reply(reply) => drop(socket.send_to(&reply, from).await),
            Step::Forward(request) => {
                let (socket, dns) = (Arc::clone(&socket), Arc::clone(&dns));
                tokio::spawn(async move {
                    let reply = dns.forward(&request).await;
                    drop(socket.send_to(&reply, from).await);
                });
            }
        }
    }
}

async fn connections(listener: TcpListener, dns: Arc<Dns>) -> io::Error {
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return io::Error::other("the semaphore was closed");
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let dns = Arc::clone(&dns);
                tokio::spawn(async move {
                    // It ends when the client goes, or keeps silent: no news in either.
                    let _ = connection(stream, &dns).await;
                    drop(place);
                });
            }
            // Descriptors run out, a client was gone before: not for ever.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

/// Questions one after the other, each after two bytes of length.
async fn connection(mut stream: TcpStream, dns: &Dns) -> io::Result<()> {
    loop {
        let length = usize::from(timeout(IDLE, stream.read_u16()).await??);
        if length > MOST_BYTES {
            return Ok(());
        }
        let mut packet = vec![0; length];
        timeout(IDLE, stream.read_exact(&mut packet)).await??;
        let reply = match dns.step(&packet, Transport::Tcp) {
            Step::Silence => return Ok(()),
            Step::Reply(reply) => reply,
            Step::Forward(request) => dns.forward(&request).await,
        };
        let length = u16::try_from(reply.len()).map_err(io::Error::other)?;
        timeout(IDLE, stream.write_all(&[&length.to_be_bytes(), reply.as_slice()].concat()))
            .await??;
    }
}

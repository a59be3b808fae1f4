//! Whether a process that listened at a UDP address is gone.

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use tokio::{net::UdpSocket, time::timeout};

/// Says whether nobody listens at `addr` any more: sends one datagram of one byte, which no protocol of ours takes for
/// anything, and waits for the system there to say that the port is closed (ICMP "port unreachable", RFC 792).
///
/// A process that is killed cannot say goodbye, but the system that it ran on lives and answers in its place. `false` proves
/// nothing: a firewall may be silent, a radio asleep. Since whoever is on the way could forge the answer, it may only be
/// believed of a peer that is silent anyway.
pub async fn is_port_closed(addr: SocketAddr, patience: Duration) -> bool {
    let unspecified: SocketAddr = match addr {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let knock = async {
        let socket = UdpSocket::bind(unspecified).await?;
        // Only a connected socket is told of what ICMP says.
        socket.connect(addr).await?;
        socket.send(&[0]).await?;
        socket.recv(&mut [0; 1]).await
    };
    matches!(timeout(patience, knock).await, Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_closed_port_is_told_from_one_that_is_silent() {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let addr = socket.local_addr().unwrap();
        assert!(!is_port_closed(addr, Duration::from_millis(20)).await);
        drop(socket);
        assert!(is_port_closed(addr, Duration::from_secs(10)).await);
    }
}

//! How both sides set up their QUIC endpoint.
//!
//! The values were chosen by measurement; each says what it is for. All memory that a peer can
//! make us hold is bounded here: streams, windows, handshakes.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use quinn::congestion::CubicConfig;
use quinn::{
    AckFrequencyConfig, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt,
};
use socket2::{Domain, Protocol, Socket, Type};

/// The UDP port of a cache server, unless another is given.
pub const PORT_DEFAULT: u16 = 7167;

/// Data streams that a client may have open on one connection, the control stream aside.
pub const DATA_STREAMS_MAX: u32 = 8;

/// The largest datagram that is tried. quinn sends up to ten of them in one system call, which
/// may carry 65,507 bytes at most; above that the kernel refuses the whole batch (EMSGSIZE) and
/// nothing arrives. One datagram of this size holds a block with everything round it.
const DATAGRAM_BYTES_MAX: u16 = 6500;

/// Receive and send buffer of the UDP socket. The usual 208 KiB lose packets at full speed.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;

/// What may be under way on one connection towards the receiver, over all its streams.
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
const STREAM_WINDOW_BYTES: u32 = 8 << 20;

/// The congestion window to start with. The default stalls with large datagrams.
const INITIAL_WINDOW_BYTES: u64 = 1 << 20;

/// So many packets may come before they are acknowledged by a packet of its own. An answer acknowledges its request and the next
/// request that answer, and so with one short request at a time nobody is woken for an acknowledgement alone.
const UNACKNOWLEDGED_MAX: u32 = 8;

/// Datagrams, in which servers gossip, that wait to be read. Further ones are lost.
const DATAGRAMS_BYTES: usize = 64 << 10;

/// A peer not heard of for this long is gone; a keep-alive is sent at a third of it.
const IDLE_TIMEOUT: Duration = Duration::from_secs(9);

/// The same, before it is known that the peer belongs to the pool.
const STRANGER_WINDOW_BYTES: u32 = 64 << 10;

/// How data, windows and timeouts are handled on every connection.
pub fn transport_config() -> Arc<TransportConfig> {
    Arc::new(transport(CONNECTION_WINDOW_BYTES))
}

/// The same for those of whom it is not known yet that they belong to the pool. When it is: [`welcome`].
pub fn transport_config_for_strangers() -> Arc<TransportConfig> {
    Arc::new(transport(STRANGER_WINDOW_BYTES))
}

/// Gives a connection the window of those who belong to the pool.
pub fn welcome(connection: &quinn::Connection) {
    connection.set_receive_window(VarInt::from_u32(CONNECTION_WINDOW_BYTES));
}

fn transport(receive_window: u32) -> TransportConfig {
    let mut transport = TransportConfig::default();
    let mut congestion = CubicConfig::default();
    congestion.initial_window(INITIAL_WINDOW_BYTES);
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(DATAGRAM_BYTES_MAX);
    let mut acknowledge = AckFrequencyConfig::default();
    acknowledge.ack_eliciting_threshold(VarInt::from_u32(UNACKNOWLEDGED_MAX));
    transport
        .congestion_controller_factory(Arc::new(congestion))
        .mtu_discovery_config(Some(mtu))
        .ack_frequency_config(Some(acknowledge))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(receive_window))
        .send_window(u64::from(CONNECTION_WINDOW_BYTES))
        .max_concurrent_bidi_streams(VarInt::from_u32(DATA_STREAMS_MAX + 1))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(Some(DATAGRAMS_BYTES))
        .datagram_send_buffer_size(DATAGRAMS_BYTES)
        .max_idle_timeout(Some(
            IdleTimeout::try_from(IDLE_TIMEOUT).expect("seconds fit into 62 bits of milliseconds"),
        ))
        .keep_alive_interval(Some(IDLE_TIMEOUT / 3));
    transport
}

/// What the endpoint accepts from the network.
pub fn endpoint_config() -> EndpointConfig {
    let mut config = EndpointConfig::default();
    config.max_udp_payload_size(DATAGRAM_BYTES_MAX).expect("between 1,200 and 65,527");
    config
}

/// A UDP socket bound to `address` with buffers as large as the kernel allows.
///
/// # Errors
/// Those of bind(2): the address is not ours, or the port is in use.
pub fn bind(address: SocketAddr) -> io::Result<BoundSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    // A kernel with lower limits grants less without an error; `buffer_bytes` says how much.
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER_BYTES);
    socket.bind(&address.into())?;
    // The kernel reports twice what it grants, to cover its own bookkeeping.
    let granted = socket.recv_buffer_size()?.min(socket.send_buffer_size()?) / 2;
    Ok(BoundSocket { socket: socket.into(), buffer_bytes: granted })
}

/// A socket, and what the kernel granted it.
#[derive(Debug)]
pub struct BoundSocket {
    /// Bound, ready for quinn.
    pub socket: UdpSocket,
    buffer_bytes: usize,
}

impl BoundSocket {
    /// What to tell the administrator when the kernel's limits are too low for full speed.
    pub fn hint(&self) -> Option<String> {
        (self.buffer_bytes < SOCKET_BUFFER_BYTES).then(|| {
            format!(
                "the kernel grants UDP buffers of {} KiB only; for full speed: \
                 sysctl -w net.core.rmem_max={SOCKET_BUFFER_BYTES} net.core.wmem_max={SOCKET_BUFFER_BYTES}",
                self.buffer_bytes / 1024
            )
        })
    }
}

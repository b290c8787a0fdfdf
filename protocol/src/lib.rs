//! What rampool's client and its cache servers share: the words on the wire, their limits, how
//! an endpoint is set up and who may talk to whom.
//!
//! A connection is QUIC with mutual TLS. The client opens one control stream ([`control`]) and
//! says hello; after the welcome it opens a few long-lived data streams, on which requests for
//! blocks and their answers are pipelined ([`frame`]). Nothing here does I/O on its own.

pub mod block;
pub mod certs;
pub mod control;
pub mod endpoint;
pub mod frame;

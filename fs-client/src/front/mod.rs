//! The front: how requests come in.
//!
//! Only the transport ([`fuse`]) knows fuser's types; it decodes, calls the filesystem and
//! replies. What it calls would serve another transport as well.

mod convert;
pub(crate) mod fuse;
mod parts;
mod session;

pub(crate) use parts::Device;

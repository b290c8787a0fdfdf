//! The front: how requests come in, and the tables of what the kernel knows.
//!
//! Only the transport ([`fuse`]) knows fuser's types; it decodes, calls the filesystem and
//! replies. What it calls would serve another transport as well.

mod convert;
pub(crate) mod fuse;
mod handles;
mod inodes;
mod parts;
mod session;

pub(crate) use handles::{FileHandle, HandleId, Handles};
pub(crate) use inodes::{Inode, Inodes, NodeId};
pub(crate) use parts::Device;

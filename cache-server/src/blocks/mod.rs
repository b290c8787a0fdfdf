//! Where blocks are kept: segments of lent memory, and the index that finds them.
//!
//! `store` composes the other three, which know nothing of each other's business: `memory` is
//! the region itself, `segments` who uses which part of it, `index` which block lies where.

mod index;
mod memory;
mod segments;
mod store;
mod zeroed;

/// A block takes one page.
pub(crate) const PAGE_BYTES: usize = rampool_protocol::block::BLOCK_SIZE;

pub(crate) use segments::{SEGMENT_BYTES, SEGMENTS_MAX};
pub(crate) use store::Store;

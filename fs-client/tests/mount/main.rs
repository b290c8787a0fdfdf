//! Tests on real mounts: each starts the real programs and uses the mount as an application
//! would. They need /dev/fuse, and the workspace's programs built (`make test` does it).
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on fails, and the helpers are not tests to the lint"
)]

mod actions;
mod bad_input;
mod behind;
mod broken;
mod cache;
mod crash;
mod ends;
mod kept;
mod liar;
mod lies;
mod mapped;
mod members;
mod own;
mod parallel;
mod pool;
mod posix;
mod servers;
mod sources;
mod space;
mod support;
mod tree;
mod user;
mod usual;
mod watched;

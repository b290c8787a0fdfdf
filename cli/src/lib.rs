//! What the programs share towards those who run them.
//!
//! Command lines and configuration files ([`config`]), manuals and completions made from them ([`generate`]), logs
//! ([`log`]), what goes to stdout ([`show`]), what a service manager is told ([`service`]), and how a running daemon is found and tells about
//! itself ([`daemon`], [`status`], [`metrics`]), in which memory they run ([`cgroup`]); and how sizes, times and errors are written ([`size`], [`seconds`],
//! [`plain`]).

pub mod cgroup;
pub mod config;
pub mod daemon;
pub mod generate;
pub mod log;
pub mod metrics;
pub mod mountinfo;
pub mod plain;
pub mod seconds;
pub mod service;
pub mod show;
pub mod size;
pub mod status;

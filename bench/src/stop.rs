//! Ctrl-C and SIGTERM: a flag that every loop looks at, so that guards can clean up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, bail};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// Whether somebody asked us to end. Clones share the flag.
#[derive(Clone, Default)]
pub(crate) struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Catches SIGINT, SIGTERM and SIGHUP from here on.
    pub(crate) fn install() -> Result<Self> {
        let stop = Self::default();
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register(signal, stop.0.clone())
                .context("cannot catch signals, so nothing could be cleaned up; not starting")?;
        }
        Ok(stop)
    }

    /// Whether to end.
    pub(crate) fn requested(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// An error when it is time to end, for `?` in loops.
    pub(crate) fn check(&self) -> Result<()> {
        if self.requested() {
            bail!("interrupted; everything that was started has been ended");
        }
        Ok(())
    }
}

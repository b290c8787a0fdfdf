//! What is told to a service manager that wants to know (systemd's `Type=notify`). Without one nothing happens.

use std::time::Duration;

use sd_notify::NotifyState;

/// The service does its work from here on, or does it again, after [`reloads`].
pub fn is_ready() {
    tell(&[NotifyState::Ready]);
}

/// The configuration is read again.
pub fn reloads() {
    let now = NotifyState::monotonic_usec_now();
    match now {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(_) => tell(&[NotifyState::Reloading]),
    }
}

/// The service ends by itself.
pub fn ends() {
    tell(&[NotifyState::Stopping]);
}

/// It is alive.
pub fn is_alive() {
    tell(&[NotifyState::Watchdog]);
}

/// How often that is to be said: twice as often as somebody looks. None if nobody does.
pub fn alive_every() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|looks| looks / 2)
}

fn tell(what: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(what) {
        tracing::debug!(%error, "the service manager is not told");
    }
}

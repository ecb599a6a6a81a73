//! Signals: HUP reloads, USR1 reopens logs, TERM and INT end. QUIT does nothing, because one sent
//! by mistake must not end a gateway.

use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Read the configuration anew.
    Reload,
    /// Open the access log anew.
    Reopen,
    /// Finish running requests and end.
    End,
}

/// The signals that the process receives.
pub struct Signals {
    hangup: Stream,
    user1: Stream,
    terminate: Stream,
    interrupt: Stream,
    quit: Stream,
}

impl Signals {
    /// Takes the signals over from their default handling.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            user1: signal(SignalKind::user_defined1())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
        })
    }

    /// Waits for the next one.
    pub async fn next(&mut self) -> Signal {
        loop {
            tokio::select! {
                _ = self.hangup.recv() => return Signal::Reload,
                _ = self.user1.recv() => return Signal::Reopen,
                _ = self.terminate.recv() => return Signal::End,
                _ = self.interrupt.recv() => return Signal::End,
                _ = self.quit.recv() => tracing::warn!("SIGQUIT has no meaning here; SIGTERM ends the gateway"),
            }
        }
    }
}

//! The upgrade handshake, on the WebSocket a polling client wants to move to.

use super::{Packet, decode_text};

/// Until the client says `5`, a pending poll of its session is answered with a noop on every tick of this many
/// milliseconds after the probe was answered: the client waits for its last poll to return before it moves.
pub const NOOP_TICK_MS: u64 = 100;

/// The server's side of one upgrade. The session stays on polling unless this says [`ProbeStep::Done`]; the time
/// limit is the caller's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Probe {
    answered: bool,
}

/// What to do with a frame that came in during the upgrade.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeStep {
    /// Send this text frame, and start the [noop tick](NOOP_TICK_MS) if it is not running.
    Reply(&'static str),
    /// The session moves to this WebSocket.
    Done,
    /// Close this WebSocket. The session lives on, on polling.
    Refuse,
}

impl Probe {
    /// A WebSocket on which nothing has arrived yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { answered: false }
    }

    /// Whether a probe was answered, that is, whether the noop tick runs.
    #[must_use]
    pub const fn is_answered(self) -> bool {
        self.answered
    }

    /// A text frame arrived. Like a stock server this answers a second probe and takes a `5` without any.
    pub fn on_text(&mut self, frame: &str) -> ProbeStep {
        match decode_text(frame) {
            Ok(Packet::Ping("probe")) => {
                self.answered = true;
                ProbeStep::Reply("3probe")
            }
            Ok(Packet::Upgrade) => ProbeStep::Done,
            _ => ProbeStep::Refuse,
        }
    }

    /// A binary frame arrived: a message, and none may come before the upgrade.
    pub const fn on_binary(&mut self) -> ProbeStep {
        ProbeStep::Refuse
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_probes_and_moves() {
        let mut probe = Probe::new();
        assert!(!probe.is_answered());
        assert_eq!(probe.on_text("2probe"), ProbeStep::Reply("3probe"));
        assert!(probe.is_answered());
        assert_eq!(probe.on_text("5"), ProbeStep::Done);
    }

    #[test]
    fn a_second_probe_is_answered_and_none_is_needed() {
        let mut probe = Probe::new();
        assert_eq!(probe.on_text("2probe"), ProbeStep::Reply("3probe"));
        assert_eq!(probe.on_text("2probe"), ProbeStep::Reply("3probe"));
        assert_eq!(Probe::new().on_text("5"), ProbeStep::Done);
    }

    #[test]
    fn every_other_frame_is_refused_before_and_after_the_probe() {
        for frame in ["", "2", "2Probe", "2probe ", "3probe", "42[\"a\"]", "1", "6", "0{}", "probe", "bAQID"]
        {
            assert_eq!(Probe::new().on_text(frame), ProbeStep::Refuse, "{frame}");
            let mut probe = Probe::new();
            probe.on_text("2probe");
            assert_eq!(probe.on_text(frame), ProbeStep::Refuse, "{frame}");
        }
        assert_eq!(Probe::new().on_binary(), ProbeStep::Refuse);
    }
}

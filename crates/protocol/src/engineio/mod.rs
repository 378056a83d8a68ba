//! Engine.IO v4 (`EIO=4`): packets, polling payloads, the handshake request and its answer, the heartbeat and the
//! upgrade probe.
//!
//! Everything here works on what it is handed; sockets, sessions and clocks belong to the caller. Engine.IO v3
//! (`EIO=3`) is refused by [`admit`], never spoken.
//!
//! Wire format: the Engine.IO protocol, revision 4, and the behaviour of `engine.io` 6.6.12 where the text is silent.

mod heartbeat;
mod open;
mod packet;
pub mod payload;
mod probe;
mod request;

pub use heartbeat::{Beat, Heartbeat};
pub use open::{Open, OpenError, Opened};
pub use packet::{Packet, PacketType, ParseError, decode_text};
pub use probe::{NOOP_TICK_MS, Probe, ProbeStep};
pub use request::{Admission, Query, Refusal, Transport, admit};

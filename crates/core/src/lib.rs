//! The cluster's words and its ports.
//!
//! What nodes say to each other and about each other is defined here: ids, the publication, disconnect
//! reasons, error codes. Beside the words stand the ports that a node needs from the outside world; `memory`
//! implements them for nodes that share one process.
//!
//! Architecture Invariant: this crate knows neither Redis, nor a web server, nor the client's wire.

pub mod broker;
pub mod code;
pub mod ids;
pub mod memory;
pub mod offline;
pub mod publication;
pub mod reason;
pub mod registry;
pub mod request;

pub use broker::{Broker, Subscriber};
pub use code::ErrorCode;
pub use ids::{ClaimId, Incarnation, MessageId, Namespace, NodeId, RequestId, Room, SessionId};
pub use offline::OfflineStore;
pub use publication::{EVENTS_RESERVED, Flags, PRESENCE_EVENTS, Publication, Rooms, Topic};
pub use reason::DisconnectReason;
pub use registry::SessionRegistry;
pub use request::{Answer, Ask, Asker, RemoteSocket, Request, Selection};

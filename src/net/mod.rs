//! Bytes to and from other machines: addresses, one stream type for all transports, TLS.

pub mod address;
pub mod dial;
pub mod listen;
mod names;
mod owner;
pub mod private;
pub mod socket_file;
pub mod stream;
pub mod tls;

pub use address::Address;
pub use dial::{DialError, DialKind, Tls, dial};
pub use listen::Listener;
pub use stream::Stream;

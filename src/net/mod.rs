//! Bytes to and from other machines: addresses, one stream type for all transports, TLS.

pub mod listen;
pub mod stream;
pub mod tls;

pub use listen::Listener;
pub use stream::Stream;

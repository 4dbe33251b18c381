//! Peers: HTTP, WebSockets after the handshake, outgoing mail.

pub mod http;
pub mod mail;
pub mod sockets;
